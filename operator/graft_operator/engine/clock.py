"""Time as an argument: whatever waits or dates something is given a Clock, so that tests need not wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for what is written down, monotonic time for what is measured, and waiting."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC. Jumps when somebody sets the clock: never measure with it."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment of this machine. Never jumps."""

    async def sleep(self, seconds: float, wakeup: asyncio.Event | None = None) -> None:
        """Return after `seconds`, or as soon as `wakeup` is set."""


class SystemClock:
    """The machine's clocks and the running event loop."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float, wakeup: asyncio.Event | None = None) -> None:
        if wakeup is None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wakeup.wait()


def rfc3339(moment: datetime) -> str:
    """As metav1.Time writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(moment: datetime) -> str:
    """As metav1.MicroTime writes it (Leases and Events): UTC, microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: str) -> datetime:
    """An API server's timestamp, with or without a fraction of a second."""
    return datetime.fromisoformat(text)
