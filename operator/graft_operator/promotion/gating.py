"""
Pure: a candidate before it serves. It is tested, approved, its answers to the principle prompts are checked where the policy asks for it,
and then it is activated: in one write, together with what takes it out again.
"""

from datetime import datetime

from graft_api.drift import Moment
from graft_api.health import SHADOW_TERMINAL
from graft_api.ledger import DriftRecord, Gate, GateState, LedgerDomain, Reason, WatchRecord
from graft_api.shadowtest import ResolvedTest, ShadowTestStatus
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.promotion import drifting, quorum, testing, turns
from graft_operator.promotion.choosing import NOT_YET_SERVING, RESTORED_WITHIN
from graft_operator.promotion.endings import LONGEST, Ending, ended, ordinal, switched
from graft_operator.promotion.rejecting import about, overruled_before
from graft_operator.promotion.seen import Seen


def move(seen: Seen, entry: LedgerDomain, now: datetime) -> LedgerDomain | None:
    """Return the domain after the next transition of a candidate that does not serve yet; None: nothing is due."""
    gate = entry.gate
    if gate is None or gate.state not in NOT_YET_SERVING:
        return None
    stop = _stopped(seen, entry, gate, now)
    if stop is not None:
        return ended(seen, entry, gate, stop, now)
    if (gate.missing is None) is (seen.own(gate) is None):
        return _with(entry, gate, missing=rfc3339(now) if gate.missing is None else None)
    following = {GateState.TESTING: _tested, GateState.AWAITING_APPROVAL: _approved, GateState.CHECKING: _checked}
    return following[gate.state](seen, entry, gate, now)


