"""The end of a server pod: no new request, then what is in flight, then the containers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from graft_serving.agent.vllm import VllmAwayError, VllmGoneError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
SETTLE_SECONDS = 3.0
"""At least: gateways hear of it by the long poll, others when the EndpointSlice has changed."""
LINGER_SECONDS = 1.0
"""For the hooks of the other containers to get their answer before the agent itself goes."""


class Drain:
    """`run` is called once, when the pod is asked to go; hooks wait for `over`."""

    def __init__(self, begin: Callable[[], None], in_flight: Callable[[], Awaitable[int]], seconds: float) -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        self._begin = begin
        self._in_flight = in_flight
        self._seconds = seconds

    async def run(self) -> None:
        """Say that the pod is going, and wait until nothing is in flight, at most as long as allowed."""
        self._begin()
        self.begun.set()
        try:
            async with asyncio.timeout(self._seconds):
                await asyncio.sleep(min(SETTLE_SECONDS, self._seconds / 2))
                while await self._busy():  # noqa: ASYNC110 - vLLM tells nobody by itself
                    await asyncio.sleep(LOOK_SECONDS)
            logger.info("drained")
        except TimeoutError:
            logger.warning("requests are still in flight after %g s; they are cut off", self._seconds)
        self.over.set()
        await asyncio.sleep(LINGER_SECONDS)

    async def _busy(self) -> bool:
        try:
            return await self._in_flight() > 0
        except VllmGoneError:
            return False
        except VllmAwayError:  # too busy to say, as likely as not
            return True
