"""Pure: what a domain's promotion waits for, in one sentence for people. Names and numbers, never content."""

from collections.abc import Iterable
from datetime import UTC, datetime

from graft_api.comparison import progress
from graft_api.drift import Moment
from graft_api.ledger import Gate, GateState, LedgerDomain
from graft_api.promotion import ApprovalPolicy
from graft_api.schema import seconds_of
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.promotion import choosing, drifting, endings, gating, testing, turns, watching
from graft_operator.promotion.endings import LONGEST
from graft_operator.promotion.seen import Seen
from graft_operator.promotion.watching import Reader

SHOWN = 5
"""Names in a sentence, before the rest is a number."""
ALWAYS = datetime.min.replace(tzinfo=UTC)
"""At which no approval has expired."""


def words_of(seen: Seen, entry: LedgerDomain, now: datetime | None, read: Reader) -> str:
    """Return the sentence, at most 512 characters; empty: nothing is waited for."""
    gate = entry.gate
    if gate is None:
        return shorten(_nobody(seen, entry), LONGEST)
    if gate.missing is not None:
        return shorten(f"Adapter {gate.version.adapter} {_missing(gate.missing)}{_behind(seen, entry)}", LONGEST)
    told = {
        GateState.TESTING: lambda: _testing(seen, gate),
        GateState.AWAITING_APPROVAL: lambda: _awaiting(seen, entry, gate, now or ALWAYS),
        GateState.CHECKING: lambda: _checking(seen, gate),
        GateState.RAMPING: lambda: _ramping(seen, entry, gate),
        GateState.WATCHING: lambda: _watching(seen, entry, gate, read),
        GateState.UNCONFIRMED: lambda: _unconfirmed(seen, gate, now or ALWAYS),
    }[gate.state]()
    return shorten(f"Adapter {gate.version.adapter} {told}{_behind(seen, entry)}", LONGEST)


def _nobody(seen: Seen, entry: LedgerDomain) -> str:
    """Return why no candidate is on its way."""
    if seen.wanted.promotion is None:
        return ""
    if seen.wanted.pin is not None:
        return "spec.domains[].pin says what serves: no candidate begins until it is removed"
    if seen.wanted.paused:
        return "paused: no candidate begins until spec.domains[].paused is false"
    waiting = [candidate for candidate in seen.candidates if choosing.may_begin(entry, candidate)]
    if any(candidate.loaded for candidate in waiting) and not endings.has_room(seen, entry):
        return (
            f"the ledger has room for {endings.MOST_REJECTED} rejected digests: delete Adapters that are rejected, so that others can begin"
        )
    if waiting:
        return f"Adapter {_names(candidate.name for candidate in waiting)} begins once it is loaded on every ready replica"
    return f"waits for an Adapter with spec.promote that has not had its turn{_counted(seen, entry)}"


def _counted(seen: Seen, entry: LedgerDomain) -> str:
    """Return who counts as having had a turn for want of room in the ledger, and what helps; empty: nobody."""
    if entry.settled is None:
        return ""
    whose = [one for one in seen.candidates if one.promote and one.version != entry.active and turns.is_counted(entry, one)]
    if not whose:
        return ""
    told = f"Adapter {_names(one.name for one in whose)}, created by {entry.settled}, {'counts' if len(whose) == 1 else 'count'} as having"
    return f"; {told} had one, for the ledger has forgotten who had: {turns.ANEW}"


def _missing(since: str) -> str:
    until = rfc3339(parse_rfc3339(since) + choosing.RESTORED_WITHIN)
    return f"is not there since {since}: restored with the same name and artifact it goes on, else its turn is over at {until}"


def _testing(seen: Seen, gate: Gate) -> str:
    conflict, test = testing.conflict(seen, gate), testing.named(seen, gate)
    if conflict is not None:
        return f"waits: {conflict}"
    if test is None or test.deleting:
        return f"waits for its ShadowTest {gate.test} to be made"
    return f"is tested: ShadowTest {gate.test} is {test.status.phase or 'Pending'}{drifting.warning(gate)}"


