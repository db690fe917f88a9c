"""
Whole conversations, in bounded memory: all of them up to a capacity, then a uniform sample that is still exact for each of its own.

Adaptive sampling (Wegman; analysed by Flajolet 1990, Computing 43:391): at level l the conversations whose hash begins with l zero
bits are kept, and the level is the lowest at which they fit. Whether a conversation is kept depends on the set of conversations
alone, never on their order; one that is kept at the end was kept all along, so its sums are complete.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft_evaluation.paired.hashing import SAMPLE_STREAM, Keys, stream


@dataclass(frozen=True, eq=False)
class Conversations:
    """
    A table of conversations in the order of their keys.

    `sums` has shape [conversations, columns]; whole numbers. `last` is when the last pair came, in seconds since the epoch.
    """

    level: int
    keys: Keys
    last: NDArray[np.int64]
    sums: NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many are in the table."""
        return len(self.keys)

    def distinct(self) -> int:
        """Return how many conversations there were: exactly at level 0, else with a standard error of 1.2 / sqrt(capacity)."""
        return len(self) << self.level


def empty(columns: int) -> Conversations:
    """Return a table of no conversations."""
    return Conversations(0, np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros((0, columns), np.int64))


class Sample:
    """Collects conversations. New rows wait until there are many: sorting the table for each small batch would be most of the work."""

    def __init__(self, seed: int, capacity: int, table: Conversations) -> None:
        self._seed = seed
        self._capacity = capacity
        self._table = table
        self._waiting: list[tuple[Keys, NDArray[np.int64], NDArray[np.int64]]] = []
        self._waiting_rows = 0

    def add(self, keys: Keys, seconds: NDArray[np.int64], sums: NDArray[np.int64]) -> None:
        """Add pairs, one row each: sums of shape [pairs, columns]."""
        kept = self._kept(keys, self._table.level)
        if kept is not None:
            keys, seconds, sums = keys[kept], seconds[kept], sums[kept]
        self._waiting.append((keys, seconds, sums))
        self._waiting_rows += len(keys)
        if self._waiting_rows > self._capacity:
            self.table()

    def merge(self, other: Conversations) -> None:
        """Add another table of the same seed and capacity."""
        self.table()
        if other.level > self._table.level:
            self._table = self._at_level(self._table, other.level)
        self.add(other.keys, other.last, other.sums)

    def table(self) -> Conversations:
        """Return the table with everything in it."""
        if self._waiting_rows:
            before = self._table
            keys = np.concatenate([before.keys, *(rows[0] for rows in self._waiting)])
            last = np.concatenate([before.last, *(rows[1] for rows in self._waiting)])
            sums = np.concatenate([before.sums, *(rows[2] for rows in self._waiting)])
            table = _grouped(before.level, keys, last, sums)
            while len(table) > self._capacity:
                table = self._at_level(table, table.level + 1)
            self._table = table
        self._waiting, self._waiting_rows = [], 0
        return self._table

    def _kept(self, keys: Keys, level: int) -> NDArray[np.intp] | None:
        if level == 0:
            return None
        return np.flatnonzero(stream(keys, self._seed, SAMPLE_STREAM) < np.uint64(1 << (64 - level)))

    def _at_level(self, table: Conversations, level: int) -> Conversations:
        kept = self._kept(table.keys, level)
        return Conversations(level, table.keys[kept], table.last[kept], table.sums[kept])


def _grouped(level: int, keys: Keys, last: NDArray[np.int64], sums: NDArray[np.int64]) -> Conversations:
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.intp)
    if not len(keys):
        return Conversations(level, keys, last, sums)
    return Conversations(level, keys[starts], np.maximum.reduceat(last[order], starts), np.add.reduceat(sums[order], starts, axis=0))
