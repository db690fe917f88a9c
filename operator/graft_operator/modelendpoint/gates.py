"""
Pure: what follows from the candidates that are on their way into an endpoint's domains.

    tests_wanted   the ShadowTests that are to be made
    pace           when to look again
    status         what people are shown of the one that is on its way, or of the last
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from graft_api.fleet import REPORT_SECONDS
from graft_api.ledger import CountedApproval, Ended, Gate, GateState, Ledger, LedgerDomain
from graft_api.modelendpoint import Domain, DomainStatus, ModelEndpointSpec, PromotionStatus
from graft_api.schema import seconds_of
from graft_operator.engine.conditions import shorten
from graft_operator.engine.events import Happening
from graft_operator.modelendpoint import children, ledgers
from graft_operator.modelendpoint.candidates import seen
from graft_operator.modelendpoint.observed import Manifest, Observed
from graft_operator.promotion import drifting, gating, machine
from graft_operator.promotion.choosing import NOT_YET_SERVING
from graft_operator.promotion.seen import Seen

SERVING = frozenset(GateState) - NOT_YET_SERVING
LOOKS = 8
"""In the time of a step of a ramp, or of a watch: so late, at most, is it noticed that it is over."""
SOONEST, LATEST = timedelta(seconds=1), timedelta(seconds=REPORT_SECONDS)
IDLE = timedelta(minutes=1)
"""While nothing of it serves: tests and approvals are watched, but an approval expires without a word."""


def tests_wanted(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger) -> list[Manifest]:
    """Return the ShadowTests that candidates need and that are not there."""
    made = []
    for wanted, entry in _entries(spec, ledger):
        known = seen(observed, wanted, entry)
        gate = machine.test_wanted(known, entry)
        own = known.own(gate) if gate else None
        if gate is not None and own is not None:
            made.append(children.shadow_test(observed.parent, gate, own.uid))
    return made


def pace(spec: ModelEndpointSpec, ledger: Ledger) -> timedelta | None:
    """Return after how long to look again for the sake of time that passes; None: nothing is on its way."""
    return min((_pace(entry.gate) for _, entry in _entries(spec, ledger) if entry.gate), default=None)


def status(observed: Observed, wanted: Domain, entry: LedgerDomain, now: datetime) -> PromotionStatus | None:
    """
    Return how far the domain's candidate is, else how the last one ended; None: there was none.

    By what the ledger has of its watch, not by what the collector said a moment ago: a status that follows every report is a write for
    every report.
    """
    if entry.gate is not None:
        return _under_way(replace(seen(observed, wanted, entry), watched=None), entry, entry.gate, now)
    return of_ended(entry.ended[-1]) if entry.ended else None


def none_begins(observed: Observed, wanted: Domain, ledger: Ledger, entry: LedgerDomain, now: datetime) -> str | None:
    """Return what the next candidate waits for; None: one is on its way, or nothing promotes."""
    if entry.gate is not None or wanted.promotion is None:
        return None
    words = ledgers.no_room(wanted, ledger.domains) or machine.words_of(seen(observed, wanted, entry), entry, now)
    return shorten(words) or None


def of_gate(gate: Gate, **more: object) -> PromotionStatus:
    """Return what the ledger alone says of a candidate that is on its way."""
    told = {
        "state": gate.state.value,
        "since": gate.since,
        "number": gate.number,
        "adapter": gate.version.adapter,
        "digest": gate.version.digest,
        "test": gate.test,
        "evidence_digest": gate.evidence_digest,
        "verdict": gate.verdict or None,
        "approvals": _authors(gate.approvals),
        "approvals_needed": gate.policy.approval.needed(),
        "drift": drifting.shown(gate),
        "drift_problem": drifting.problem(gate),
    }
    return PromotionStatus.model_validate(told | more)


def of_ended(ended: Ended) -> PromotionStatus:
    """Return how a candidate's way ended."""
    told = {
        "state": ended.reason.value,
        "since": ended.at,
        "number": ended.number,
        "adapter": ended.adapter,
        "digest": ended.digest,
        "test": ended.test,
        "evidence_digest": ended.evidence_digest,
        "approvals": _authors(ended.approvals),
        "message": ended.message or None,
    }
    return PromotionStatus.model_validate(told)


def _entries(spec: ModelEndpointSpec, ledger: Ledger) -> Iterator[tuple[Domain, LedgerDomain]]:
    for wanted in spec.domains:
        if (entry := ledger.domain(wanted.name)) is not None:
            yield wanted, entry


def _pace(gate: Gate) -> timedelta:
    if gate.state not in SERVING:
        return IDLE
    ramps = gate.state is GateState.RAMPING and gate.step < len(gate.policy.ramp)
    span = gate.policy.ramp[gate.step].duration if ramps else gate.policy.watch.window
    return min(max(timedelta(seconds=seconds_of(span)) / LOOKS, SOONEST), LATEST)


def _under_way(known: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> PromotionStatus:
    more: dict[str, object] = {"message": shorten(machine.words_of(known, entry, now)) or None}
    if gate.watch is not None:
        more["observed_seconds"] = int(gate.watch.count().observed_seconds)
        more["window_seconds"] = seconds_of(gate.policy.watch.window)
        more["readings"] = machine.readings(known, entry) or None
    elif gate.state is GateState.AWAITING_APPROVAL:
        more["approvals"] = _authors(gating.tally(known, entry, gate, now).approved)
    return of_gate(gate, **more)


def _authors(approvals: Sequence[CountedApproval]) -> list[str] | None:
    return [approval.author for approval in approvals] or None


def problems(before: Sequence[DomainStatus] | None, after: Sequence[DomainStatus] | None) -> list[Happening]:
    """Return the Events of drift that could not be measured: no transition, but somebody may have to act."""
    told = {domain.name: domain.promotion for domain in before or []}
    return [
        Happening("Warning", "DriftNotMeasured", "Promote", f"domain {domain.name}: {_named(now)}: {now.drift_problem}")
        for domain in after or []
        if (now := domain.promotion) is not None and now.drift_problem is not None and _problem(now) != _problem(told.get(domain.name))
    ]


def _named(known: PromotionStatus) -> str:
    return f"Adapter {known.adapter} ({known.digest[:19]})"


def _problem(known: PromotionStatus | None) -> tuple[int, str | None] | None:
    return (known.number, known.drift_problem) if known else None
