"""
The conversations of one watch: open ones, and sums over those that are closed. Pure; time is an argument.

    touch (a request came) -> add (its values are known) -> done -> nothing new for a while -> closed, in its arm's sums

A conversation belongs to the revision of the routes under which it was first seen: within one the versions' shares do not change, and
each conversation is weighted by the share of the other version's (`graft_api.watch.Moments` says why). One that goes over from one
version to the other, as a step of a ramp moves it, is counted up to there, and what comes later is nobody's: its earlier turns
were another version's.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum

from graft_api.watch import Moments, WatchedSums

MOST_REVISIONS = 64
"""Of which conversations are kept apart; of older ones the weights are taken to be final."""
CONVERSATION_BYTES, METRIC_BYTES = 512, 96
"""What an open conversation takes, and each metric in it, generously."""
CLOSED_EARLY, BOTH_VERSIONS, TOO_LATE = "closed-early", "both-versions", "too-late"
"""What is not as it should be: conversations closed for want of room, and requests that are counted in none."""


class Arm(IntEnum):
    """Where a conversation is."""

    NEW = 0
    HELD_BACK = 1

    @property
    def other(self) -> Arm:
        """Return the one it is compared with."""
        return Arm.HELD_BACK if self is Arm.NEW else Arm.NEW


@dataclass(slots=True)
class _Sum:
    """Of one metric and arm: see `Moments`."""

    clusters: int = 0
    values: float = 0.0
    total: float = 0.0
    values_squared: float = 0.0
    product: float = 0.0
    total_squared: float = 0.0
    crossed_values_squared: float = 0.0
    crossed_product: float = 0.0
    crossed_total_squared: float = 0.0

    def add(self, values: int, total: float) -> None:
        self.clusters += 1
        self.values += values
        self.total += total
        self.values_squared += values * values
        self.product += values * total
        self.total_squared += total * total

    def add_weighted(self, other: _Sum, weight: float) -> None:
        if not weight:
            return
        square, crossed = weight * weight, weight * (1.0 - weight)
        self.clusters += other.clusters
        self.values += weight * other.values
        self.total += weight * other.total
        self.values_squared += square * other.values_squared
        self.product += square * other.product
        self.total_squared += square * other.total_squared
        self.crossed_values_squared += crossed * other.values_squared
        self.crossed_product += crossed * other.product
        self.crossed_total_squared += crossed * other.total_squared

    def add_sums(self, other: _Sum) -> None:
        """Add what is weighted already."""
        for name in _Sum.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class _Revision:
    """Conversations that began under one revision of the routes."""

    def __init__(self, metrics: int) -> None:
        self.opened = [0, 0]
        """By arm, closed ones and those without a value included: what an arm does to its conversations does not change its share."""
        self.sums = [[_Sum() for _ in range(metrics)] for _ in Arm]
        self.past = False
        """Its sums are added up with those of other revisions already."""

    def add_to(self, total: _Sum, arm: Arm, place: int) -> None:
        total.add_weighted(self.sums[arm][place], self.opened[arm.other] / max(sum(self.opened), 1))


@dataclass(slots=True, eq=False)
class Conversation:
    """An open one."""

    arm: Arm
    revision: _Revision
    last: float
    """When something came, of the clock that `touch` is given."""
    sums: list[float]
    """Number of values and their sum, of each metric in turn."""
    pending: int = 0
    """Requests whose values are not known yet."""
    closed: bool = False
    """Counted; while it is known still, it has gone over to the other version, and counts no more."""


class Conversations:
    """Of one watch."""

    def __init__(self, names: Sequence[str], idle_seconds: float, most: int) -> None:
        """`names`: of the metrics, in their order. `most`: open ones, at most; what is beyond is closed when the next one comes."""
        self._names = names
        self._idle_seconds = idle_seconds
        self.most = most
        self._open: OrderedDict[bytes, Conversation] = OrderedDict()
        """The one that was quiet for the longest time comes first."""
        self._revisions: dict[tuple[int, int], _Revision] = {}
        self._past = [[_Sum() for _ in names] for _ in Arm]
        self.closed = [0, 0]
        """By arm."""
        self.left_out: Counter[str] = Counter()
        """By cause: see the constants above."""

    @property
    def open(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def touch(self, key: bytes, arm: Arm, revision: tuple[int, int], now: float) -> Conversation | None:
        """
        Return the conversation that a request is in, which then waits for its values; None for one that has been on both versions.

        `revision`: epoch and revision of the routes by which the request was routed.
        """
        known = self._open.get(key)
        if known is None:
            self._make_room()
            known = self._open[key] = Conversation(arm, self._revision(revision), now, [0.0] * (2 * len(self._names)))
            known.revision.opened[arm] += 1
        self._open.move_to_end(key)
        known.last = now
        if known.arm is not arm and not known.closed:
            self._close(known)
        if known.closed:
            self.left_out[BOTH_VERSIONS] += 1
            return None
        known.pending += 1
        return known

    def add(self, conversation: Conversation, place: int, value: float) -> None:
        """Add a value of the metric at this place."""
        conversation.sums[2 * place] += 1
        conversation.sums[2 * place + 1] += value

    def done(self, conversation: Conversation) -> None:
        """All values of one of its requests are known."""
        conversation.pending -= 1
        if conversation.closed:
            self.left_out[TOO_LATE] += 1

    def close_idle(self, now: float) -> int:
        """Close what was quiet for long enough. Returns how many were closed."""
        count = 0
        while self._open:
            key, oldest = next(iter(self._open.items()))
            if now - oldest.last < self._idle_seconds:
                break
            if oldest.pending:  # a scorer is slow: the conversation has not been quiet, as far as anybody knows
                oldest.last = now
                self._open.move_to_end(key)
                continue
            count += self._close(self._open.pop(key))
        return count

    def close_all(self) -> None:
        """Close what is open: nobody will be there to do it later."""
        while self._open:
            self._close(self._open.popitem(last=False)[1])

    def sums(self) -> list[WatchedSums]:
        """Return what is counted of the closed ones."""
        found = []
        for place, name in enumerate(self._names):
            new, held_back = (self._moments(arm, place) for arm in Arm)
            found.append(WatchedSums(name=name, new=new, held_back=held_back))
        return found

    def _moments(self, arm: Arm, place: int) -> Moments:
        total = _Sum()
        total.add_sums(self._past[arm][place])
        for revision in self._revisions.values():
            revision.add_to(total, arm, place)
        return Moments(**asdict(total))

    def _close(self, conversation: Conversation) -> int:
        """Count it. Returns 1, or 0 for one that was counted before."""
        if conversation.closed:
            return 0
        conversation.closed = True
        self.closed[conversation.arm] += 1
        if conversation.revision.past:
            self.left_out[TOO_LATE] += 1
            return 1
        for place, sums in enumerate(conversation.revision.sums[conversation.arm]):
            if values := int(conversation.sums[2 * place]):
                sums.add(values, conversation.sums[2 * place + 1])
        return 1

    def _make_room(self) -> None:
        while len(self._open) >= self.most:
            self.left_out[CLOSED_EARLY] += self._close(self._open.popitem(last=False)[1])

    def _revision(self, name: tuple[int, int]) -> _Revision:
        found = self._revisions.get(name)
        if found is None:
            found = self._revisions[name] = _Revision(len(self._names))
        if len(self._revisions) > MOST_REVISIONS:
            self._forget(min(self._revisions))
        return found

    def _forget(self, name: tuple[int, int]) -> None:
        oldest = self._revisions.pop(name)
        oldest.past = True
        for arm in Arm:
            for place in range(len(self._names)):
                oldest.add_to(self._past[arm][place], arm, place)
