"""
The fleet as it was last heard of: one picture per pod of the data plane, in memory.

Nothing of it is persisted: a new leader knows its fleet again after one interval of reports. What a silent pod means, and which pods
exist at all, is for the reconcilers to say; here is only who said what, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from graft_api.collect import CollectorReport
from graft_api.drift import DriftReport
from graft_api.fleet import SILENT_SECONDS, AgentReport, GatewayReport
from graft_api.watch import WatchedSums
from graft_operator.engine.clock import Clock
from graft_operator.engine.queue import Key
from graft_operator.reports.sink import FleetCaller

FORGOTTEN = timedelta(minutes=15)
"""A pod that was not heard of for so long is dropped. It counts as silent long before, which is the reconcilers' business."""
PODS_PER_ENDPOINT = 2048
"""In each role: the most replicas that a ModelEndpoint may have, twice, for a roll-out."""
PODS = 8192
FORMER_BOOTS = 4

R = TypeVar("R", bound=AgentReport | GatewayReport | CollectorReport | DriftReport)


@dataclass(frozen=True)
class Heard(Generic[R]):
    """What a pod said last."""

    pod_uid: str
    endpoint_uid: str
    report: R
    received: float
    """On the clock's monotonic scale: `clock.monotonic() - received` is for how long the pod has been silent."""
    former: tuple[str, ...] = ()
    """Boots of the same pod before this one: what is still on its way from them is old."""


@dataclass
class _Role(Generic[R]):
    """All pods of one role, by endpoint and name."""

    matters: Callable[[R, R], bool]
    """Whether the second report says something that a reconciler must know, after the first."""
    pods: dict[Key, dict[str, Heard[R]]] = field(default_factory=dict)

    def of(self, key: Key) -> Mapping[str, Heard[R]]:
        return dict(self.pods.get(key, {}))

    def forget(self, key: Key, silent_since: float) -> int:
        """Drop the pods of an endpoint that were last heard before. Returns how many."""
        kept = {name: heard for name, heard in self.pods.get(key, {}).items() if heard.received >= silent_since}
        dropped = len(self.pods.get(key, {})) - len(kept)
        if kept:
            self.pods[key] = kept
        else:
            self.pods.pop(key, None)
        return dropped


class Fleet:
    """
    Takes reports and keeps the latest of each pod. `on_change` is called with the endpoint's key when something new was said, and
    not for what only repeats it.
    """

    def __init__(self, clock: Clock, on_change: Callable[[Key], None], per_endpoint: int = PODS_PER_ENDPOINT, total: int = PODS) -> None:
        self._clock = clock
        self._on_change = on_change
        self._per_endpoint = per_endpoint
        self._total = total
        self._agents: _Role[AgentReport] = _Role(agent_matters)
        self._gateways: _Role[GatewayReport] = _Role(gateway_matters)
        self._collectors: _Role[CollectorReport] = _Role(collector_matters)
        self._drifts: _Role[DriftReport] = _Role(drift_matters)
        self._swept = clock.monotonic()
        self._size = 0
        self.dropped = 0
        """Reports that found no room, for the metrics."""

    def __len__(self) -> int:
        return self._size

    def agents(self, key: Key) -> Mapping[str, Heard[AgentReport]]:
        """What the server pods of an endpoint said last, by pod name."""
        return self._agents.of(key)

    def gateways(self, key: Key) -> Mapping[str, Heard[GatewayReport]]:
        """What the gateways of an endpoint said last, by pod name."""
        return self._gateways.of(key)

    def collectors(self, key: Key) -> Mapping[str, Heard[CollectorReport]]:
        """What the collector of an endpoint said last, by pod name: for a while after it has gone, too."""
        return self._collectors.of(key)

    def drifts(self, key: Key) -> Mapping[str, Heard[DriftReport]]:
        """What the Jobs of an endpoint that measure drift said last, by pod name."""
        return self._drifts.of(key)

    def forget(self, key: Key) -> None:
        """Drop all pods of an endpoint: it is gone."""
        for role in self._roles:
            self._size -= role.forget(key, float("inf"))

    def heard_agent(self, caller: FleetCaller, report: AgentReport) -> None:
        """Take a server pod's whole picture."""
        self._hear(self._agents, caller, report)

    def heard_gateway(self, caller: FleetCaller, report: GatewayReport) -> None:
        """Take a gateway's whole picture."""
        self._hear(self._gateways, caller, report)

    def heard_collector(self, caller: FleetCaller, report: CollectorReport) -> None:
        """Take a collector's whole picture."""
        self._hear(self._collectors, caller, report)

    def heard_drift(self, caller: FleetCaller, report: DriftReport) -> None:
        """Take the whole picture of a Job that measures drift."""
        self._hear(self._drifts, caller, report)

    @property
    def _roles(self) -> tuple[_Role[AgentReport], _Role[GatewayReport], _Role[CollectorReport], _Role[DriftReport]]:
        return self._agents, self._gateways, self._collectors, self._drifts

    def _hear(self, role: _Role[R], caller: FleetCaller, report: R) -> None:
        key, now = Key(caller.namespace, caller.endpoint_name), self._clock.monotonic()
        self._sweep(now)
        known = role.pods.get(key, {}).get(caller.pod_name)
        if known is not None and is_old(known, caller, report):
            return
        if known is None and not self._room(role.pods.get(key, {})):
            self.dropped += 1
            return
        self._size += known is None
        role.pods.setdefault(key, {})[caller.pod_name] = successor(known, caller, report, now)
        if known is None or is_news(known, caller, report, now) or role.matters(known.report, report):
            self._on_change(key)

    def _room(self, pods: Mapping[str, object]) -> bool:
        return len(pods) < self._per_endpoint and self._size < self._total

    def _sweep(self, now: float) -> None:
        """Now and then: pods go without a word, and endpoints with them."""
        if now - self._swept < SILENT_SECONDS:
            return
        self._swept = now
        silent_since = now - FORGOTTEN.total_seconds()
        for role in self._roles:
            self._size -= sum(role.forget(key, silent_since) for key in list(role.pods))