def _awaiting(seen: Seen, entry: LedgerDomain, gate: Gate, now: datetime) -> str:
    policy = gate.policy.approval
    if not seen.words_count:
        return "waits: admission policies of approvals are missing, so that nobody's word counts; see the condition of the ModelEndpoint"
    counted = gating.tally(seen, entry, gate, now)
    has = f"{len(counted.approved)} of {counted.needed} approvals{_by(approval.author for approval in counted.approved)}"
    if not counted.reached:
        if len(counted.approved) >= counted.needed and counted.rejected:
            return f"has {has}, but {counted.rejected[-1].username} rejects it since: a newer approval must answer that"
        return f"awaits approval: {has}; {_who(policy)}; evidence {gate.evidence_digest}{drifting.warning(gate)}"
    if seen.wanted.paused:
        return f"has {has}, and is activated once spec.domains[].paused is false"
    return f"has {has}, and is activated once it is loaded on every ready replica"


def _checking(seen: Seen, gate: Gate) -> str:
    if drifting.record(gate, Moment.BEFORE).measured is not None:
        waits = "once spec.domains[].paused is false" if seen.wanted.paused else "once it is loaded on every ready replica"
        return f"is approved, its answers are near those of what serves, and it is activated {waits}"
    held = "; paused: no attempt begins until spec.domains[].paused is false" if seen.wanted.paused else ""
    why = drifting.trouble(seen, gate)
    return f"is approved{_by(approval.author for approval in gate.approvals)}, and its drift is measured: " + (
        f"{drifting.tried(gate, Moment.BEFORE)}{f'; its Job waits: {why}' if why else ''}{held}"
    )


def _ramping(seen: Seen, entry: LedgerDomain, gate: Gate) -> str:
    step = gate.policy.ramp[gate.step]
    over = progress(watching.observed_in_step(watching.heard(seen, entry, gate)) / 3600, seconds_of(step.duration) / 3600)
    held = "; paused: it stays at this step until spec.domains[].paused is false" if seen.wanted.paused else ""
    return f"ramps: step {gate.step + 1} of {len(gate.policy.ramp)}, {100 * float(step.share):g} % of conversations, {over} observed{held}"


def _watching(seen: Seen, entry: LedgerDomain, gate: Gate, read: Reader) -> str:
    fresh = watching.heard(seen, entry, gate)
    lacks = watching.missing(fresh, watching.readings(seen, entry, read))
    over = progress(watching.observed_in_step(fresh) / 3600, seconds_of(gate.policy.watch.window) / 3600)
    return (
        f"is watched: {'; '.join(lacks) if lacks else f'{over} observed'}; until {watching.deadline(gate):%Y-%m-%dT%H:%M:%SZ} at the latest"
    )


def _unconfirmed(seen: Seen, gate: Gate, now: datetime) -> str:
    counted = watching.confirming(seen, gate, now)
    needed = max(1, counted.needed)
    has = f"{len(counted.approved)} of {needed} new approvals{_by(approval.author for approval in counted.approved)}"
    asked = (
        f"{has} since {gate.since}; {_who(gate.policy.approval)}" if gate.policy.approval.users or gate.policy.approval.groups else "pin it"
    )
    return (
        f"serves unconfirmed, the watch ended with too little to judge: a human confirms it ({asked}), rejects it, or pins what shall serve"
    )


def _behind(seen: Seen, entry: LedgerDomain) -> str:
    count = len([candidate for candidate in seen.candidates if choosing.may_begin(entry, candidate)])
    return f"; {count} more {'waits' if count == 1 else 'wait'} for {'its' if count == 1 else 'their'} turn" if count else ""


def _who(policy: ApprovalPolicy) -> str:
    may = [f"users {_names(policy.users)}"] if policy.users else []
    may += [f"members of {_names(policy.groups)}"] if policy.groups else []
    return f"{' and '.join(may) or 'nobody'} may"


def _by(names: Iterable[str]) -> str:
    told = _names(names)
    return f" ({told})" if told else ""


def _names(names: Iterable[str]) -> str:
    known = list(names)
    rest = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return ", ".join(known[:SHOWN]) + rest
