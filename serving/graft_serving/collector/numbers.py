"""
Which exchanges were taken, so that none counts twice, and how many never came, so that none is missed silently.

A gateway numbers what it chose, when it chose it; frames come when exchanges end, so a long answer's number comes after higher ones.
A number is *open* here while its exchange is in memory and *settled* once what became of it is in the open segment; only settled
numbers are written down, in the commit that holds what became of them, and of open ones how many they were. Who reads a commit knows by
that what is under way. Who goes on after a crash takes it for lost, as it is; an exchange whose batch is sent again because its answer
was lost is recognised if it was settled, and taken if it was not.

A number that has not come for as long as an exchange may take is *closed*, by its age and never by how many others came meanwhile:
slow answers are the hard ones, and must not be the ones that are left out.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

from pydantic import Field

from graft_api.schema import Count, Model
from graft_api.tee import Dropped
from graft_serving.collector.settled import ROOM, Settled

LONGEST_SECONDS = 3600.0
"""From an exchange's number to its arrival, at most. What comes later is lost, under `CAME_LATE`."""
MARK_SECONDS = 60.0
"""Between two moments of which it is remembered what was numbered then."""
EARLIER = 1 << 20
"""Numbers from before this collector looked that may still come."""
NEVER_CAME = "never-came"
CAME_LATE = "came-late"
MOST_BOOTS = 256
SILENT_SECONDS = 120.0
"""A gateway that has said nothing for so long is taken for dead, until it says something."""
UNDER_WAY_SECONDS = 600.0
"""For so long the fewest numbers that were not accounted for are held against a gateway: the others may be exchanges under way."""
NO_LOSS = frozenset({Dropped.NOT_REPEATABLE.value})
"""What gateways give up because it is no pair, not because there was no room."""


class BootState(Model):
    """What is known of one gateway's numbers."""

    base: Count
    """Numbers up to here may be of a time before this collector looked: it does not wait for them."""
    floor: Count
    """Numbers up to here are closed."""
    above: str
    """The settled ones of those above: `Settled.to_text`."""
    closed: Count = 0
    """Numbers up to here were closed by their age."""
    late: Count = 0
    """Came when they were closed."""
    settled: Count
    """Above `base`."""
    held: Count
    """Those above `base` that were open when this was written."""
    least: Count
    """The fewest numbers that were not accounted for in the last two windows of time."""
    numbered: Count
    dropped: dict[str, Count]
    dropped_before: dict[str, Count]
    heard: float
    """Seconds since 1970."""


class NumbersState(Model):
    """What is written down with each commit."""

    boots: dict[str, BootState] = Field(default_factory=dict)
    past: dict[str, Count] = Field(default_factory=dict)
    """Losses by cause of gateways that are gone and forgotten."""


@dataclass
class _Boot:
    base: int
    heard: float
    dropped_before: dict[str, int]
    taken: Settled = field(default_factory=Settled)
    settled: int = 0
    closed: int = 0
    late: int = 0
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    """When how many were numbered."""
    open: set[int] = field(default_factory=set)
    held: int = 0
    """Open in the memory of whoever wrote down what is read here."""
    numbered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    least: tuple[float, float] = (math.inf, math.inf)
    """The fewest numbers that were not accounted for, in the last window of time and in this one."""
    window: float = 0.0

    def take(self, number: int) -> bool:
        if number in self.open:
            return False
        if number in self.taken:
            self.late += self.base < number <= self.closed  # so old that nobody sends it again: it comes for the first time
            return False
        if number > self.taken.floor + ROOM:
            self.late += 1
            return False
        self.open.add(number)
        return True

    def settle(self, number: int) -> None:
        self.open.discard(number)
        self.taken.add(number)
        self.settled += number > self.base

    def mark(self, now: float) -> None:
        """Close what is too old to come, but nothing that is here."""
        if not self.marks or abs(now - self.marks[-1][0]) >= MARK_SECONDS:
            self.marks.append((now, self.numbered))
        while self.marks and now - self.marks[0][0] > LONGEST_SECONDS:
            through = min(self.marks[0][1], min(self.open, default=math.inf) - 1)
            self.taken.close(int(through))
            self.closed = max(self.closed, int(through))
            if through < self.marks[0][1]:
                return
            self.marks.popleft()

    def told(self) -> dict[str, int]:
        """Return what the gateway dropped since we look, by cause."""
        since = {cause: count - self.dropped_before.get(cause, 0) for cause, count in self.dropped.items()}
        return {cause: count for cause, count in since.items() if count > 0}

    def watch(self, now: float) -> None:
        """Look at what is not accounted for: lost, or under way."""
        if now - self.window > UNDER_WAY_SECONDS:
            self.window, self.least = now, (self.least[1], math.inf)
        self.least = (self.least[0], min(self.least[1], self.unaccounted()))

    def unaccounted(self) -> int:
        here = self.settled + self.late + self.waiting()
        return max(0, self.numbered - self.base - here - sum(self.told().values()))

    def waiting(self) -> int:
        return self.held + sum(number > self.base for number in self.open)

    def fewest(self) -> int:
        """Return the fewest numbers that were not accounted for, of late and now."""
        return int(min(*self.least, self.unaccounted()))

    def vanished(self, now: float) -> int:
        """
        Return how many numbers never came and were not told of, as far as can be known.

        What is not accounted for is lost or under way, and what is lost stays so: at no time were there fewer. Of a gateway that is dead
        nothing is under way.
        """
        return self.unaccounted() if now - self.heard > SILENT_SECONDS else self.fewest()


