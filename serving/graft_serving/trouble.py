"""Logging of what is tried again and again."""

import asyncio
import logging

logger = logging.getLogger(__name__)


class Trouble:
    """Says each thing that goes wrong once, reminds now and then, and says when all is over."""

    def __init__(self, what: str, remind: float) -> None:
        self._what = what
        self._remind = remind
        self._said: dict[str, float] = {}

    def met(self, problem: str) -> None:
        """Log `problem`, unless just that was logged a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._said.get(problem, -self._remind) >= self._remind:
            logger.warning("%s: %s; it is tried again", self._what, problem)
            self._said[problem] = now

    def over(self) -> None:
        """Log that it works again, if it did not."""
        if self._said:
            logger.info("%s: works again", self._what)
            self._said.clear()
