"""
Hard limits of a new version, kept by each gateway by itself, also while the operator is away.

    a request ends -> counted, if its domain has a trip wire -> beyond a limit: the version's requests go to another one, at once
                                                             -> log, metric, a report to the operator, which makes it global

What was taken out stays out until routes come whose trip wire names another version, or none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import reduce

from graft_api.dataplane import BASE_NAME
from graft_api.fleet import Trip
from graft_api.routes import TripWire
from graft_serving.gateway.anew import Anew
from graft_serving.gateway.errors import Cause
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.hard_limits import METRICS, Breach, Metric, back, bounds_of, breach, passed
from graft_serving.gateway.table import Alias, RoutingTable
from graft_serving.gateway.window import Window

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks that no bad answer asks for: requests that were good, or too old by now, may be what a limit is crossed by."""

_NOBODY_BEGAN = frozenset({Cause.UNREACHABLE, Cause.NOT_STARTED, Cause.DOOR_REFUSED})
"""No server has seen these requests: they say that pods are away, and nothing of a version."""


class Wire:
    """The trip wire of one domain, and what it has counted."""

    __slots__ = ("_anew", "_bounds", "_held_back", "_others", "_version", "_watched", "alias", "trip", "wire")

    def __init__(self, alias: Alias, wire: TripWire, now: float) -> None:
        self.trip: Trip | None = None
        self._version = wire.version
        self._anew: dict[Metric, Anew] = {}
        """Of limits that are passed."""
        self.renew(alias, wire)
        self._watched = Window(self._bounds.window_seconds, now)
        self._held_back = Window(self._bounds.window_seconds, now)

    def renew(self, alias: Alias, wire: TripWire) -> None:
        """Newer routes watch the same version."""
        self.alias = alias
        self.wire = wire
        self._others = frozenset(alias.versions) - {self._version}
        self._bounds = bounds_of(wire.limits, 1.0 - alias.share_of(self._version))

    @property
    def doubted(self) -> bool:
        """A limit is passed, and nothing has come of it yet."""
        return bool(self._anew) and self.trip is None

    @property
    def detour(self) -> Alias:
        """The alias without the version."""
        return self.alias.without(self._version, self.wire.instead or BASE_NAME)

    def count(self, exchange: Exchange, *, error: bool) -> Sequence[Metric]:
        """Count one request that has ended. Returns in what it was bad; nothing, if it was not on the watched version."""
        if exchange.wanted == self._version:
            window = self._watched
        elif exchange.wanted in self._others:
            window = self._held_back
        else:
            return ()
        slow = self._is_slow(exchange)
        if exchange.cause is Cause.CLIENT_GONE and not slow:
            return ()  # how it would have ended, and when, nobody knows
        window.add(exchange.ended, error=error, slow=slow)
        for anew in self._anew.values():
            anew.add(exchange, anew.watched if window is self._watched else anew.others, error=error, slow=slow)
        return [metric for metric, bad in zip(METRICS, (error, slow), strict=True) if bad] if window is self._watched else ()

    def count_elsewhere(self, exchange: Exchange, *, error: bool) -> None:
        """Count a request of another domain, while a limit is passed here."""
        slow = self._is_slow(exchange)
        if exchange.cause is not Cause.CLIENT_GONE or slow:
            for anew in self._anew.values():
                anew.add(exchange, anew.elsewhere, error=error, slow=slow)

    def breach(self, now: float, bad: Sequence[Metric] = ()) -> Breach | None:
        """
        Return the limit that was crossed, if one was.

        `bad`: in what the request was bad that has just ended. What was counted anew speaks at such a moment alone: when an outage is over,
        what is held back is well again, and the version's window is still full of it.
        """
        self._watched.turn(now)
        self._held_back.turn(now)
        self._doubt(now)
        return breach(self._watched, self._held_back, {metric: self._anew[metric] for metric in bad if metric in self._anew}, self._bounds)

    def _doubt(self, now: float) -> None:
        """Begin to count anew where a limit is passed; forget that where it is not any more."""
        for metric in [metric for metric in self._anew if back(self._watched, self._bounds, metric)]:
            del self._anew[metric]
        for metric in passed(self._watched, self._bounds):
            self._anew.setdefault(metric, Anew(now))

    def _is_slow(self, exchange: Exchange) -> bool:
        return exchange.ended - exchange.started > self._bounds.latency_seconds