def tally(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> quorum.Tally:
    """Count who agrees with the activation of a candidate."""
    words = about(seen, gate) if seen.words_count else []
    return quorum.count(
        gate.policy.approval,
        words,
        now,
        evidence=gate.evidence_digest,
        counted=gate.approvals,
        overruled_before=overruled_before(entry, gate.version.digest),
    )


def _stopped(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> Ending | None:
    """Return why a candidate does not go on."""
    if ordinal(entry) != gate.switch:
        last = f": {entry.history[-1].reason}" if entry.history else ""
        return Ending(Reason.OVERRIDDEN, f"what serves was changed meanwhile{last}; the test held the candidate against what served then")
    pin = seen.wanted.pin
    if pin is not None:
        return Ending(
            Reason.OVERRIDDEN, f"spec.domains[].pin says what serves: {f'Adapter {pin.adapter}' if pin.adapter else 'the base model'}"
        )
    if (why := _deleted(seen, gate, now)) is not None:
        return Ending(Reason.DELETED, why)
    if seen.wanted.promotion != gate.policy:
        what = "was removed" if seen.wanted.promotion is None else "was changed; the candidate begins anew"
        return Ending(Reason.POLICY_CHANGED, f"spec.domains[].promotion {what}")
    return None


def _deleted(seen: Seen, gate: Gate, now: datetime) -> str | None:
    """Return why a candidate's Adapter does not come back; None: it is there, or may be restored yet."""
    name = gate.version.adapter
    there = next((candidate for candidate in seen.candidates if candidate.name == name), None)
    if there is not None and there.deleting:
        return f"Adapter {name} was deleted"
    if there is not None:
        return f"Adapter {name} names another artifact by now" if there.version != gate.version else None
    if gate.missing is None or now < parse_rfc3339(gate.missing) + RESTORED_WITHIN:
        return None
    return f"Adapter {name} was deleted: it has not been there since {gate.missing}"


def _tested(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain | None:
    """Follow its test; beside it, try what the check of drift will need."""
    return _test_went_on(seen, entry, gate, now) or _measuring(seen, entry, gate, now)


def _test_went_on(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain | None:
    test = testing.counted(seen, gate)
    if test is None:
        return None
    if gate.test_uid != test.uid:
        return _with(entry, gate, test_uid=test.uid)
    status = test.status
    if status.phase not in SHADOW_TERMINAL:
        return None
    doubt = _not_proven(entry, gate, status)
    if doubt is not None or status.verdict is None:
        return ended(seen, entry, gate, Ending(Reason.NOT_PROVEN, f"ShadowTest {gate.test}: {doubt}"), now)
    verdict = status.verdict
    told = {"evidence_digest": verdict.evidence_digest, "verdict": shorten(verdict.sentence, LONGEST)}
    return _with(entry, drifting.interrupted(gate), state=GateState.AWAITING_APPROVAL, since=rfc3339(now), **told)


def _not_proven(entry: LedgerDomain, gate: Gate, status: ShadowTestStatus) -> str | None:
    """Return why a test that has ended proves nothing for this candidate; None: it passed."""
    if status.verdict is None:
        ready = next((condition.message for condition in status.conditions or [] if condition.type == "Ready"), "")
        return f"{status.phase}, without a verdict{f': {ready}' if ready else ''}"
    if status.phase != "Passed" or status.verdict.outcome != "Passed":
        return status.verdict.sentence or f"ended {status.phase}"
    if status.resolved is None or not _is_of(entry, gate, status.resolved):
        return "it passed, but for another candidate or against another version than what serves"
    return None


def _is_of(entry: LedgerDomain, gate: Gate, resolved: ResolvedTest) -> bool:
    incumbent = entry.active.digest if entry.active else None
    compared = (resolved.domain, resolved.candidate.digest, resolved.incumbent.digest)
    return compared == (entry.name, gate.version.digest, incumbent)


def _approved(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain | None:
    """Keep the quorum while it stands: its approvals do not expire any more. Go on as soon as nothing else is waited for."""
    if not seen.words_count:
        return None
    counted = tally(seen, entry, gate, now)
    quorum_of = counted.approved if counted.reached else []
    if gate.approvals != quorum_of:
        return _with(entry, gate, approvals=quorum_of)
    if not counted.reached or not _may_go_on(seen, gate):
        return None
    if gate.policy.drift is not None:
        return _with(entry, gate, state=GateState.CHECKING, since=rfc3339(now), drift=gate.drift or DriftRecord())
    return _activated(seen, entry, gate, now)


def _checked(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain | None:
    """
    Activate it once its answers are shown to be near those of what serves; block it where they are not.

    The approvals are those that made the quorum, and no later one is waited for; but the quorum must go on standing. What was measured
    stays, for it is about these two versions, whoever approves.
    """
    if not seen.words_count:
        return None
    if not tally(seen, entry, gate, now).reached:
        told = drifting.stopped(gate, "the quorum does not stand any more", now)
        return _with(entry, told, state=GateState.AWAITING_APPROVAL, since=rfc3339(now), approvals=[])
    if (harm := drifting.beyond(gate, Moment.BEFORE)) is not None:
        return ended(seen, entry, gate, Ending(Reason.DRIFTED, harm), now)
    if (lacks := drifting.exhausted(gate, Moment.BEFORE)) is not None:
        return ended(seen, entry, gate, Ending(Reason.NOT_PROVEN, lacks), now)
    if drifting.record(gate, Moment.BEFORE).measured is None:
        return _measuring(seen, entry, gate, now)
    return _activated(seen, entry, gate, now) if _may_go_on(seen, gate) else None


def _measuring(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain | None:
    further = drifting.move(seen, gate, now)
    return entry.model_copy(update={"gate": further}) if further is not None else None


def _may_go_on(seen: Seen, gate: Gate) -> bool:
    candidate = seen.own(gate)
    return not seen.wanted.paused and candidate is not None and candidate.loaded


def _activated(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> LedgerDomain:
    authors, needed = ", ".join(approval.author for approval in gate.approvals), gate.policy.approval.needed()
    agreed = f"approved by {authors} ({len(gate.approvals)} of {needed} needed)" if authors else "no approval needed"
    after = switched(entry, gate.version, "Promoted", f"passed ShadowTest {gate.test}; {agreed}", now)
    state = GateState.RAMPING if gate.policy.ramp else GateState.WATCHING
    at = rfc3339(now)
    serves = gate.model_copy(update={"state": state, "since": at, "step": 0, "watch": WatchRecord(began=at), "switch": ordinal(after)})
    # What is replaced has had its turn, however it came to serve: it must not be the next to be tested against its successor.
    return turns.spent(seen, after.model_copy(update={"previous": entry.active, "gate": serves}), entry.active)


def _with(entry: LedgerDomain, gate: Gate, **changes: object) -> LedgerDomain:
    return entry.model_copy(update={"gate": gate.model_copy(update=changes)})