def is_old(known: Heard[R], caller: FleetCaller, report: R) -> bool:
    """Whether a report was overtaken: by a later one of the same boot, or by a later boot of the same pod."""
    if known.pod_uid != caller.pod_uid:
        return False
    if report.boot == known.report.boot:
        return report.sequence < known.report.sequence
    return report.boot in known.former


def is_news(known: Heard[R], caller: FleetCaller, report: R, now: float) -> bool:
    """Whether it matters that this pod spoke at all: it is another one, it started again, or it was thought silent."""
    return known.pod_uid != caller.pod_uid or known.report.boot != report.boot or now - known.received > SILENT_SECONDS


def successor(known: Heard[R] | None, caller: FleetCaller, report: R, now: float) -> Heard[R]:
    """What is known of a pod after a report."""
    return Heard(caller.pod_uid, caller.endpoint_uid, report, now, _former(known, caller, report))


def _former(known: Heard[R] | None, caller: FleetCaller, report: R) -> tuple[str, ...]:
    if known is None or known.pod_uid != caller.pod_uid:
        return ()
    boot, former = known.report.boot, known.former
    return former if boot == report.boot else (*former, boot)[-FORMER_BOOTS:]


def agent_matters(before: AgentReport, after: AgentReport) -> bool:
    """Whether anything but the sequence number is otherwise."""
    return _said(before, set()) != _said(after, set())


def gateway_matters(before: GatewayReport, after: GatewayReport) -> bool:
    """
    Whether anything is otherwise that a switch or an unload waits for.

    How many requests are in flight changes all the time; that the last one of a version has ended is what an unload waits for.
    """
    ended = _busy(before) - _busy(after)
    return bool(ended) or _said(before, {"in_flight"}) != _said(after, {"in_flight"})


def collector_matters(before: CollectorReport, after: CollectorReport) -> bool:
    """
    Whether anything is otherwise that a verdict, a watch or a person waits for.

    What waits and what was lost changes all the time, and is read with the next commit. So does for how long a watch was looked at: who
    waits for a time looks at the clock. Conversations that were counted may show harm, and are told of at once.
    """
    return any(getattr(before, name) != getattr(after, name) for name in _AWAITED) or _counted(before) != _counted(after)


def drift_matters(before: DriftReport, after: DriftReport) -> bool:
    """Whether anything but the sequence number is otherwise."""
    return _said(before, set()) != _said(after, set())


def _counted(report: CollectorReport) -> list[tuple[str, int, list[WatchedSums]]]:
    return [(watched.domain, watched.gate, watched.count.metrics) for watched in report.watched]


_AWAITED = ("mode", "test_uid", "commit", "shadow_away", "store_away", "reported")


def _said(report: AgentReport | GatewayReport | DriftReport, but: set[str]) -> dict[str, Any]:
    return report.model_dump(exclude={"sequence", *but})


def _busy(report: GatewayReport) -> set[str]:
    return {version for version, count in report.in_flight.items() if count}
