"""Time that passes only when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from graft_operator.engine.controller import ReconcileMetrics
from graft_operator.engine.queue import WorkQueue


class FakeClock:
    """A clock whose sleepers wake in the order of their deadlines while a test advances it."""

    def __init__(self) -> None:
        self.start = datetime(2026, 11, 20, 12, tzinfo=UTC)
        self.elapsed = 0.0
        self.skew = timedelta()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed) + self.skew

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float, wakeup: asyncio.Event | None = None) -> None:
        alarm = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.elapsed + seconds, next(self._order), alarm))
        if wakeup is None:
            await alarm
            return
        woken = asyncio.ensure_future(wakeup.wait())
        try:
            await asyncio.wait({alarm, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await woken

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        end = self.elapsed + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            when, _, alarm = heapq.heappop(self._sleepers)
            self.elapsed = max(self.elapsed, when)
            if not alarm.done():
                alarm.set_result(None)
            await self.settle()
        self.elapsed = end
        await self.settle()


class MiddleRandom(Random):
    """No surprises: jitter takes a quarter off every back-off, and `uniform` gives its middle."""

    def random(self) -> float:
        return 0.5


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def random() -> Random:
    return MiddleRandom()


@pytest.fixture
def queue(clock: FakeClock, random: Random) -> WorkQueue:
    return WorkQueue(clock, random)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> ReconcileMetrics:
    return ReconcileMetrics(registry)


@pytest.fixture
async def background() -> Any:
    """Start something that runs for ever; it is cancelled when the test is over, and what it raised is raised."""
    tasks: list[asyncio.Task[Any]] = []

    def start(coroutine: Any) -> asyncio.Task[Any]:
        tasks.append(asyncio.ensure_future(coroutine))
        return tasks[-1]

    starter: Callable[[Any], asyncio.Task[Any]] = start
    yield starter
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
