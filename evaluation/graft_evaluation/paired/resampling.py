"""
Intervals from buckets: the clustered Poisson bootstrap with expanded percentiles, and the score interval where little differs.

Which interval serves which case was settled by simulation (bench/statistics): percentiles expanded for the effective number of
conversations hold 95 % for skewed sizes and for one heavy conversation; the bootstrap-t and the skewness-adjusted t do not with
a heavy conversation or rare events. Of quantiles the bootstrap's standard error holds it, and percentiles are too wide.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import Direction, Estimate, Kind, Method, Metric, Scale
from graft_evaluation.intervals import tango
from graft_evaluation.paired.batch import unit
from graft_evaluation.paired.bins import HIGHEST, quantile
from graft_evaluation.paired.student import critical
from graft_evaluation.paired.summary import APART, CANDIDATE, INCUMBENT, PAIRS

FEW_DISCORDANT = 200
"""Buckets with a discordant pair, below which a proportion's difference gets the score interval."""
FEW_DIFFERENT = 30
"""Buckets with any difference, below which percentiles of a mean say nothing."""
BEYOND = 2
"""
Effective conversations that must lie beyond a quantile on its thin side.

The effective number is that of pairs that are all alike within a conversation; of other pairs more lie beyond. In simulation the
intervals hold below this too; but a quantile that two customers make is theirs, not the traffic's.
"""

Weights = NDArray[np.float64]


class TooLittleError(ValueError):
    """The data allow no interval; the message says why."""


@dataclass(frozen=True, eq=False)
class Spread:
    """How the pairs lie in the buckets, `pairs` of shape [buckets]."""

    pairs: NDArray[np.float64]

    @cached_property
    def effective(self) -> float:
        """Return the effective number of conversations, (sum n)^2 / sum n^2 (Kish 1965, Survey Sampling, section 8.2)."""
        return float(self.pairs.sum() ** 2 / np.square(self.pairs).sum())

    def critical(self, sums: NDArray[np.float64] | None = None) -> float:
        """
        Return what multiplies the bootstrap's standard error in place of 1.96.

        Student's t, and the factor that resampling loses: sqrt(n / (n - 1)) in Hesterberg 2015 (The American Statistician 69:371,
        section 5.3), with the effective number of conversations for n, as a heavy one takes its share of the degrees of freedom
        (Carter, Schnepel and Steigerwald 2017, Rev. Econ. Stat. 99:698). Where the statistic is the mean per pair of `sums`, shape
        [buckets], each bucket's own loss is known: its deviation is short by its share h of the pairs, and is divided by 1 - h
        (the jackknife, CR3: Bell and McCaffrey 2002, Survey Methodology 28:169).
        """
        n = max(self.effective, 2.0)
        factor = n / (n - 1)
        if sums is not None:
            deviations = np.square(sums - self.pairs * (sums.sum() / self.pairs.sum()))
            lost = np.square(1 - np.minimum(self.pairs / self.pairs.sum(), 0.5))
            factor = float((deviations / lost).sum() / deviations.sum()) if deviations.any() else factor
        return critical(n - 1) * math.sqrt(factor)


def of_sums(metric: Metric, sums: NDArray[np.int64], weights: Weights) -> Estimate:
    """
    Return the estimate of a proportion or mean.

    `sums` has shape [buckets, 4] as a summary keeps them, `weights` [replicates, buckets]. Raises TooLittleError.
    """
    counted = sums * np.array([1.0, *[unit(metric)] * 3])
    pairs = float(counted[:, PAIRS].sum())
    if pairs == 0:
        raise TooLittleError("no pairs")
    spread = Spread(counted[:, PAIRS])
    different = int((sums[:, APART] > 0).sum())
    if metric.scale is Scale.ABSOLUTE and _score_serves(metric, different):
        return _score(metric, counted, spread)
    if different < FEW_DIFFERENT:
        raise TooLittleError(f"only {different} groups of conversations differ, {FEW_DIFFERENT} are needed")
    replicates = weights @ counted[:, : CANDIDATE + 1]
    # A replicate that drew no pair at all would divide by zero; with more than a handful of conversations there is none.
    replicates = replicates[replicates[:, PAIRS] > 0]
    b, c = replicates[:, INCUMBENT] / replicates[:, PAIRS], replicates[:, CANDIDATE] / replicates[:, PAIRS]
    both = Both(float(counted[:, INCUMBENT].sum()) / pairs, float(counted[:, CANDIDATE].sum()) / pairs, b, c)
    ratio = both.candidate / both.incumbent if metric.scale is Scale.RELATIVE and both.incumbent > 0 else 1.0
    return _percentiles(metric, spread, both, spread.critical(counted[:, CANDIDATE] - ratio * counted[:, INCUMBENT]))


def of_bins(metric: Metric, bins: NDArray[np.uint32], weights: Weights) -> Estimate:
    """
    Return the estimate of a quantile: the difference (or ratio) of the two sides' quantiles, resampled together.

    `bins` has shape [2 sides, buckets, bins], `weights` [replicates, buckets]. Raises TooLittleError.
    """
    q = metric.quantile
    if q is None:
        raise ValueError(f"{metric.name} is not a quantile")
    spread = Spread(bins[0].sum(axis=1, dtype=np.float64))
    if not spread.pairs.any():
        raise TooLittleError("no pairs")
    beyond = spread.effective * min(q, 1 - q)
    if beyond < BEYOND:
        raise TooLittleError(f"{beyond:.1f} effective conversations lie beyond the quantile, {BEYOND} are needed")
    points = [float(quantile(side.sum(axis=0, dtype=np.float64), q)) for side in bins]
    if min(points) >= HIGHEST:
        raise TooLittleError("both sides' quantile lies beyond the scale: too many answers never came")
    incumbent, candidate = (_replicated(side, weights, q) for side in bins)
    both = Both(points[0], points[1], incumbent, candidate)
    # Where some replicates end beyond the scale their standard error means nothing, and percentiles still do.
    read = _percentiles if max(incumbent.max(), candidate.max()) >= HIGHEST else _standard_errors
    return read(metric, spread, both, spread.critical())


