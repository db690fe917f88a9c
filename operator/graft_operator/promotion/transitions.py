"""
Pure: what is noted of each transition of a domain, for people: who did it, by what evidence, and how long it had been as before.

It is noted beside what it is of, in the same write of the ledger, and told later (`modelendpoint.audit`). Names, numbers and digests;
nothing of what production asks or answers.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from graft_api.drift import Moment
from graft_api.ledger import CountedApproval, DriftMoment, Gate, GateState, LedgerDomain, LedgerVersion, Reason, Rejected, Transition
from graft_api.promotion import APPROVERS
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.promotion import drifting, turns
from graft_operator.promotion.choosing import NOT_YET_SERVING
from graft_operator.promotion.endings import GRAFT, HISTORY, LONGEST

NONE = "None"
"""The state of no candidate."""
SWITCHED = "Switched"
REJECTED = str(Reason.REJECTED)
LIFTED = "RejectionLifted"


def noted(was: LedgerDomain, entry: LedgerDomain, now: datetime, names: Mapping[str, str]) -> LedgerDomain:
    """
    Return a domain with what one transition has changed of it, in the order in which it happened.

    `names`: adapters by their digests, of what the ledger does not know.
    """
    found = [*_switches(was, entry, now), *_rejections(was, entry, now, names), *_ends(was, entry, now)]
    found += [*_lifted(was, entry, now, names), *_went_on(was, entry, now), *_drift(was, entry, now)]
    if not found:
        return entry
    last = entry.transitions[-1].ordinal if entry.transitions else entry.told
    counted = [step.model_copy(update={"ordinal": number}) for number, step in enumerate(found, last + 1)]
    return entry.model_copy(update={"transitions": [*entry.transitions, *counted][-HISTORY:]})


def _switches(was: LedgerDomain, entry: LedgerDomain, now: datetime) -> Iterator[Transition]:
    last = was.history[-1].ordinal if was.history else 0
    for switch in entry.history:
        if switch.ordinal <= last:
            continue
        gate = entry.gate if entry.gate and entry.gate.switch == switch.ordinal else None  # it was activated by it
        who = _authors(gate.approvals) if gate else []
        if switch.reason == Reason.ROLLED_BACK and was.active is not None:
            who = _rejecting(entry, was.active.digest)
        yield Transition(
            ordinal=switch.ordinal,
            at=rfc3339(now),
            before=switch.reason,
            after=SWITCHED,
            adapter=switch.after,
            digest=_digest(entry.active, switch.after),
            who=who,
            message=shorten(f"{switch.before or 'base'} -> {switch.after or 'base'}: {switch.message}", LONGEST),
            evidence=gate.evidence_digest if gate else None,
        )


def _rejections(was: LedgerDomain, entry: LedgerDomain, now: datetime, names: Mapping[str, str]) -> Iterator[Transition]:
    """Tell of what is rejected and was not on its way, nor served: else its end tells of it."""
    ended = {one.digest for one in entry.ended[-1:] if one not in was.ended}
    held = {version.digest for version in (entry.active, entry.gate.version if entry.gate else None) if version}
    for known in entry.rejected:
        if known in was.rejected or known.lifted_at is not None or known.author == GRAFT or known.digest in ended | held:
            continue
        yield _about(was, known, now, names).model_copy(update={"after": REJECTED, "who": _speaking(known)})


def _lifted(was: LedgerDomain, entry: LedgerDomain, now: datetime, names: Mapping[str, str]) -> Iterator[Transition]:
    for known in entry.rejected:
        if known.lifted_at is None or known in was.rejected:
            continue
        told = {"before": REJECTED, "after": LIFTED, "who": _authors(known.lifted_by), "message": f"it was rejected by {known.author}"}
        yield _about(was, known, now, names).model_copy(update=told)


def _about(was: LedgerDomain, known: Rejected, now: datetime, names: Mapping[str, str]) -> Transition:
    told = [one for one in was.ended if one.digest == known.digest]
    spoken = [part for part in (f"AdapterApproval {known.approval}" if known.approval else "", known.reason) if part]
    return Transition(
        ordinal=1,
        at=rfc3339(now),
        after=REJECTED,
        adapter=names.get(known.digest) or next((one.adapter for one in reversed(told)), None),
        digest=known.digest,
        message=shorten(": ".join(spoken), LONGEST),
        evidence=next((one.evidence_digest for one in reversed(told) if one.evidence_digest), None),
    )


def _ends(was: LedgerDomain, entry: LedgerDomain, now: datetime) -> Iterator[Transition]:
    for ended in entry.ended:
        if ended in was.ended:
            continue
        gate = was.gate if was.gate and was.gate.number == ended.number else None
        who: list[str] = []
        if ended.reason in turns.BY_PEOPLE:
            who = _rejecting(entry, ended.digest)
        elif ended.reason is Reason.CONFIRMED and gate is not None and gate.state is GateState.UNCONFIRMED:
            who = _authors(ended.approvals)  # the clock had ended its watch: people alone confirm it
        yield Transition(
            ordinal=1,
            at=rfc3339(now),
            before=gate.state.value if gate else NONE,
            after=ended.reason.value,
            adapter=ended.adapter,
            digest=ended.digest,
            who=who,
            message=ended.message,
            evidence=ended.evidence_digest,
            seconds=_seconds(gate, now),
        )


def _went_on(was: LedgerDomain, entry: LedgerDomain, now: datetime) -> Iterator[Transition]:
    gate, before = entry.gate, was.gate  # the same candidate: one transition ends a way or begins one
    if gate is None:
        return
    if before is not None and (before.state, before.step, before.number) == (gate.state, gate.step, gate.number):
        return
    approved = before is None or (before.state in NOT_YET_SERVING and before.state is not gate.state)
    changed = before is None or before.state is not gate.state
    yield _of_gate(gate, now).model_copy(
        update={
            "before": before.state.value if before else NONE,
            "who": _authors(gate.approvals) if approved else [],
            "message": shorten(_words(before, gate), LONGEST),
            "seconds": _seconds(before, now) if changed else None,
        }
    )


def _words(before: Gate | None, gate: Gate) -> str:
    """Return what a candidate goes on to."""
    if before is not None and before.number != gate.number:
        return f"the version before it is gone: nothing is held back, and its watch begins anew as number {gate.number}"
    if gate.watch is None:
        return gate.verdict or f"ShadowTest {gate.test}"
    return f"step {gate.step + 1} of {len(gate.policy.ramp)}" if gate.step < len(gate.policy.ramp) else gate.verdict


def _drift(was: LedgerDomain, entry: LedgerDomain, now: datetime) -> Iterator[Transition]:
    """Tell what came of the attempts to measure a candidate's drift: its state is the same."""
    gate, before = entry.gate, was.gate
    if gate is None or gate.drift is None:
        return
    for moment in Moment:
        known = gate.drift.of(moment)
        earlier = drifting.record(before, moment) if before else DriftMoment()
        told = drifting.news(moment, earlier, known)
        if told:
            evidence = known.measured.document if known.measured else None
            yield _of_gate(gate, now).model_copy(
                update={"before": gate.state.value, "message": shorten(told, LONGEST), "evidence": evidence}
            )


def _of_gate(gate: Gate, now: datetime) -> Transition:
    return Transition(
        ordinal=1,
        at=rfc3339(now),
        after=gate.state.value,
        adapter=gate.version.adapter,
        digest=gate.version.digest,
        evidence=gate.evidence_digest,
    )


def _digest(serves: LedgerVersion | None, adapter: str | None) -> str | None:
    return serves.digest if serves and serves.adapter == adapter else None


def _rejecting(entry: LedgerDomain, digest: str) -> list[str]:
    """Return who rejected a digest; nobody, where graft did by what it saw."""
    known = next((one for one in reversed(entry.rejected) if one.digest == digest and one.lifted_at is None), None)
    return _speaking(known) if known is not None else []


def _speaking(known: Rejected) -> list[str]:
    return [] if known.author == GRAFT else [*known.others, known.author][-APPROVERS:]


def _authors(approvals: list[CountedApproval]) -> list[str]:
    return [approval.author for approval in approvals]


def _seconds(gate: Gate | None, now: datetime) -> float | None:
    return max(0.0, (now - parse_rfc3339(gate.since)).total_seconds()) if gate else None
