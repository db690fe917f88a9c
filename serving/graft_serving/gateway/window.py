"""Counts of the last seconds: a ring of one bucket a second, and their sum. Counting allocates nothing."""

from __future__ import annotations

import math

_REQUESTS, _ERRORS, _SLOW = range(3)


class Window:
    """
    Holds what was counted within the last `seconds`, and up to one second more: buckets begin with whole seconds.

    Times are the event loop's, and never go back.
    """

    __slots__ = ("_at", "_bucket", "_buckets", "_until", "errors", "requests", "slow")

    def __init__(self, seconds: int, now: float) -> None:
        self._buckets = [[0, 0, 0] for _ in range(seconds + 1)]
        self._at = 0
        self._bucket = self._buckets[0]
        self._until = math.floor(now) + 1.0
        self.requests = 0
        self.errors = 0
        self.slow = 0

    def add(self, now: float, *, error: bool, slow: bool) -> None:
        """Count one request that has ended."""
        if now >= self._until:
            self.turn(now)
        bucket = self._bucket
        bucket[_REQUESTS] += 1
        self.requests += 1
        if error:
            bucket[_ERRORS] += 1
            self.errors += 1
        if slow:
            bucket[_SLOW] += 1
            self.slow += 1

    def turn(self, now: float) -> None:
        """Forget what is too old by now."""
        passed = math.floor(now - self._until) + 1
        if passed <= 0:
            return
        self._until += passed
        for _ in range(min(passed, len(self._buckets))):
            self._at = (self._at + 1) % len(self._buckets)
            self._forget(self._buckets[self._at])
        self._bucket = self._buckets[self._at]

    def _forget(self, bucket: list[int]) -> None:
        self.requests -= bucket[_REQUESTS]
        self.errors -= bucket[_ERRORS]
        self.slow -= bucket[_SLOW]
        bucket[:] = (0, 0, 0)
