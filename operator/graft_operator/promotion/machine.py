"""
Pure: how a candidate comes into production, and out of it again. The whole story of a domain's gate, in the order in which it happens.

    people     who may approve has rejected something, or lifted a rejection       rejecting.py
    gate       Testing -> AwaitingApproval -> [Checking ->] activation             gating.py
               Ramping -> Watching -> Confirmed | RolledBack | Unconfirmed         watching.py
    drift      attempts to measure it, before activation and after the ramp        drifting.py
    turns      who has had one, and whose Adapter was deleted since                turns.py
    next       the next candidate begins                                           choosing.py

The ledger that comes out is written, with a precondition, before anything that follows from it. What is decided is decided from what was
seen and the ledger alone: a pass whose write was lost is simply decided again.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from graft_api.ledger import Gate, LedgerDomain, Rejected
from graft_api.watch import WatchReading
from graft_operator.promotion import choosing, endings, gating, rejecting, testing, turns, watching, words
from graft_operator.promotion.seen import Seen
from graft_operator.promotion.watching import Reader

MOST_STEPS = 256
"""In one pass: each ends a candidate for good or moves one on, so that there are far fewer."""


Note = Callable[[LedgerDomain, LedgerDomain], LedgerDomain]
"""Of the domain before and after one transition: the latter, with whatever is to be noted of it."""


def unnoted(_: LedgerDomain, after: LedgerDomain) -> LedgerDomain:
    """Note nothing."""
    return after


def advance(seen: Seen, entry: LedgerDomain, now: datetime, read: Reader = watching.READER, note: Note = unnoted) -> LedgerDomain:
    """
    Return the domain after all transitions that are due, each noted; the same again for what it returns.

    Pins are followed elsewhere (`modelendpoint.ledgers`): a gate sees that somebody else has switched by the number of the last switch.
    """
    return _after(_moves(seen, now, read), entry, note)


def retreat(seen: Seen, entry: LedgerDomain, now: datetime, read: Reader = watching.READER, note: Note = unnoted) -> LedgerDomain:
    """
    Return the domain without what must not serve on: shown to do harm, or rejected. Nothing else of it changes.

    For as long as what is seen may be forged (`Seen.words_count`): it leads to what served before, and never to anything new.
    """
    doubted = replace(seen, words_count=False)
    moves: list[Move] = [lambda entry: rejecting.move(doubted, entry, now), lambda entry: watching.retreat(doubted, entry, now, read)]
    return _after(moves, entry, note)


def rejected(entry: LedgerDomain, digest: str) -> Rejected | None:
    """Return why a digest may not serve this domain, by a pin neither; None: nothing is against it."""
    return endings.rejected(entry, digest)


def words_of(seen: Seen, entry: LedgerDomain, now: datetime | None = None, read: Reader = watching.READER) -> str:
    """
    Return one sentence on what the domain's promotion waits for; empty: there is no policy, and no gate.

    Without `now` approvals are shown as if none had expired.
    """
    return words.words_of(seen, entry, now, read)


def test_wanted(seen: Seen, entry: LedgerDomain) -> Gate | None:
    """Return the gate whose ShadowTest is to be made now: its name is `Gate.test`, its spec `testing.spec_of(gate)`."""
    return testing.wanted(seen, entry)


def readings(seen: Seen, entry: LedgerDomain, read: Reader = watching.READER) -> list[WatchReading]:
    """Return what the watch of a serving candidate shows at this moment, for people; empty: nothing is watched."""
    return watching.readings(seen, entry, read)


Move = Callable[[LedgerDomain], LedgerDomain | None]
"""A transition if it is due."""


def _moves(seen: Seen, now: datetime, read: Reader) -> list[Move]:
    """Return the transitions by precedence: reject, then what a pin or a deletion has done, then promotion."""
    return [
        lambda entry: rejecting.move(seen, entry, now),
        lambda entry: gating.move(seen, entry, now),
        lambda entry: watching.move(seen, entry, now, read),
        lambda entry: turns.deleted(seen, entry),
        lambda entry: choosing.move(seen, entry, now),
    ]


def _after(moves: list[Move], entry: LedgerDomain, note: Note) -> LedgerDomain:
    for _ in range(MOST_STEPS):
        after = _first(moves, entry)
        if after is None:
            return entry
        entry = note(entry, after)
    return entry


def _first(moves: list[Move], entry: LedgerDomain) -> LedgerDomain | None:
    return next((after for move in moves if (after := move(entry)) is not None and after != entry), None)