class Numbers:
    """Of one lane."""

    def __init__(self, state: NumbersState | None = None) -> None:
        """Go on from what is written down: what was open then is lost, unless it is sent again."""
        state = state or NumbersState()
        self._past: Counter[str] = Counter(state.past)
        self._boots = {boot: _restored(known) for boot, known in state.boots.items()}

    @classmethod
    def read(cls, state: NumbersState) -> Numbers:
        """Return the numbers as they were when `state` was written, to be looked at: what was open or under way then is not lost."""
        numbers = cls(state)
        for boot, known in state.boots.items():
            numbers._boots[boot].held, numbers._boots[boot].least = known.held, (known.least, math.inf)
        return numbers

    def heard(self, boot: str, lowest: int | None, numbered: int, dropped: dict[str, int], now: float) -> None:
        """A batch came, whose lowest number is `lowest`; the other two are what its headers say. Before `take`."""
        known = self._boots.get(boot)
        if known is None:
            if len(self._boots) >= MOST_BOOTS:
                self._forget(min(self._boots, key=lambda name: self._boots[name].heard), now)
            # A gateway that brings its first number is new. Of another nobody knows what it brought to whom before.
            fresh = lowest == 1
            base = 0 if fresh else numbered
            known = self._boots[boot] = _Boot(base, now, {} if fresh else dict(dropped), Settled(max(0, base - EARLIER)), window=now)
        known.heard = now
        known.numbered = max(known.numbered, numbered)
        known.dropped = {cause: max(count, known.dropped.get(cause, 0)) for cause, count in {**known.dropped, **dropped}.items()}

    def watch(self, now: float) -> None:
        """Now and then, and when a batch is taken."""
        for known in self._boots.values():
            known.mark(now)
            if now - known.heard <= SILENT_SECONDS:
                known.watch(now)
        for boot in [boot for boot, known in self._boots.items() if now - known.heard > LONGEST_SECONDS and not known.open]:
            self._forget(boot, now)

    def take(self, boot: str, number: int) -> bool:
        """Whether this exchange is new; it is open from now on."""
        return self._boots[boot].take(number)

    def settle(self, boot: str, number: int) -> None:
        """What became of an open exchange is in the open segment."""
        known = self._boots.get(boot)
        if known is not None:
            known.settle(number)

    def let_go(self) -> None:
        """Nothing that is open will be settled any more."""
        for known in self._boots.values():
            known.open.clear()

    def lost(self, now: float) -> dict[str, int]:
        """Return how many exchanges did not come, by cause: what gateways say, and `never-came`."""
        found = Counter(self._past)
        for known in self._boots.values():
            found.update(known.told())
            found[NEVER_CAME] += known.vanished(now)
            found[CAME_LATE] += known.late
        return {cause: count for cause, count in sorted(found.items()) if count}

    def state(self) -> NumbersState:
        """Return what is settled at this moment, and how much is not."""
        boots = {
            boot: BootState(
                base=known.base,
                floor=known.taken.floor,
                above=known.taken.to_text(),
                closed=known.closed,
                late=known.late,
                settled=known.settled,
                held=known.waiting(),
                least=known.fewest(),
                numbered=known.numbered,
                dropped=dict(known.dropped),
                dropped_before=dict(known.dropped_before),
                heard=known.heard,
            )
            for boot, known in self._boots.items()
        }
        return NumbersState(boots=boots, past=dict(self._past))

    def _forget(self, boot: str, now: float) -> None:
        known = self._boots.pop(boot)
        self._past.update(known.told())
        self._past[NEVER_CAME] += known.vanished(now)
        self._past[CAME_LATE] += known.late


def _restored(state: BootState) -> _Boot:
    return _Boot(
        base=state.base,
        heard=state.heard,
        dropped_before=dict(state.dropped_before),
        taken=Settled.of(state.floor, state.above),
        closed=state.closed,
        late=state.late,
        settled=state.settled,
        numbered=state.numbered,
        dropped=dict(state.dropped),
    )