@dataclass(frozen=True, eq=False)
class Both:
    """Both sides' statistic, on all pairs and in each replicate."""

    incumbent: float
    candidate: float
    incumbents: NDArray[np.float64]
    candidates: NDArray[np.float64]


def _percentiles(metric: Metric, spread: Spread, both: Both, expanded: float) -> Estimate:
    """
    Return the improvement with percentiles expanded to so many standard errors of a normal distribution.

    A relative margin m asks whether candidate - (1 + m) incumbent is above or below 0. Where the incumbent is positive in every
    replicate this is so exactly where candidate / incumbent - 1 is beyond m: the percentiles of the ratio are the margins that the
    linear contrast does not reject (Fieller 1954).
    """
    if metric.scale is Scale.RELATIVE:
        if both.incumbent <= 0 or both.incumbents.min() <= 0:
            raise TooLittleError("the incumbent's value is not clear of 0, so there is nothing to be relative to")
        point, replicates = both.candidate / both.incumbent - 1, both.candidates / both.incumbents - 1
    else:
        point, replicates = both.candidate - both.incumbent, both.candidates - both.incumbents
    tail = NormalDist().cdf(-expanded)
    low, high = (float(end) for end in np.quantile(replicates, [tail, 1 - tail]))
    return _oriented(metric, spread, both, (point, low, high), Method.BOOTSTRAP)


def _standard_errors(metric: Metric, spread: Spread, both: Both, wide: float) -> Estimate:
    """
    Return the improvement with so many bootstrap standard errors to either side, on the logarithmic scale where it is relative.

    The bootstrap's variance of a quantile is consistent (Hall and Martin 1988, Probability Theory and Related Fields 80:261).
    Percentiles of its replicates are too wide for a quantile in the tail: 97 % in simulation, where this is 95.5 %.
    """
    if metric.scale is Scale.RELATIVE:
        centre, replicates = math.log(both.candidate / both.incumbent), np.log(both.candidates / both.incumbents)
    else:
        centre, replicates = both.candidate - both.incumbent, both.candidates - both.incumbents
    half = wide * float(replicates.std())
    ends = (centre, centre - half, centre + half)
    point, low, high = (math.expm1(end) for end in ends) if metric.scale is Scale.RELATIVE else ends
    return _oriented(metric, spread, both, (point, low, high), Method.BOOTSTRAP)


def _score_serves(metric: Metric, different: int) -> bool:
    if metric.kind is Kind.PROPORTION:
        return different < FEW_DISCORDANT
    return metric.best is not None and different < FEW_DIFFERENT


def _score(metric: Metric, counted: NDArray[np.float64], spread: Spread) -> Estimate:
    """
    Return Tango's score interval on what conversations are worth as independent pairs.

    Counts are divided by the design effect, the variance of the buckets' sums over that of as many independent pairs (Rao and Scott
    1992, Biometrics 48:577); where each discordant conversation has one discordant pair it is 1, and the counts are discordant
    conversations. It is not taken below 1. For a mean with both ends known, a difference counts as its share of the range: no
    variable in [0, 1] varies more than the 0/1 variable with its mean.
    """
    span = 1.0 if metric.kind is Kind.PROPORTION else abs((metric.worst or 0.0) - (metric.best or 0.0))
    pairs, apart = float(spread.pairs.sum()), float(counted[:, APART].sum()) / span
    shift = (counted[:, CANDIDATE] - counted[:, INCUMBENT]) / span
    point = float(shift.sum()) / pairs
    independent = apart - pairs * point**2
    clustered = float(np.square(shift - point * spread.pairs).sum())
    effect = max(1.0, clustered / independent) if independent > 0 else 1.0
    plus, minus = max(apart + pairs * point, 0.0) / 2 / effect, max(apart - pairs * point, 0.0) / 2 / effect
    # The formula asks for no whole numbers, only the signature does.
    interval = tango(plus, minus, pairs / effect, spread.critical(shift))
    both = Both(float(counted[:, INCUMBENT].sum()) / pairs, float(counted[:, CANDIDATE].sum()) / pairs, np.zeros(0), np.zeros(0))
    return _oriented(metric, spread, both, (point * span, interval.low * span, interval.high * span), Method.SCORE)


def _oriented(metric: Metric, spread: Spread, both: Both, change: tuple[float, float, float], method: Method) -> Estimate:
    point, low, high = change
    if metric.direction is Direction.LOWER:
        point, low, high = -point, -high, -low
    return Estimate(
        improvement=point,
        # Percentiles of a lumpy distribution can end at the estimate, never beyond it.
        low=min(low, point),
        high=max(high, point),
        incumbent=both.incumbent,
        candidate=both.candidate,
        pairs=int(spread.pairs.sum()),
        method=method,
    )


def _replicated(side: NDArray[np.uint32], weights: Weights, q: float) -> NDArray[np.float64]:
    """Return one side's quantile in each replicate. Bins that nobody fell into are left out of the product: most of them."""
    used = np.flatnonzero(side.any(axis=0))
    # Counts of one bucket and bin are far below 2^24, where float32 is no longer exact; their sums need not be.
    replicates = weights.astype(np.float32) @ side[:, used].astype(np.float32)
    return quantile(replicates.astype(np.float64), q, used)
