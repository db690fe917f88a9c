"""Pure: what a domain's gate means for its route, and for the collector that watches it."""

from graft_api.dataplane import BASE_NAME, version_name
from graft_api.ledger import Gate, LedgerDomain, LedgerVersion
from graft_api.measures import Measure
from graft_api.promotion import WatchPolicy
from graft_api.routes import Arm, TripWire
from graft_api.watch import WatchedMetric, WatchTask

WHOLE = 10_000
"""The weights of a domain's arms, together."""
MOST_ABORTED = 4
SERVER_ERRORS = "server-errors"
ERROR_MARGIN = 0.01
"""Of the share of server errors: what production calls an outage is far more, what two samples differ by is less."""


def serving(entry: LedgerDomain) -> Gate | None:
    """Return the domain's gate if its candidate serves: it is what is active, and it has been activated by the gate."""
    gate = entry.gate
    if gate is None or gate.watch is None or entry.active != gate.version:
        return None
    return gate


def arms(domain_name: str, entry: LedgerDomain) -> list[Arm]:
    """
    Return what serves a domain, the new version first: shares in ten-thousandths, at least one of each.

    While a candidate ramps, is watched or waits to be confirmed, some conversations are on what served before (the base model, where
    nothing did). The same salt and falling shares: a step of the ramp moves conversations to the new version and none away from it.
    """
    new = _version(domain_name, entry.active)
    gate = serving(entry)
    if gate is None:
        return [Arm(version=new)]
    weight = min(max(round(share(gate) * WHOLE), 1), WHOLE - 1)
    return [Arm(version=new, weight=weight), Arm(version=_version(domain_name, entry.previous), weight=WHOLE - weight)]


def share(gate: Gate) -> float:
    """Return the share of conversations that a serving candidate has: of its step of the ramp, else all but the hold-back."""
    ramp = gate.policy.ramp
    return float(ramp[gate.step].share) if gate.step < len(ramp) else 1 - float(gate.policy.watch.holdback)


def trip_wire(domain_name: str, entry: LedgerDomain) -> TripWire | None:
    """Return by what gateways take the new version out themselves; None: nothing is watched."""
    gate = serving(entry)
    if gate is None:
        return None
    new = version_name(domain_name, gate.version.digest)
    return TripWire(version=new, instead=_version(domain_name, entry.previous), limits=gate.policy.watch.limits)


def aborted(domain_name: str, entry: LedgerDomain) -> list[str]:
    """Return the versions on which nothing may go on, the one that was rolled back last first: none that serves again."""
    names = (version_name(domain_name, ended.digest) for ended in reversed(entry.ended) if ended.abort)
    kept = {_version(domain_name, entry.active), _version(domain_name, entry.previous)}
    return list(dict.fromkeys(name for name in names if name not in kept))[:MOST_ABORTED]


def watch_task(domain_name: str, entry: LedgerDomain) -> WatchTask | None:
    """Return what the collector is to count; None: nothing is watched. A conversation is closed when it was in the test."""
    gate = serving(entry)
    if gate is None:
        return None
    return WatchTask(
        domain=domain_name,
        gate=gate.number,
        adapter_uid=gate.adapter_uid,
        new=version_name(domain_name, gate.version.digest),
        held_back=_version(domain_name, entry.previous) or BASE_NAME,
        metrics=watched_metrics(gate.policy.watch),
        idle_seconds=gate.policy.shadow.limits.idle_seconds,
    )


def watched_metrics(policy: WatchPolicy) -> list[WatchedMetric]:
    """Return what a watch is read by: the policy's metrics, and server errors unless one of them measures these already."""
    if any(metric.measure is Measure.SERVER_ERROR for metric in policy.metrics):
        return list(policy.metrics)
    taken = {metric.name for metric in policy.metrics}
    name = next(free for n in range(len(taken) + 1) if (free := f"{SERVER_ERRORS}{f'-{n}' if n else ''}") not in taken)
    return [*policy.metrics, WatchedMetric(name=name, measure=Measure.SERVER_ERROR, margin=ERROR_MARGIN)]


def _version(domain_name: str, version: LedgerVersion | None) -> str | None:
    return version_name(domain_name, version.digest) if version else None
