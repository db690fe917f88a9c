"""
Sums of pairs by the hour, or by the day: what is kept of any number of pairs in bounded memory.

Pairs wait as rows of numbers until there are many, and are then added to their stretch's summary, which lies packed in between: a week of
pairs is some megabytes, however many they are. Summaries add up exactly, so hours can become days later, and all of them the whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from graft_api.collect import PairLine
from graft_evaluation.paired import wire
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.pairs.contrasts import add_tallies, batch_of

HOUR, DAY = 3600, 86_400
WAITING_ROWS = 1 << 17
"""Pairs of one contrast that wait, at 17 bytes and 16 of each metric."""


class Stretches:
    """Of one contrast, in whole hours or days of UTC."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seconds = HOUR
        self._waiting: dict[int, list[Batch]] = defaultdict(list)
        """By when the stretch begins, in seconds since 1970."""
        self._rows: Counter[int] = Counter()
        self._packed: dict[int, bytes] = {}
        self._tallies = Summary(plan)

    def add(self, lines: Sequence[PairLine]) -> Batch:
        """Add what lines say of this contrast. Returns their pairs."""
        add_tallies(self._tallies, lines)
        batch = batch_of(self.plan, lines)
        self._wait(batch)
        while self._rows.total() > WAITING_ROWS:
            self._pack(max(self._rows, key=self._rows.__getitem__))
        return batch

    def widen(self) -> None:
        """Go on by the day."""
        if self.seconds == DAY:
            return
        self.seconds = DAY
        waiting, self._waiting, self._rows = self._waiting, defaultdict(list), Counter()
        packed, self._packed = self._packed, {}
        for batches in waiting.values():
            for batch in batches:
                self._wait(batch)
        for start, data in packed.items():
            day = start // DAY * DAY
            summary = self._unpacked(day)
            summary.merge(wire.from_bytes(data))
            self._packed[day] = wire.to_bytes(summary)

    def sums(self) -> Iterator[tuple[int, Summary]]:
        """Yield begin and summary of each stretch that has pairs, one after another."""
        for start in sorted({*self._packed, *self._waiting}):
            yield start, self._with_waiting(start)

    def total(self) -> Summary:
        """Return the sum of all, with what was left out and what scorers failed on."""
        found = Summary(self.plan)
        found.merge(self._tallies)
        for data in self._packed.values():
            found.merge(wire.from_bytes(data))
        for batches in self._waiting.values():
            found.add(_together(batches))
        return found

    def _wait(self, batch: Batch) -> None:
        starts = batch.seconds // self.seconds * self.seconds
        for start in np.unique(starts).tolist():
            part = _part(batch, starts == start)
            self._waiting[start].append(part)
            self._rows[start] += len(part)

    def _pack(self, start: int) -> None:
        self._packed[start] = wire.to_bytes(self._with_waiting(start))
        del self._waiting[start], self._rows[start]

    def _with_waiting(self, start: int) -> Summary:
        summary = self._unpacked(start)
        if start in self._waiting:
            summary.add(_together(self._waiting[start]))
        return summary

    def _unpacked(self, start: int) -> Summary:
        data = self._packed.get(start)
        return Summary(self.plan) if data is None else wire.from_bytes(data)


def _part(batch: Batch, here: NDArray[np.bool_]) -> Batch:
    return Batch(batch.clusters[here], batch.first_turn[here], batch.seconds[here], batch.incumbent[:, here], batch.candidate[:, here])


def _together(parts: Sequence[Batch]) -> Batch:
    return Batch(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("clusters", "first_turn", "seconds")),
        *(np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("incumbent", "candidate")),
    )
