"""
What is kept of a test's pairs: sums that add up to the same state in any order and in any split into segments.

Conversations are hashed into buckets, and a bucket's sums are all that the bootstrap needs: its Poisson weight is a pure function
of (seed, bucket, replicate), so a conversation that goes on in a later segment carries the same weight, and nothing about
conversations is remembered for it. Conversations in one bucket share a weight. They are independent, so the products of their
deviations vanish in the mean, and the variance (and skewness) of the resampled sums are those of resampling single
conversations; what is lost are degrees of freedom, of which 1,024 remain (random groups: Wolter 2007, Introduction to Variance
Estimation, chapter 2; for the bootstrap in one pass: Chamandy et al. 2012). In exchange a pair costs a few additions instead of
1,000 weights, and the number of replicates is chosen when the state is read.

Sums are whole numbers, hence exact: the same bits, whoever added them up.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import Kind, Metric
from graft_evaluation.paired import heaviest
from graft_evaluation.paired.batch import BLOCK, Batch, Column, column
from graft_evaluation.paired.bins import COUNT, bins_of
from graft_evaluation.paired.hashing import buckets_of
from graft_evaluation.paired.sample import Sample, empty

FIRST, LATER = 0, 1
"""Strata: pairs that open a conversation, and the others."""
PAIRS, INCUMBENT, CANDIDATE, APART = 0, 1, 2, 3
"""What is summed of a proportion or mean: pairs, both sides' values, and how far apart they are, |candidate - incumbent|."""
ONLY_INCUMBENT, ONLY_CANDIDATE = 0, 1
"""What is counted of a mean besides: pairs in which one side alone is at the worst. They are rare and weigh much."""
COLUMNS = 6
"""Of a proportion or mean in a conversation's row: the four sums and these two counts."""
SIDES = 2


@dataclass(frozen=True)
class Plan:
    """What is summed. Two summaries add up only if their plans are the same."""

    name: str
    metrics: tuple[Metric, ...]
    seed: int
    buckets: int = 1024
    capacity: int = 65_536
    """Conversations that are kept whole."""

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be summed."""
        if self.buckets & (self.buckets - 1) or self.buckets < 2:
            raise ValueError(f"{self.buckets} buckets: take a power of two")
        if len({metric.name for metric in self.metrics}) != len(self.metrics):
            raise ValueError("every metric needs a name of its own")

    @cached_property
    def summed(self) -> tuple[int, ...]:
        """Places of the proportions and means among the metrics."""
        return tuple(i for i, metric in enumerate(self.metrics) if metric.kind is not Kind.QUANTILE)

    @cached_property
    def binned(self) -> tuple[int, ...]:
        """Places of the quantiles among the metrics."""
        return tuple(i for i, metric in enumerate(self.metrics) if metric.kind is Kind.QUANTILE)


@dataclass
class Tallies:
    """Counts by name."""

    exclusions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(cause, side) -> requests."""
    scorer_failures: Counter[str] = field(default_factory=Counter)
    """Metric -> pairs that its scorer failed on."""
    transient_failures: Counter[str] = field(default_factory=Counter)
    """Metric -> those that another time it may not have failed on."""


