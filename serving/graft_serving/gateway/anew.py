"""Counts from when a hard limit was passed, of the requests that began since: what struck then has struck them all, on whichever arm."""

from __future__ import annotations

from dataclasses import dataclass, field

from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.hard_limits import REQUESTS_ALONE


@dataclass(slots=True)
class Tally:
    """Requests, and how many of them were bad in one way or the other."""

    requests: int = 0
    errors: int = 0
    slow: int = 0

    def add(self, *, error: bool, slow: bool) -> None:
        """Count one request that has ended."""
        self.requests += 1
        self.errors += error
        self.slow += slow


@dataclass(slots=True)
class Anew:
    """See `hard_limits.Anew`."""

    since: float
    """On the event loop's clock."""
    watched: Tally = field(default_factory=Tally)
    others: Tally = field(default_factory=Tally)
    elsewhere: Tally = field(default_factory=Tally)
    _conversations: set[bytes] = field(default_factory=set)

    @property
    def conversations(self) -> int:
        """On the watched version."""
        return len(self._conversations)

    def add(self, exchange: Exchange, tally: Tally, *, error: bool, slow: bool) -> None:
        """Count one request that has ended, if it began since. `tally` is one of the three."""
        if exchange.started < self.since:
            return
        tally.add(error=error, slow=slow)
        if tally is self.watched and len(self._conversations) < REQUESTS_ALONE:
            self._conversations.add(exchange.conversation)
