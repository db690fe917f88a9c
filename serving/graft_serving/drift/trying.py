"""Try something again, a bounded number of times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from graft_serving.backoff import Backoff
from graft_serving.drift.problem import NotMeasuredError

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Trying:
    """
    One pause after another between tries of one thing.

    `away` is what a try raises that another one may help against. Whatever else it raises is raised at once.
    """

    def __init__(self, tries: int, away: type[Exception], backoff: Callable[[], Backoff], sleep: Sleep = asyncio.sleep) -> None:
        self._tries = tries
        self._away = away
        self._backoff = backoff
        self._sleep = sleep

    async def do(self, what: Callable[[], Awaitable[T]], problem: str) -> T:
        """Return what `what` returns, at the latest in the last try. Raises `NotMeasuredError`: `problem`, tries and the last reason."""
        backoff = self._backoff()
        for attempt in range(1, self._tries + 1):
            try:
                return await what()
            except self._away as away:
                if attempt == self._tries:
                    raise NotMeasuredError(f"{problem} in {attempt} attempts: {away}") from away
            await self._sleep(backoff.next())
        raise AssertionError("there is at least one attempt")
