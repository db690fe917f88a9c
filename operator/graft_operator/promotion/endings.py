"""Pure: how a candidate's way ends, and what the ledger keeps of it. Its lists are bounded; what still decides something stays longest."""

from dataclasses import dataclass, field
from datetime import datetime

from graft_api.ledger import CountedApproval, Ended, Gate, LedgerDomain, LedgerVersion, Reason, Rejected, Switch, WatchRecord
from graft_operator.engine.clock import rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.promotion import drifting, turns
from graft_operator.promotion.seen import Candidate, Seen

HISTORY = 32
MOST_REJECTED = 64
LONGEST = 512
"""Characters of a message in the ledger."""
GRAFT = "graft"
"""Author of a rejection that nobody spoke."""


@dataclass(frozen=True)
class Ending:
    """How a way ends."""

    reason: Reason
    message: str
    abort: bool = False
    approvals: list[CountedApproval] = field(default_factory=list)
    """Instead of those of the gate, where there are any."""


def ordinal(entry: LedgerDomain) -> int:
    """Return the number of the domain's last switch, 0 before the first."""
    return entry.history[-1].ordinal if entry.history else 0


def next_number(entry: LedgerDomain) -> int:
    """Return the number of the next candidate. The highest one is never forgotten."""
    return max([entry.gate.number if entry.gate else 0, *(ended.number for ended in entry.ended)]) + 1


def switched(entry: LedgerDomain, after: LedgerVersion | None, reason: str, message: str, now: datetime) -> LedgerDomain:
    """Return the domain with another version in service; what served before is not kept."""
    switch = Switch(
        ordinal=ordinal(entry) + 1,
        at=rfc3339(now),
        reason=reason,
        message=shorten(message, LONGEST),
        before=entry.active.adapter if entry.active else None,
        after=after.adapter if after else None,
    )
    history = [*entry.history, switch][-HISTORY:]
    return entry.model_copy(update={"active": after, "previous": None, "since": switch.at, "history": history})


def ended(seen: Seen, entry: LedgerDomain, gate: Gate, ending: Ending, now: datetime) -> LedgerDomain:
    """Return the domain without its gate, and with how that ended."""
    told = Ended(
        number=gate.number,
        adapter=gate.version.adapter,
        adapter_uid=gate.adapter_uid,
        digest=gate.version.digest,
        reason=ending.reason,
        message=shorten(ending.message, LONGEST),
        at=rfc3339(now),
        test=gate.test,
        evidence_digest=gate.evidence_digest,
        approvals=ending.approvals or gate.approvals,
        abort=ending.abort,
        served=gate.watch is not None,
    )
    return turns.remember(seen, entry.model_copy(update={"gate": None}), told)


def passed_over(seen: Seen, entry: LedgerDomain, candidate: Candidate, ending: Ending, now: datetime) -> LedgerDomain:
    """Return the domain with the end of an adapter that has no gate: given up before it began, or long confirmed."""
    told = Ended(
        number=next_number(entry),
        adapter=candidate.name,
        adapter_uid=candidate.uid,
        digest=candidate.version.digest,
        reason=ending.reason,
        message=shorten(ending.message, LONGEST),
        at=rfc3339(now),
        approvals=ending.approvals,
        abort=ending.abort,
    )
    return turns.remember(seen, entry, told)


def rolled_back(seen: Seen, entry: LedgerDomain, why: Rejected | None, ending: Ending, now: datetime) -> LedgerDomain:
    """
    Return the domain back on what served before, or on the base model if that is rejected itself; the gate of what served ends.

    With `why` the version may not serve again. A gate of another candidate ends later, by the number of the switch.
    """
    entry = entry if why is None else with_rejected(seen, entry, why)
    back = entry.previous if entry.previous is not None and rejected(entry, entry.previous.digest) is None else None
    gone, gate = entry.active, entry.gate
    after = switched(entry, back, str(ending.reason), ending.message, now)
    if gate is not None and gone == gate.version and gate.watch is not None:
        after = ended(seen, after, gate, ending, now)
    elif gone is not None and (uid := _uid(seen, entry, gone)) is not None:
        candidate = Candidate(gone.adapter, uid, gone, created_at="", promote=False, deleting=False, loaded=False)
        after = passed_over(seen, after, candidate, ending, now)
    return after


def without_previous(entry: LedgerDomain, now: datetime) -> LedgerDomain:
    """
    Return the domain without a version to go back to.

    Where conversations were held back on it they go to the base model, and the watch begins anew under another number: what was counted
    of the two is not what is compared from now on.
    """
    update: dict[str, object] = {"previous": None}
    if (gate := entry.gate) is not None and gate.watch is not None:
        anew = {"number": next_number(entry), "watch": WatchRecord(began=rfc3339(now))}
        told = drifting.given_up(gate, "the version before it is gone")
        update["gate"] = told.model_copy(update=anew)
    return entry.model_copy(update=update)


def rejected(entry: LedgerDomain, digest: str) -> Rejected | None:
    """Return why a digest may not serve this domain; None: nothing is against it."""
    return next((known for known in entry.rejected if known.digest == digest and known.lifted_at is None), None)


def with_rejected(seen: Seen, entry: LedgerDomain, why: Rejected) -> LedgerDomain:
    """Return the domain with a digest that may not serve it. What can be chosen no more is forgotten for it, if there is no room."""
    why = why.model_copy(update={"ends": next_number(entry) - 1})
    kept = [*(known for known in entry.rejected if known.digest != why.digest), why]
    if len(kept) > MOST_REJECTED:
        held = _digests(seen, entry)
        # Oldest first among those that nobody can choose, then the lifted ones; choosing.py begins nothing before it comes to the rest.
        dropped = min(kept[:-1], key=lambda known: (known.digest in held, known.lifted_at is None))
        kept.remove(dropped)
    return turns.rejected(seen, entry.model_copy(update={"rejected": kept}), why.digest)


def has_room(seen: Seen, entry: LedgerDomain) -> bool:
    """Whether the candidate and what serves could both be rejected without forgetting the rejection of what could still be chosen."""
    held = _digests(seen, entry)
    return sum(known.digest in held and known.lifted_at is None for known in entry.rejected) <= MOST_REJECTED - 2


def _digests(seen: Seen, entry: LedgerDomain) -> set[str]:
    """Return what could serve, or does."""
    return {candidate.version.digest for candidate in seen.candidates} | {version.digest for version in entry.versions()}


def _uid(seen: Seen, entry: LedgerDomain, version: LedgerVersion) -> str | None:
    """Return the uid of a version's Adapter: as it is there, else as a gate of it had it."""
    here = (candidate.uid for candidate in seen.candidates if candidate.version == version)
    known = (told.adapter_uid for told in reversed(entry.ended) if (told.adapter, told.digest) == (version.adapter, version.digest))
    return next(here, None) or next(known, None)
