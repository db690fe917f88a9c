"""Pairs on their way into a summary."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import MEAN_REACH, Kind, Metric
from graft_evaluation.paired.outcomes import clipped, worst

REACH = MEAN_REACH
"""Largest value in units of the resolution: sums of a block of pairs stay below 2^53 and are exact in float64."""
BLOCK = 65_536
"""Pairs that are summed at once: REACH x BLOCK < 2^53."""


@dataclass(frozen=True, eq=False)
class Batch:
    """
    Pairs: production requests that both sides were asked.

    Values have shape [metrics, pairs] in the order of the plan. NaN on both sides: this pair was not sampled for that metric. NaN on
    one side: that side's value never came, and counts as the worst.
    """

    clusters: NDArray[np.uint64]
    """Conversation key of each pair, shape [pairs]."""
    first_turn: NDArray[np.bool_]
    """Whether the pair opens its conversation, shape [pairs]."""
    seconds: NDArray[np.int64]
    """When the request came, in whole seconds since the epoch, shape [pairs]."""
    incumbent: NDArray[np.float64]
    candidate: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        pairs = (len(self.clusters),)
        if self.first_turn.shape != pairs or self.seconds.shape != pairs:
            raise ValueError(f"{pairs[0]} conversation keys, {self.first_turn.shape} first turns and {self.seconds.shape} times")
        if self.incumbent.shape != self.candidate.shape or self.incumbent.ndim != 2 or self.incumbent.shape[1:] != pairs:
            raise ValueError(f"values of shape {self.incumbent.shape} and {self.candidate.shape} for {pairs[0]} pairs")
        if self.clusters.dtype != np.uint64:
            raise ValueError(f"conversation keys are uint64, not {self.clusters.dtype}")

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.clusters)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the pairs from `start` to before `stop`."""
        here = slice(start, stop)
        return Batch(self.clusters[here], self.first_turn[here], self.seconds[here], self.incumbent[:, here], self.candidate[:, here])


@dataclass(frozen=True, eq=False)
class Column:
    """One metric's values of the pairs that were sampled for it, with every absence filled."""

    present: NDArray[np.intp] | None
    """Which pairs; None: all of them."""
    incumbent: NDArray[np.float64]
    candidate: NDArray[np.float64]
    missing: tuple[int, int]
    """How many values of the incumbent and of the candidate never came."""
    alone: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None
    """Where only the incumbent, and only the candidate, is at a mean's worst, shape as the values; None: nowhere."""

    def of(self, per_pair: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the entries of an array over all pairs that belong to this column."""
        return per_pair if self.present is None else per_pair[self.present]


def column(metric: Metric, incumbent: NDArray[np.float64], candidate: NDArray[np.float64]) -> Column:
    """Return one metric's column from both sides' values, shape [pairs]. Raises ValueError for values that it cannot have."""
    absent_b, absent_c = np.isnan(incumbent), np.isnan(candidate)
    present = None
    if absent_b.any() or absent_c.any():
        present = np.flatnonzero(~(absent_b & absent_c))
        absent_b, absent_c = absent_b[present], absent_c[present]
        filler = worst(metric)
        incumbent, candidate = np.where(absent_b, filler, incumbent[present]), np.where(absent_c, filler, candidate[present])
    incumbent, candidate = clipped(metric, incumbent), clipped(metric, candidate)
    if metric.kind is not Kind.QUANTILE:
        incumbent, candidate = _whole(metric, incumbent), _whole(metric, candidate)
    missing = (int(absent_b.sum()), int(absent_c.sum()))
    return Column(present, incumbent, candidate, missing, _alone(metric, incumbent, candidate))


def unit(metric: Metric) -> float:
    """Return what the whole numbers that are summed count: ones for a proportion, the resolution for a mean."""
    return 1.0 if metric.kind is Kind.PROPORTION else metric.resolution


def _alone(
    metric: Metric, incumbent: NDArray[np.float64], candidate: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Return where one side alone is at the worst, whether it never came or was measured so: then they weigh the same."""
    if metric.kind is not Kind.MEAN:
        return None
    lowest = np.rint(worst(metric) / unit(metric))
    at_b, at_c = incumbent == lowest, candidate == lowest
    return (at_b & ~at_c, at_c & ~at_b) if (at_b != at_c).any() else None


def _whole(metric: Metric, values: NDArray[np.float64]) -> NDArray[np.float64]:
    whole: NDArray[np.float64] = np.rint(values / unit(metric))
    if metric.kind is Kind.PROPORTION:
        if not ((values == 0) | (values == 1)).all():
            raise ValueError(f"{metric.name} is a proportion: its values are 0 and 1")
    elif whole.size and not np.abs(whole).max() <= REACH:
        raise ValueError(f"{metric.name} has a value beyond {REACH * unit(metric):g}: give it a coarser resolution")
    return whole
