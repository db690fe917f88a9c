"""
What this gateway tells the operator: by which revision it routes, what is under way, what it can reach, what it has taken out.

The operator unloads a version when every gateway has acknowledged routes without it and has nothing of it in flight. So those
two moments are reported at once, and so is a version that this gateway takes out by itself; everything else can wait for the next
regular report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graft_api.dataplane import BASE_NAME
from graft_api.fleet import GatewayReport, Trip
from graft_api.routes import Routes

LOOK_SECONDS = 0.05
"""Between two looks at what is still in flight on versions that are not routed any more."""
_MOST = 128
"""Versions in one report, as the contract bounds it."""
_MOST_TRIPS = 31
"""As well."""

Counts = Callable[[], Mapping[str, int]]


@dataclass(frozen=True)
class Traffic:
    """What the data path knows. It is asked, and does nothing for it: a request pays nothing for reports."""

    in_flight: Counts
    """Requests under way by version, `base` included."""
    reach: Counts
    """On how many pods each version is, `base` included."""
    trips: Callable[[], Sequence[Trip]]
    """Versions that are taken out by their hard limits."""


class Reporter:
    """Builds the pictures, and knows which moments are worth a report of their own."""

    def __init__(self, boot: str, traffic: Traffic, changed: Callable[[], None]) -> None:
        self._boot = boot
        self._traffic = traffic
        self._changed = changed
        self._routed: frozenset[str] = frozenset()
        self._epoch = 0
        self._revision = 0
        self._switched = asyncio.Event()
        self.draining = False

    def picture(self, sequence: int) -> GatewayReport:
        """Return the report of this moment."""
        return GatewayReport(
            boot=self._boot,
            sequence=sequence,
            epoch=self._epoch,
            revision=self._revision,
            in_flight=_counts(self._traffic.in_flight()),
            pods=_counts(self._traffic.reach()),
            draining=self.draining,
            trips=list(self._traffic.trips())[:_MOST_TRIPS],
        )

    def applied(self, routes: Routes) -> None:
        """Every request that is accepted from now on is routed by `routes`."""
        self._epoch, self._revision = routes.epoch, routes.revision
        self._routed = routes.routed() | {BASE_NAME}
        self._changed()
        self._switched.set()

    def drain(self) -> None:
        """Say that this gateway is going away."""
        self.draining = True
        self._changed()

    async def run(self) -> None:
        """Report when the last request of a version that is not routed any more has ended, until cancelled."""
        while True:
            await self._switched.wait()
            self._switched.clear()
            leaving = self._leaving()
            while leaving:
                await asyncio.sleep(LOOK_SECONDS)
                left = self._leaving()
                if leaving - left:
                    self._changed()
                leaving = left

    def _leaving(self) -> frozenset[str]:
        return frozenset(version for version, count in self._traffic.in_flight().items() if count) - self._routed


def _counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Those that are not zero; the largest, should there be more than a report holds."""
    largest = sorted((item for item in counts.items() if item[1]), key=lambda item: -item[1])
    return dict(largest[:_MOST])