class Summary:
    """The state of one contrast; grows by `add` and `merge`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pairs: NDArray[np.int64] = np.zeros(2, np.int64)
        """Per stratum."""
        self.sums: NDArray[np.int64] = np.zeros((len(plan.summed), 2, plan.buckets, 4), np.int64)
        """[proportion or mean, stratum, bucket, what is summed], in the metric's unit."""
        self.alone: NDArray[np.int64] = np.zeros((len(plan.summed), 2, plan.buckets, 2), np.int64)
        """[proportion or mean, stratum, bucket, which side alone is at a mean's worst], pairs."""
        self.bins: NDArray[np.uint32] = np.zeros((len(plan.binned), 2, SIDES, plan.buckets, COUNT), np.uint32)
        """[quantile, stratum, side, bucket, bin]."""
        self.missing: NDArray[np.int64] = np.zeros((len(plan.metrics), SIDES), np.int64)
        self.sketch: NDArray[np.int64] = np.zeros((heaviest.ROWS, heaviest.CELLS), np.int64)
        self.sample = Sample(plan.seed, plan.capacity, empty(1 + COLUMNS * len(plan.summed)))
        self.tallies = Tallies()

    def add(self, batch: Batch) -> None:
        """Add pairs. Raises ValueError, and adds nothing of that block, for values that a metric cannot have."""
        if len(batch.incumbent) != len(self.plan.metrics):
            raise ValueError(f"values of {len(batch.incumbent)} metrics for a plan of {len(self.plan.metrics)}")
        for start in range(0, len(batch), BLOCK):
            self._add_block(batch.part(start, start + BLOCK))

    def exclude(self, cause: str, side: str, count: int = 1) -> None:
        """Count requests that were left out, by cause and by the side that had it: Incumbent, Candidate or Both."""
        self.tallies.exclusions[cause, side] += count

    def fail(self, metric: str, count: int = 1, *, transient: bool = False) -> None:
        """Count pairs that a metric's scorer, not a model, failed on; they are absent on both sides. `transient`: it may pass."""
        tally = self.tallies.transient_failures if transient else self.tallies.scorer_failures
        tally[metric] += count

    def merge(self, other: "Summary") -> None:
        """Add another summary of the same plan. Raises ValueError for another plan."""
        if other.plan != self.plan:
            raise ValueError(f"summaries of {self.plan.name} and {other.plan.name} do not add up: their plans differ")
        for mine, theirs in (
            (self.pairs, other.pairs),
            (self.sums, other.sums),
            (self.alone, other.alone),
            (self.bins, other.bins),
            (self.missing, other.missing),
            (self.sketch, other.sketch),
        ):
            np.add(mine, theirs, out=mine)
        self.sample.merge(other.sample.table())
        self.tallies.exclusions.update(other.tallies.exclusions)
        self.tallies.scorer_failures.update(other.tallies.scorer_failures)
        self.tallies.transient_failures.update(other.tallies.transient_failures)

    def _add_block(self, batch: Batch) -> None:
        plan = self.plan
        columns = [column(m, b, c) for m, b, c in zip(plan.metrics, batch.incumbent, batch.candidate, strict=True)]
        stratum = np.where(batch.first_turn, FIRST, LATER)
        cell = stratum * plan.buckets + buckets_of(batch.clusters, plan.seed, plan.buckets)
        binned = [(bins_of(columns[i].incumbent), bins_of(columns[i].candidate)) for i in plan.binned]
        self.pairs += np.bincount(stratum, minlength=2)
        for place, i in enumerate(plan.summed):
            self._add_sums(place, columns[i], cell)
        for place, i in enumerate(plan.binned):
            self._add_bins(place, columns[i], cell, binned[place])
        self.missing += np.array([c.missing for c in columns], np.int64).reshape(-1, SIDES)
        self.sketch += heaviest.counted(batch.clusters, plan.seed)
        self.sample.add(batch.clusters, batch.seconds, self._rows(columns, len(batch)))

    def _add_sums(self, place: int, values: Column, cells: NDArray[np.intp]) -> None:
        cell = values.of(cells)
        length = 2 * self.plan.buckets
        target = self.sums[place].reshape(length, 4)
        target[:, PAIRS] += np.bincount(cell, minlength=length)
        apart = np.abs(values.candidate - values.incumbent)
        for what, weights in ((INCUMBENT, values.incumbent), (CANDIDATE, values.candidate), (APART, apart)):
            target[:, what] += np.bincount(cell, weights, length).astype(np.int64)
        for side, alone in enumerate(values.alone or ()):
            self.alone[place].reshape(length, SIDES)[:, side] += np.bincount(cell[alone], minlength=length)

    def _add_bins(self, place: int, values: Column, cells: NDArray[np.intp], binned: tuple[NDArray[np.intp], NDArray[np.intp]]) -> None:
        cell = values.of(cells)
        stratum, bucket = cell // self.plan.buckets, cell % self.plan.buckets
        target = self.bins[place].reshape(-1)
        for side, bins in enumerate(binned):
            row = (stratum * SIDES + side) * self.plan.buckets + bucket
            np.add.at(target, row * COUNT + bins, np.uint32(1))

    def _rows(self, columns: list[Column], pairs: int) -> NDArray[np.int64]:
        """Return what a conversation is remembered by, one row per pair: pairs, then of each proportion and mean COLUMNS."""
        rows = np.zeros((1 + COLUMNS * len(self.plan.summed), pairs), np.int64)
        rows[0] = 1
        for place, i in enumerate(self.plan.summed):
            values, first = columns[i], 1 + COLUMNS * place
            here = slice(None) if values.present is None else values.present
            rows[first + PAIRS, here] = 1
            rows[first + INCUMBENT, here] = values.incumbent
            rows[first + CANDIDATE, here] = values.candidate
            rows[first + APART, here] = np.abs(values.candidate - values.incumbent)
            for side, alone in enumerate(values.alone or ()):
                rows[first + APART + 1 + side, here] = alone
        return rows.T
