"""For how long a collector looked: the hours that a test has to last."""

from __future__ import annotations

from collections.abc import Callable


class ObservedTime:
    """A clock that stands still while something is missing that measuring needs. Begins at once."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """`monotonic`: seconds that only grow."""
        self._monotonic = monotonic
        self._sum = 0.0
        self._since = monotonic()
        self._missing: set[str] = set()

    def restart(self, seconds: float) -> None:
        """Go on from `seconds`, now; what was before in this process is not counted. What is missing stays missing."""
        self._sum, self._since = seconds, self._monotonic()

    def lacks(self, what: str, since: float | None = None) -> None:
        """Stand still until `what` is back. `since`: when it was last known to be there, of the same clock; default: now."""
        if not self._missing:
            self._sum += max(0.0, (self._monotonic() if since is None else since) - self._since)
        self._missing.add(what)

    def has(self, what: str) -> None:
        """Go on, if nothing else is missing. Does nothing for what was not."""
        if what in self._missing:
            self._missing.remove(what)
            self._since = self._monotonic()

    @property
    def seconds(self) -> float:
        """Return how long it was so far."""
        return self._sum if self._missing else self._sum + self._monotonic() - self._since


class ContactTime:
    """For how long gateways were heard: the time from one contact to the next, where it is short and nothing was missed in it."""

    def __init__(self, monotonic: Callable[[], float], longest: float) -> None:
        """`monotonic`: seconds that only grow. `longest`: seconds between two contacts in which nobody doubts that they were there."""
        self._monotonic = monotonic
        self._longest = longest
        self._last: float | None = None
        self._missed = False
        self.seconds = 0.0

    def miss(self) -> None:
        """Something that they told of was left out for want of room: until they are heard again there was nobody who looked."""
        self._missed = True

    def heard(self) -> None:
        """They are there."""
        now = self._monotonic()
        if self._last is not None and not self._missed and now - self._last <= self._longest:
            self.seconds += now - self._last
        self._last, self._missed = now, False
