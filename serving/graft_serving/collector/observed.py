"""
What is known of production's answers: counts by hour, domain, version and score, which add up in any order.

Values are summed as whole numbers, so that whoever adds up the commits comes to the same bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import orjson
import zstandard

from graft_evaluation.paired.bins import bins_of
from graft_serving.collector.commits import Algebra, Progress, Sealed, Sum

UNIT = 2.0**-20
"""Sums count whole multiples of this."""
MOST_HOURS = 35 * 24
"""
Hours that are added up here, the newest of those in which anything was seen; the commits keep all of them. A clock that was far ahead for
an hour takes the place of one, not of all before it.
"""
SUM = "observed"
HOUR_SECONDS = 3600
COVERED = ""
"""In place of domain, version and score: a cell whose `units` are the seconds of its hour in which a collector looked."""


class Key(NamedTuple):
    """Of one cell."""

    hour: int
    """Hours since 1970."""
    domain: str
    version: str
    score: str


@dataclass
class Cell:
    """Answers that one score was taken of, in one hour."""

    count: int = 0
    right: int = 0
    """Of a scorer; of a measure that is yes or no, the good ones."""
    units: int = 0
    """Sum of the values, in `UNIT`."""
    broken: Counter[str] = field(default_factory=Counter)
    """By cause: answers that the scorer failed on. Not in `count`."""
    bins: Counter[int] = field(default_factory=Counter)
    """Of a quantity: `graft_evaluation.paired.bins`."""

    def add(self, value: float, *, right: bool | None) -> None:
        """Count a score (`right` says whether it is right) or a quantity (None)."""
        self.count += 1
        self.units += round(value / UNIT)
        if right is None:
            self.bins[int(bins_of(np.array([value]))[0])] += 1
        else:
            self.right += right

    def merge(self, other: Cell) -> None:
        """Add another one."""
        self.count += other.count
        self.right += other.right
        self.units += other.units
        self.broken.update(other.broken)
        self.bins.update(other.bins)


class ObservedSum:
    """See `chain.Sum`."""

    def __init__(self) -> None:
        self.cells: dict[Key, Cell] = {}

    def cell(self, key: Key) -> Cell:
        """Return the cell, a new one if there is none."""
        return self.cells.setdefault(key, Cell())

    def merge(self, other: Sum) -> None:
        """See `Sum`."""
        for key, cell in cast("ObservedSum", other).cells.items():
            self.cell(key).merge(cell)
        hours = {key.hour for key in self.cells}
        if len(hours) > MOST_HOURS:
            oldest = sorted(hours)[-MOST_HOURS]
            self.cells = {key: cell for key, cell in self.cells.items() if key.hour >= oldest}

    def to_bytes(self) -> bytes:
        """See `Sum`. Equal sums give equal bytes."""
        rows = [
            [*key, cell.count, cell.right, cell.units, sorted(cell.broken.items()), sorted(cell.bins.items())]
            for key, cell in sorted(self.cells.items())
        ]
        return zstandard.ZstdCompressor(level=6).compress(orjson.dumps(rows))

    @classmethod
    def from_bytes(cls, data: bytes) -> ObservedSum:
        """Return it. Raises ValueError for what `to_bytes` did not write."""
        found = cls()
        try:
            for hour, domain, version, score, count, right, units, broken, bins in orjson.loads(
                zstandard.ZstdDecompressor().decompress(data)
            ):
                found.cells[Key(hour, domain, version, score)] = Cell(count, right, units, Counter(dict(broken)), Counter(dict(bins)))
        except (zstandard.ZstdError, TypeError) as error:
            raise ValueError("no sums of observed answers") from error
        return found


def observed_algebra() -> Algebra[Sum]:
    """Return how observations add up."""
    return Algebra(empty=lambda: {SUM: ObservedSum()}, read=ObservedSum.from_bytes)


class ObservedSegment:
    """See `journal.Open`: sums alone, no lines."""

    def __init__(self) -> None:
        self.size = 0
        self.sum = ObservedSum()

    @property
    def empty(self) -> bool:
        """See `Open`."""
        return not self.sum.cells

    def cell(self, key: Key) -> Cell:
        """Return the cell to count in."""
        if key not in self.sum.cells:
            self.size += 512
        return self.sum.cell(key)

    def seal(self, began: float, ended: float, progress: Progress) -> Sealed[Sum]:
        """See `Open`. What it was open for was looked at: with its answers that counts or is lost, too."""
        for hour, seconds in hours_between(began, ended):
            self.sum.cell(Key(hour, COVERED, COVERED, COVERED)).units += round(seconds / UNIT)
        return Sealed(began, ended, b"", 0, {SUM: self.sum} if self.sum.cells else {}, progress)


def hours_between(began: float, ended: float) -> Iterator[tuple[int, float]]:
    """Yield hours since 1970 with the seconds of each."""
    for hour in range(int(began // HOUR_SECONDS), int(ended // HOUR_SECONDS) + 1):
        seconds = min(ended, (hour + 1) * HOUR_SECONDS) - max(began, hour * HOUR_SECONDS)
        if seconds > 0:
            yield hour, seconds
