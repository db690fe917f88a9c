"""
What a lane writes down, and when: an open segment, and the chain that it goes to.

Whatever becomes of an exchange goes into the open segment in the same step of the event loop in which its number is settled, and a
segment is sealed in one step together with the numbers that are settled by then: neither can be written without the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from graft_api.collect import Segments
from graft_serving.backoff import Backoff
from graft_serving.collector.chain import IDLE_SECONDS, Chain
from graft_serving.collector.commits import Progress, Sealed, Sum
from graft_serving.collector.frames import Exchange
from graft_serving.collector.numbers import Numbers
from graft_serving.collector.observed_time import ObservedTime
from graft_serving.collector.store import StoreAwayError
from graft_serving.trouble import Trouble

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
REMIND_SECONDS = 60.0
SWEEP_SECONDS = 3600.0
STORE = "store"
"""Without it nothing that is observed is sure to count."""
CLOCK_LEEWAY_SECONDS = 3600.0
"""By which a clock may be set forward and is believed at once."""
TIMES: dict[str, Any] = {"observed_seconds": True, "numbers": {"boots": {"__all__": {"heard"}}}}
"""Of `Progress`: what changes though nothing comes, for gateways send empty batches."""

S = TypeVar("S", bound=Sum)


class Open(Protocol[S]):
    """A segment that is filled."""

    size: int
    """Bytes, about."""

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""

    def seal(self, began: float, ended: float, progress: Progress) -> Sealed[S]:
        """Return it as it is written. Runs in a thread, once, when nothing is added any more."""


O = TypeVar("O", bound=Open)  # type: ignore[type-arg]  # noqa: E741 - the segment's own class, for those that fill it


@dataclass(frozen=True)
class Clock:
    """Seconds since 1970, which may jump, and seconds that only grow."""

    now: Callable[[], float]
    monotonic: Callable[[], float]


class Journal(Generic[O]):
    """Of one lane. `resume` first."""

    def __init__(self, chain: Chain[Sum], settings: Segments, opened: Callable[[], O], clock: Clock) -> None:
        self.chain = chain
        self.numbers = Numbers()
        self.open = opened()
        self.lost: Counter[str] = Counter()
        """Left out here, by cause."""
        self.spent: Callable[[], dict[str, int]] = dict
        """What scorers with a budget have asked so far, by metric."""
        self.arrived = 0
        self.ours = 0
        self.store_away = False
        self.clock = clock
        self._settings = settings
        self._opened = opened
        self.observed = ObservedTime(clock.monotonic)
        self._began = clock.monotonic()
        self._started = (clock.now(), self._began)
        self._full = asyncio.Event()
        self._swapped = asyncio.Event()
        self._committing = asyncio.Lock()
        self._swept: float | None = None
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, Random())  # noqa: S311 - spreads load
        self._trouble = Trouble("writing down what was measured", REMIND_SECONDS)

    async def resume(self) -> None:
        """Go on where the last commit ends; waits for a store that is away. Raises `DamagedError`."""
        await self._insist(self.chain.resume)
        progress = self.chain.total.progress
        self.numbers = Numbers(progress.numbers)
        self.lost = Counter(progress.lost)
        self.arrived, self.ours = progress.arrived, progress.ours
        self.observed.restart(max(progress.observed_seconds, self.chain.noted_seconds))
        self._began = self.clock.monotonic()
        logger.info("goes on after commit %d", self.chain.total.sequence)

    def take(self, exchange: Exchange) -> bool:
        """Whether it is new."""
        new = self.numbers.take(exchange.boot, exchange.head.number)
        self.arrived += new
        return new

    def settle(self, exchange: Exchange) -> None:
        """What became of it is in the open segment, or in the counts here."""
        self.numbers.settle(exchange.boot, exchange.head.number)
        if self.open.size >= self._settings.bytes:
            self._full.set()

    def lose(self, exchange: Exchange, cause: str) -> None:
        """It is left out."""
        self.lost[cause] += 1
        self.settle(exchange)

    async def room(self) -> None:
        """Wait while the open segment is full and its forerunner not yet written: that is how a store that is away bounds memory."""
        while self.open.size >= self._settings.bytes:
            self._full.set()
            self._swapped.clear()
            await self._swapped.wait()

    async def run(self, committed: Callable[[], None]) -> None:
        """
        Seal and commit until cancelled, or note the time where there is nothing else. Raises `FencedError`.

        `committed` is called in a thread, after each of them.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.seconds):
                    await self._full.wait()
            if self._idle():
                await self._note(committed)
            else:
                await self.commit(committed)

    def _idle(self) -> bool:
        """Whether a commit would say nothing but the time, and the last one is not long ago. The first one says whose the store is."""
        known, now = self.chain.total.progress, self.progress()
        if not self.chain.total.sequence or not self.open.empty or now.observed_seconds - known.observed_seconds > IDLE_SECONDS:
            return False
        return now.model_dump(exclude=TIMES) == known.model_dump(exclude=TIMES)

    async def _note(self, committed: Callable[[], None]) -> None:
        """The segment stays open: what comes meanwhile is in it."""
        async with self._committing:
            seconds = self.observed.seconds
            await self._insist(lambda: self.chain.note(seconds))
            await asyncio.to_thread(committed)

    async def commit(self, committed: Callable[[], None]) -> None:
        """Write down what there is. Raises `FencedError`."""
        async with self._committing:
            segment, progress, began, ended = self._seal()
            sealed = await asyncio.to_thread(segment.seal, began, ended, progress)
            await self._insist(lambda: self.chain.commit(sealed))
            await asyncio.to_thread(committed)
            await self._tidy()

    def progress(self) -> Progress:
        """Return what is settled at this moment, and how much is not."""
        return Progress(
            numbers=self.numbers.state(),
            observed_seconds=self.observed.seconds,
            lost=dict(self.lost),
            spent=self.spent(),
            arrived=self.arrived,
            ours=self.ours,
        )

    def _seal(self) -> tuple[O, Progress, float, float]:
        """Nothing waits in here: segment and numbers are of one moment. A segment is as long as it was open, whatever the clock did."""
        now, monotonic = self.clock.now(), self.clock.monotonic()
        began, self._began = now - (monotonic - self._began), monotonic
        segment, self.open = self.open, self._opened()
        self._full.clear()
        self._swapped.set()
        return segment, self.progress(), began, now

    async def _insist(self, act: Callable[[], None]) -> None:
        began = self.clock.monotonic()
        while True:
            try:
                await asyncio.to_thread(act)
            except StoreAwayError as error:
                self.store_away = True
                self.observed.lacks(STORE, began)
                self._trouble.met(str(error))
                await asyncio.sleep(self._backoff.next())
                continue
            self.store_away = False
            self.observed.has(STORE)
            self._trouble.over()
            self._backoff.reset()
            return

    def _trusted(self, monotonic: float) -> float:
        """Return the time, but no more than has passed since the start: a clock that jumps must not make pairs old."""
        now, started = self.clock.now(), self._started
        return min(now, started[0] + (monotonic - started[1]) + CLOCK_LEEWAY_SECONDS)

    async def _tidy(self) -> None:
        """Once an hour, and after the first commit: what is too old, and what crashes have left behind."""
        now = self.clock.monotonic()
        if self._swept is not None and now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        days = self._settings.retention_days
        try:
            await asyncio.to_thread(self.chain.sweep)
            if days:
                await asyncio.to_thread(self.chain.forget, days, self._trusted(now))
        except StoreAwayError as error:
            self._trouble.met(str(error))
