"""
A work queue in the manner of client-go, for one event loop.

A key that is added while it waits is worked on once; a key that is added while it is worked on is worked on once more
afterwards, never twice at a time. Failures back off per key. Deadlines are timers of the queue, not tasks.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from graft_operator.engine.clock import Clock


@dataclass(frozen=True, order=True, slots=True)
class Key:
    """The object to work on. Says nothing about what has happened to it: the worker reads it afresh."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Backoff:
    """How long to wait after the n-th failure in a row: first * 2^n, at most `longest`, less up to half at random."""

    first: timedelta = timedelta(seconds=0.5)
    longest: timedelta = timedelta(minutes=5)

    def delay(self, failures: int, random: Random) -> timedelta:
        doubled: timedelta = self.first * 2 ** min(failures, 32)  # a timedelta has an end
        return min(doubled, self.longest) * (1 - random.random() / 2)


class QueueClosed(Exception):  # noqa: N818 -- says what the queue is; nothing is wrong
    """There will be no more keys."""


class WorkQueue:
    """Keys to work on. `run` must be running for deadlines and back-off to come due."""

    def __init__(self, clock: Clock, random: Random, backoff: Backoff = Backoff()) -> None:
        self._clock = clock
        self._random = random
        self._backoff = backoff
        self._ready: deque[Key] = deque()
        self._dirty: set[Key] = set()
        self._processing: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._wakeup = asyncio.Event()
        self._earlier = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __len__(self) -> int:
        """Keys that could be worked on now and wait for a worker."""
        return len(self._ready)

    def add(self, key: Key) -> None:
        """Work on it as soon as possible. Cannot fail; after `close` it does nothing."""
        if self._closed or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._ready.append(key)
            self._wakeup.set()

    def add_first(self, key: Key) -> None:
        """Work on it before all that waits."""
        self.add(key)
        if key in self._ready:
            self._ready.remove(key)
            self._ready.appendleft(key)

    def add_after(self, key: Key, delay: timedelta) -> None:
        """Work on it after `delay`. Of several deadlines of a key the earliest counts: working early is always safe."""
        when = self._clock.monotonic() + delay.total_seconds()
        if key in self._due and self._due[key] <= when:
            return
        self._due[key] = when
        heapq.heappush(self._timers, (when, next(self._order), key))
        self._earlier.set()

    def add_backoff(self, key: Key, at_least: timedelta = timedelta()) -> timedelta:
        """Work on it again after it failed; the delay doubles with every failure in a row until `forget`."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = max(self._backoff.delay(failures, self._random), at_least)
        self.add_after(key, delay)
        return delay

    def failures(self, key: Key) -> int:
        """Failures in a row so far."""
        return self._failures.get(key, 0)

    def forget(self, key: Key) -> None:
        """It went well: the next failure is the first."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key, which nobody else gets until `done` is called. Raises QueueClosed."""
        while not self._ready and not self._closed:
            self._wakeup.clear()
            await self._wakeup.wait()
        if self._closed:
            raise QueueClosed
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        self._idle.clear()
        return key

    def done(self, key: Key) -> None:
        """The worker is finished with it, well or not."""
        self._processing.discard(key)
        if key in self._dirty and not self._closed:
            self._ready.append(key)
            self._wakeup.set()
        if not self._processing:
            self._idle.set()

    def close(self) -> None:
        """Hand out no more keys. What waits is found again by the next leader, which lists everything."""
        self._closed = True
        self._wakeup.set()

    async def drained(self) -> None:
        """Return when nobody works on any key."""
        await self._idle.wait()

    async def run(self) -> None:
        """Add keys when they come due, for ever."""
        while True:
            self._earlier.clear()
            self._add_due()
            if self._timers:
                await self._clock.sleep(self._timers[0][0] - self._clock.monotonic(), self._earlier)
            else:
                await self._earlier.wait()

    def _add_due(self) -> None:
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            when, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == when:  # else an earlier deadline has replaced this one
                del self._due[key]
                self.add(key)
