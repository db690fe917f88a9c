"""
Pure: who has had its turn. Each Adapter has one, known by name and digest until its deletion is seen.

    ended      how its way ended, with all that is known of it                the last 32 of a domain
    spent      a fingerprint: of what `ended` forgets, or what was replaced   the last 128
    settled    until when it was created: what `spent` has no room for

The last one strikes also who never had a turn: without it, each of very many adapters would have theirs again for ever.
"""

from graft_api.ledger import Ended, LedgerDomain, LedgerVersion, Reason
from graft_operator.promotion.naming import fingerprint
from graft_operator.promotion.seen import Candidate, Seen

MOST_ENDED = 32
MOST_SPENT = 128
ANEW = "an Adapter that is deleted and created again has another one"
BY_PEOPLE = frozenset({Reason.REJECTED, Reason.ROLLED_BACK})
"""Ends that `LedgerDomain.rejected` knows, until a newer quorum lifts them."""


def had(entry: LedgerDomain, candidate: Candidate) -> str | None:
    """Return why an Adapter has no turn any more, in words; None: it has."""
    name, digest = candidate.name, candidate.version.digest
    ends = [told for told in _since_rejected(entry, entry.ends_of(name, digest, candidate.uid)) if told.had_its_turn()]
    if ends:
        return f"it had its turn, and ended {ends[-1].reason.value} at {ends[-1].at}; {ANEW}"
    if fingerprint(name, digest) in entry.spent:
        return f"it had its turn: it served before, or its end is forgotten; {ANEW}"
    if is_counted(entry, candidate):
        told = f"the ledger has forgotten who had a turn of those that were created by {entry.settled}, so it counts as having had one"
        return f"{told}; {ANEW}"
    return None


def is_counted(entry: LedgerDomain, candidate: Candidate) -> bool:
    """Whether an Adapter of whose turn nothing is known counts as having had it."""
    name, digest = candidate.name, candidate.version.digest
    known = bool(entry.ends_of(name, digest, candidate.uid)) or fingerprint(name, digest) in entry.spent
    return not known and entry.settled is not None and candidate.created_at <= entry.settled


def spent(seen: Seen, entry: LedgerDomain, version: LedgerVersion | None) -> LedgerDomain:
    """Return the domain that knows that a version has had its turn, however it came to serve. None: the base model has none."""
    if version is None:
        return entry
    return _noted(seen, entry, version.adapter, version.digest)


def rejected(seen: Seen, entry: LedgerDomain, digest: str) -> LedgerDomain:
    """Return the domain that knows by the rejection of a digest alone that it has no turn: a newer quorum gives it one."""
    there = [*(candidate.version for candidate in seen.candidates), *entry.versions()]  # its object may be away, as in a restore
    prints = {fingerprint(version.adapter, digest) for version in there if version.digest == digest}
    return entry.model_copy(update={"spent": [one for one in entry.spent if one not in prints]})


def deleted(seen: Seen, entry: LedgerDomain) -> LedgerDomain | None:
    """
    Return the domain that knows whose Adapter is being deleted, so that another one of its name has a turn; None: it does.

    An Adapter's finalizer waits for it (`adapter.decide`). What vanishes unseen was lost, and is the same one when it is restored.
    """
    going = {(candidate.name, candidate.version.digest) for candidate in seen.candidates if candidate.deleting}
    prints = {fingerprint(*one) for one in going}
    gone = [told.number for told in entry.ended if told.number in entry.gone or (told.adapter, told.digest) in going]
    after = entry.model_copy(update={"gone": gone, "spent": [one for one in entry.spent if one not in prints]})
    return after if after != entry else None


def knows(entry: LedgerDomain, adapter: str, digest: str) -> bool:
    """Whether the ledger would take an Adapter that is made anew for this one, for it has not noted its deletion (yet)."""
    gate = entry.gate
    if gate is not None and (gate.version.adapter, gate.version.digest) == (adapter, digest):
        return True
    if any((told.adapter, told.digest) == (adapter, digest) and told.number not in entry.gone for told in entry.ended):
        return True
    return fingerprint(adapter, digest) in entry.spent


def remember(seen: Seen, entry: LedgerDomain, told: Ended) -> LedgerDomain:
    """Add the end of a way; the oldest that decides least is forgotten if there is no room: never the last one, which numbers the next."""
    kept = [*entry.ended, told]
    if len(kept) <= MOST_ENDED:
        return entry.model_copy(update={"ended": kept})
    serving = {version.digest for version in (entry.active, entry.previous) if version}
    last = max(known.number for known in kept)
    dropped = min(
        (known for known in kept[:-1] if known.number != last),
        key=lambda known: (known.digest in serving, known.had_its_turn() and known.number not in entry.gone, known.number),
    )
    kept.remove(dropped)
    after = entry.model_copy(update={"ended": kept, "gone": [number for number in entry.gone if number != dropped.number]})
    return _noted(seen, after, dropped.adapter, dropped.digest) if outlasts(entry, dropped) else after


def outlasts(entry: LedgerDomain, told: Ended) -> bool:
    """Whether an end must stay known when it is forgotten: its Adapter may still be there, and nothing else bars it."""
    return told.had_its_turn() and told.number not in entry.gone and told.reason not in BY_PEOPLE


def _since_rejected(entry: LedgerDomain, ends: list[Ended]) -> list[Ended]:
    """
    Return the ends of an Adapter that came after its rejection, if that was lifted: a newer quorum lets it begin anew.

    Without clocks: numbers are given once, and an end by rejection that came after the lift would have rejected it anew.
    """
    lifted = {known.digest: known.ends for known in entry.rejected if known.lifted_at is not None}
    return [told for told in ends if told.digest not in lifted or (told.number > lifted[told.digest] and told.reason not in BY_PEOPLE)]


def _noted(seen: Seen, entry: LedgerDomain, adapter: str, digest: str) -> LedgerDomain:
    one = fingerprint(adapter, digest)
    kept = [*(known for known in entry.spent if known != one), one]
    if len(kept) <= MOST_SPENT:
        return entry.model_copy(update={"spent": kept})
    created = {fingerprint(candidate.name, candidate.version.digest): candidate.created_at for candidate in seen.candidates}
    # One that is there no more is dropped for nothing; else the one that came first.
    dropped = min(kept[:-1], key=lambda known: created.get(known, ""))
    kept.remove(dropped)
    settled = max(entry.settled or "", created.get(dropped, "")) or None
    return entry.model_copy(update={"spent": kept, "settled": settled})
