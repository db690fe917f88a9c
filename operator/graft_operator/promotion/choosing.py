"""Pure: whose turn it is. One candidate of a domain at a time is on its way; the others wait, or are superseded."""

from datetime import datetime, timedelta

from graft_api.ledger import Gate, GateState, LedgerDomain, Reason
from graft_api.promotion import Promotion
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.promotion import turns
from graft_operator.promotion.endings import Ending, ended, has_room, next_number, ordinal, passed_over, rejected
from graft_operator.promotion.naming import test_name
from graft_operator.promotion.seen import Candidate, Seen

RESTORED_WITHIN = timedelta(hours=1)
"""In which the objects of a backup are there again: a candidate that does not serve yet waits so long for its Adapter."""
NOT_YET_SERVING = frozenset({GateState.TESTING, GateState.AWAITING_APPROVAL, GateState.CHECKING})


def move(seen: Seen, entry: LedgerDomain, now: datetime) -> LedgerDomain | None:
    """Return the domain with the next candidate, or without one that a newer one supersedes; None: nothing is due."""
    policy = seen.wanted.promotion
    if policy is None or seen.wanted.paused or seen.wanted.pin is not None:
        return None
    waiting = eligible(seen, entry)
    if not waiting:
        return None
    if policy.on_newer == "Supersede":
        return _supersede(seen, entry, waiting, now) or _begin(seen, entry, waiting[-1], policy, now)
    return _begin(seen, entry, waiting[0], policy, now)


def eligible(seen: Seen, entry: LedgerDomain) -> list[Candidate]:
    """Return those who could begin, oldest first."""
    fit = [candidate for candidate in seen.candidates if candidate.loaded and may_begin(entry, candidate)]
    return sorted(fit, key=order)


def may_begin(entry: LedgerDomain, candidate: Candidate) -> bool:
    """Whether nothing but its turn and its loading keeps a candidate."""
    versions = (entry.active, entry.gate.version if entry.gate else None)
    if not candidate.promote or candidate.deleting or candidate.version.digest in {version.digest for version in versions if version}:
        return False
    return rejected(entry, candidate.version.digest) is None and turns.had(entry, candidate) is None


def order(candidate: Candidate) -> tuple[str, str]:
    """Return by what candidates take turns."""
    return candidate.created_at, candidate.name


def _begin(seen: Seen, entry: LedgerDomain, candidate: Candidate, policy: Promotion, now: datetime) -> LedgerDomain | None:
    if entry.gate is not None or not has_room(seen, entry):
        return None
    number, version = next_number(entry), candidate.version
    gate = Gate(
        number=number,
        version=version,
        adapter_uid=candidate.uid,
        policy=policy,
        state=GateState.TESTING,
        since=rfc3339(now),
        began=rfc3339(now),
        test=test_name(seen.endpoint, entry.name, number, candidate.name, candidate.uid, version.digest),
        switch=ordinal(entry),
    )
    return entry.model_copy(update={"gate": gate})


def _supersede(seen: Seen, entry: LedgerDomain, waiting: list[Candidate], now: datetime) -> LedgerDomain | None:
    """Return the domain without its gate if a newer one waits, else without the oldest of those that are older than the newest."""
    newest, gate = waiting[-1], entry.gate
    own = seen.own(gate) if gate else None
    if gate is not None and own is not None and gate.state in NOT_YET_SERVING and _is_newer(newest, own, gate) and has_room(seen, entry):
        return ended(
            seen, entry, gate, Ending(Reason.SUPERSEDED, f"Adapter {newest.name} is newer, and promotion.onNewer is Supersede"), now
        )
    if gate is not None and own is not None and own.uid == gate.adapter_uid and order(own) > order(newest):
        newest = own  # not one that a restore has made anew: who was first is not known any more, and a turn is lost for good
    older = next((candidate for candidate in waiting if order(candidate) < order(newest)), None)
    if older is None:
        return None
    return passed_over(seen, entry, older, Ending(Reason.SUPERSEDED, f"Adapter {newest.name} is newer, and came before its turn"), now)


def _is_newer(candidate: Candidate, own: Candidate, gate: Gate) -> bool:
    """Whether a candidate came after a gate's own. What a restore has made anew at about the same time does not tell who was first."""
    if own.uid != gate.adapter_uid:
        return parse_rfc3339(candidate.created_at) > parse_rfc3339(own.created_at) + RESTORED_WITHIN
    return order(candidate) > order(own)