class TripWires:
    """An `Observer`. `apply` takes the routes, `run` looks every second, `trips` is what is reported."""

    def __init__(
        self,
        reroute: Callable[[Alias], None],
        anybody_serves: Callable[[], bool],
        tripped: Callable[[Trip], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._reroute = reroute
        self._anybody_serves = anybody_serves
        self._tripped = tripped
        self._clock = clock
        self._wall_clock = wall_clock
        self._wires: dict[str, Wire] = {}

    def apply(self, table: RoutingTable) -> RoutingTable:
        """Watch what the routes say from now on. Returns the table without the versions that are out."""
        self._wires = {alias.name: self._wire(alias, alias.trip_wire) for alias in table.aliases.values() if alias.trip_wire}
        return reduce(RoutingTable.replacing, (wire.detour for wire in self._wires.values() if wire.trip), table)

    def completed(self, exchange: Exchange) -> None:
        """See `Observer`."""
        if exchange.cause is not None and self._says_nothing(exchange.cause):
            return
        wire = self._wires.get(exchange.domain)
        if wire is not None and wire.trip is None and (bad := wire.count(exchange, error=is_error(exchange))):
            self._judge(wire, exchange.ended, bad)
        if not exchange.wanted:
            return  # refused before it was routed: it says nothing of any server
        for other in self._wires.values():
            if other is not wire and other.doubted:
                other.count_elsewhere(exchange, error=is_error(exchange))

    def look(self) -> None:
        """Take out what is beyond its limits by now."""
        now = self._clock()
        for wire in self._wires.values():
            if wire.trip is None:
                self._judge(wire, now)

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def trips(self) -> Sequence[Trip]:
        """Return what is out."""
        return [wire.trip for wire in self._wires.values() if wire.trip]

    def _wire(self, alias: Alias, wire: TripWire) -> Wire:
        """Return the wire that is there, with all that it has counted, if it is of the same version."""
        known = self._wires.get(alias.name)
        if known is None or known.wire.version != wire.version:
            return Wire(alias, wire, self._clock())
        if known.trip is None and known.wire.limits != wire.limits:
            return Wire(alias, wire, self._clock())
        known.renew(alias, wire)
        return known

    def _says_nothing(self, cause: Cause) -> bool:
        return cause in _NOBODY_BEGAN or cause is Cause.ABORTED or (cause is Cause.NO_POD and not self._anybody_serves())

    def _judge(self, wire: Wire, now: float, bad: Sequence[Metric] = ()) -> None:
        found = wire.breach(now, bad)
        if found is None:
            return
        wire.trip = self._trip(wire, found)
        self._reroute(wire.detour)
        logger.warning(
            "a version is taken out by its hard limit: %s of %.3f of %d requests, limit %g, of those held back %s",
            *(found.metric, found.value, found.requests, found.bound, "none" if found.held_back is None else f"{found.held_back:.3f}"),
            extra={"domain": wire.alias.name, "version": wire.wire.version},
        )
        self._tripped(wire.trip)

    def _trip(self, wire: Wire, found: Breach) -> Trip:
        at = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return Trip(domain=wire.alias.name, version=wire.wire.version, at=at, **found._asdict())


def is_error(exchange: Exchange) -> bool:
    """
    Whether the server's side has failed the version that the route names.

    By answering 5xx or not in time, by breaking off also within a stream, or by having to fall back to the base model. A client's own
    error is none, nor is a client that leaves.
    """
    if exchange.version != exchange.wanted:
        return exchange.cause is not Cause.CLIENT_GONE
    # Of a stream that has begun only the cause says that it broke; a refusal of ours for the client's sake has one, too.
    return exchange.status >= 500 or (exchange.cause is not None and exchange.status == 200)
