"""How much one client and one domain may ask of this replica (requests per minute, and at a time), and how much all together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from graft_serving.gateway.errors import Cause, Refusal

BURST_SECONDS = 10.0
"""A client that was quiet may ask for so many seconds' worth at once."""
FORGET_SECONDS = 300.0


VALUE_BYTES = 64
"""What Python takes for one value of a parsed body, at least: an empty list or a short string with its place in its parent."""


def most_values(raw: bytes) -> int:
    """Return how many JSON values a body may have at the most: what stands before one, within texts, too."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def parsed_bytes(raw: bytes) -> int:
    """Return what a body's values may take beside its own bytes once it is parsed."""
    return VALUE_BYTES * most_values(raw)


class HeldBytes:
    """The bytes of all requests under way, as they came and parsed: without a bound a few clients end the process for all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def must_fit(self, count: int) -> None:
        """Raise `Refusal` if so many more are too many."""
        if self.held + count > self._most:
            raise Refusal(503, Cause.MEMORY, "this gateway holds as many bytes of requests as it may", code="overloaded", retry_after=1)

    def take(self, count: int) -> None:
        """Count bytes that have come. Raises `Refusal`; then none are counted."""
        self.must_fit(count)
        self.held += count

    def give_back(self, count: int) -> None:
        """Their request has ended."""
        self.held -= count


class Allowance(Protocol):
    """DomainLimits or KeyLimits."""

    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def concurrent(self) -> int | None: ...


class Meter:
    """What one client or domain has used: a token bucket, and what is under way."""

    __slots__ = ("filled", "tokens", "under_way")

    def __init__(self, now: float) -> None:
        self.tokens = math.inf
        self.filled = now
        self.under_way = 0

    def admit(self, now: float, allowed: Allowance, what: str) -> None:
        """Count one request. Raises `Refusal` beyond what is allowed; then nothing is counted."""
        if allowed.concurrent is not None and self.under_way >= allowed.concurrent:
            message = f"{what}: {allowed.concurrent} requests at a time are allowed on this replica"
            raise Refusal(429, Cause.CONCURRENCY, message, code="rate_limit_exceeded", retry_after=1)
        if allowed.requests_per_minute is not None:
            self._take(now, allowed.requests_per_minute, what)
        self.under_way += 1

    def _take(self, now: float, per_minute: int, what: str) -> None:
        rate = per_minute / 60.0
        self.tokens = min(self.tokens + (now - self.filled) * rate, max(1.0, rate * BURST_SECONDS))
        self.filled = now
        if self.tokens < 1.0:
            wait = math.ceil((1.0 - self.tokens) / rate)
            message = f"{what}: {per_minute} requests per minute are allowed on this replica"
            raise Refusal(429, Cause.RATE, message, code="rate_limit_exceeded", retry_after=wait)
        self.tokens -= 1.0


class Meters:
    """Meters by name. Those that have nothing to remember are forgotten."""

    def __init__(self, what: str, clock: Callable[[], float]) -> None:
        self._what = what
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._forget_at = clock() + FORGET_SECONDS

    def admit(self, name: str, allowed: Allowance | None) -> Meter | None:
        """Count one request; give the meter back to `leave`. Raises `Refusal`."""
        if allowed is None:
            return None
        now = self._clock()
        if now >= self._forget_at:
            self._forget(now)
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = Meter(now)
        meter.admit(now, allowed, self._what)
        return meter

    def _forget(self, now: float) -> None:
        self._forget_at = now + FORGET_SECONDS
        self._meters = {name: meter for name, meter in self._meters.items() if meter.under_way or now - meter.filled < FORGET_SECONDS}


def leave(meter: Meter | None) -> None:
    """One request has ended."""
    if meter is not None:
        meter.under_way -= 1
