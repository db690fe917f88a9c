"""
Intervals from buckets: the clustered Poisson bootstrap with expanded percentiles, and the score interval where little differs.

Which interval serves which case was settled by simulation (bench/statistics): percentiles expanded for the effective number of
conversations hold 95 % for skewed sizes and for one heavy conversation; the bootstrap-t and the skewness-adjusted t do not with
a heavy conversation or rare events. Of quantiles the bootstrap's standard error holds it, and percentiles are too wide.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import Direction, Estimate, Kind, Method, Metric, Scale
from graft_api.finetunejob import Interval
from graft_evaluation.intervals import nam_blackwelder, tango
from graft_evaluation.paired.batch import unit
from graft_evaluation.paired.bins import HIGHEST, quantile
from graft_evaluation.paired.outcomes import worst
from graft_evaluation.paired.student import critical
from graft_evaluation.paired.summary import APART, CANDIDATE, INCUMBENT, ONLY_CANDIDATE, ONLY_INCUMBENT, PAIRS

FEW_DISCORDANT = 200
"""Buckets with a discordant pair, below which a proportion's difference or ratio gets the score interval."""
FEW_DIFFERENT = 30
"""Buckets with any difference, below which percentiles of a mean say nothing."""
FEWEST = 10
"""Effective conversations, below which nothing is said: Student's t for so few trusts each of them too much."""
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


def of_sums(metric: Metric, sums: NDArray[np.int64], weights: Weights, alone: NDArray[np.int64] | None = None) -> Estimate:
    """
    Return the estimate of a proportion or mean.

    `sums` has shape [buckets, 4] and `alone` [buckets, 2] as a summary keeps them, `weights` [replicates, buckets]. Without `alone`
    no mean is at its worst. Raises TooLittleError.
    """
    counted = sums * np.array([1.0, *[unit(metric)] * 3])
    spread = _enough(counted[:, PAIRS])
    different = int((sums[:, APART] > 0).sum())
    if _score_serves(metric, different):
        ratio = metric.kind is Kind.PROPORTION and metric.scale is Scale.RELATIVE and different > 0
        return _ratio(metric, counted, spread) if ratio else _score(metric, counted, spread)
    if different < FEW_DIFFERENT:
        raise TooLittleError(f"only {different} groups of conversations differ, {FEW_DIFFERENT} are needed")
    rare = _rare(metric, counted, spread, alone)
    ordinary = _bootstrap(metric, counted, spread, weights, None if rare is None else rare.shift)
    return ordinary if rare is None else _together(metric, ordinary, rare)


@dataclass(frozen=True, eq=False)
class Rare:
    """What a mean's worst values do to it where they are few: candidate minus incumbent, in the metric's unit."""

    shift: NDArray[np.float64]
    """Of each bucket's sum, shape [buckets]."""
    candidates: float
    """Share of the candidate's among the pairs in which one side alone is at the worst."""
    point: float
    low: float
    high: float

    def relative(self, incumbent: float) -> "Rare":
        """
        Return it as a share of the incumbent's value, in which the incumbent's worst values count too.

        A relative margin m asks for the contrast candidate - (1 + m) incumbent (Fieller 1954): under it a pair of the candidate's
        weighs 1, and one of the incumbent's 1 + m. Each end's distance is that of the difference, times the root of the mean of
        squares of these weights at that end.
        """
        point, low, high = self.point / incumbent, self.low / incumbent, self.high / incumbent
        at_low, at_high = (math.sqrt(self.candidates + (1 - self.candidates) * max(1 + end, 0.0) ** 2) for end in (low, high))
        return replace(self, point=point, low=point - (point - low) * at_low, high=point + (high - point) * at_high)


def _rare(metric: Metric, counted: NDArray[np.float64], spread: Spread, alone: NDArray[np.int64] | None) -> Rare | None:
    """
    Return the share of pairs in which one side alone is at the worst, as a proportion of its own times what such a pair weighs.

    None where there is no such pair, or so many that resampling holds. Percentiles of a mean with few heavy values are too narrow
    on the side of those that were not drawn.
    """
    if alone is None or not 0 < int(alone.any(axis=1).sum()) < FEW_DISCORDANT:
        return None
    weight = _weight(metric, counted, float(alone.sum()))
    net = (alone[:, ONLY_CANDIDATE] - alone[:, ONLY_INCUMBENT]).astype(np.float64)
    point, ends = _shares(net, float(alone.sum()), spread)
    low, high = sorted((ends.low * weight, ends.high * weight))
    return Rare(net * weight, float(alone[:, ONLY_CANDIDATE].sum() / alone.sum()), point * weight, low, high)


def _weight(metric: Metric, counted: NDArray[np.float64], alone: float) -> float:
    """
    Return how far the two sides are apart where one of them alone is at the worst: from a typical value of those that are not.

    Were the worst in the typical value too, what is missing of the distance would stay with the other values, where it is taken
    for independent of this.
    """
    end, values = worst(metric), float(counted[:, INCUMBENT].sum() + counted[:, CANDIDATE].sum())
    return end - (values - alone * end) / (2 * float(counted[:, PAIRS].sum()) - alone)


def _together(metric: Metric, ordinary: Estimate, rare: Rare) -> Estimate:
    """
    Return the sum of an estimate without the worst values and of what they do.

    Each end's distance is the root of the sum of squares of the two parts' (Zou and Donner 2008, Statistics in Medicine 27:1693,
    equation 8: recovering variances from two intervals).
    """
    if metric.scale is Scale.RELATIVE:
        rare = rare.relative(ordinary.incumbent)
    point, low, high = rare.point, rare.low, rare.high
    if metric.direction is Direction.LOWER:
        point, low, high = -point, -high, -low
    improvement = ordinary.improvement + point
    return ordinary.model_copy(
        update={
            "improvement": improvement,
            "low": improvement - math.hypot(ordinary.improvement - ordinary.low, point - low),
            "high": improvement + math.hypot(ordinary.high - ordinary.improvement, high - point),
        }
    )


def _bootstrap(
    metric: Metric, counted: NDArray[np.float64], spread: Spread, weights: Weights, left_out: NDArray[np.float64] | None
) -> Estimate:
    """Return the estimate by resampling; of the candidate's sums something may be `left_out`, shape [buckets]."""
    columns = counted[:, : CANDIDATE + 1].copy()
    if left_out is not None:
        columns[:, CANDIDATE] -= left_out
    pairs = float(spread.pairs.sum())
    replicates = weights @ columns
    # A replicate that drew no pair at all would divide by zero; with more than a handful of conversations there is none.
    replicates = replicates[replicates[:, PAIRS] > 0]
    b, c = replicates[:, INCUMBENT] / replicates[:, PAIRS], replicates[:, CANDIDATE] / replicates[:, PAIRS]
    both = Both(float(columns[:, INCUMBENT].sum()) / pairs, float(columns[:, CANDIDATE].sum()) / pairs, b, c)
    ratio = both.candidate / both.incumbent if metric.scale is Scale.RELATIVE and both.incumbent > 0 else 1.0
    found = _percentiles(metric, spread, both, spread.critical(columns[:, CANDIDATE] - ratio * columns[:, INCUMBENT]))
    return found.model_copy(update={"candidate": float(counted[:, CANDIDATE].sum()) / pairs})


def _enough(pairs: NDArray[np.float64]) -> Spread:
    """Return the spread of pairs, shape [buckets]. Raises TooLittleError."""
    spread = Spread(pairs)
    if not pairs.any():
        raise TooLittleError("no pairs")
    if spread.effective < FEWEST:
        raise TooLittleError(f"the pairs are worth {spread.effective:.1f} conversations, {FEWEST} are needed")
    return spread


def of_bins(metric: Metric, bins: NDArray[np.uint32], weights: Weights) -> Estimate:
    """
    Return the estimate of a quantile: the difference (or ratio) of the two sides' quantiles, resampled together.

    `bins` has shape [2 sides, buckets, bins], `weights` [replicates, buckets]. Raises TooLittleError.
    """
    q = metric.quantile
    if q is None:
        raise ValueError(f"{metric.name} is not a quantile")
    spread = _enough(bins[0].sum(axis=1, dtype=np.float64))
    beyond = spread.effective * min(q, 1 - q)
    if beyond < BEYOND:
        raise TooLittleError(f"{beyond:.1f} effective conversations lie beyond the quantile, {BEYOND} are needed")
    points = [float(quantile(side.sum(axis=0, dtype=np.float64), q)) for side in bins]
    if min(points) >= HIGHEST:
        raise TooLittleError("both sides' quantile lies beyond the scale: too many answers never came")
    # As with sums: a replicate that drew no pair has no quantile.
    drawn = weights[weights @ spread.pairs > 0]
    incumbent, candidate = (_replicated(side, drawn, q) for side in bins)
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
    """Say whether the score interval is the better one: of proportions rather early, and always where nothing at all differs."""
    if different == 0:
        return True
    if metric.kind is Kind.PROPORTION:
        return different < FEW_DISCORDANT
    return metric.best is not None and different < FEW_DIFFERENT


def _score(metric: Metric, counted: NDArray[np.float64], spread: Spread) -> Estimate:
    """
    Return Tango's score interval on what conversations are worth as independent pairs.

    For a mean with both ends known, a difference counts as its share of the range: no variable in [0, 1] varies more than the 0/1
    variable with its mean. Where nothing differs, the interval says how many pairs could differ and were not seen (3.84 of n), and
    each is taken to differ by the range, or of a mean with one end by how far its worst is from where it is: its side for the worse
    is bounded by that, and the side for the better is as wide. A relative change is this as a share of the incumbent's value:
    of the linear contrast candidate - (1 + m) incumbent, everything but candidate - incumbent is then the incumbent's value itself.
    """
    pairs = float(spread.pairs.sum())
    both = Both(float(counted[:, INCUMBENT].sum()) / pairs, float(counted[:, CANDIDATE].sum()) / pairs, np.zeros(0), np.zeros(0))
    span, scale = _span(metric, both.incumbent), 1.0
    if metric.scale is Scale.RELATIVE:
        scale = both.incumbent
        if scale <= 0:
            raise TooLittleError("the incumbent's value is not clear of 0, so there is nothing to be relative to")
    point, ends = _shares((counted[:, CANDIDATE] - counted[:, INCUMBENT]) / span, float(counted[:, APART].sum()) / span, spread)
    change = (point * span / scale, ends.low * span / scale, ends.high * span / scale)
    return _oriented(metric, spread, both, change, Method.SCORE)


def _ratio(metric: Metric, counted: NDArray[np.float64], spread: Spread) -> Estimate:
    """
    Return the score interval of a proportion's ratio on what conversations are worth as independent pairs.

    Percentiles of a ratio of few events are too narrow: 4 % of false passes where 2.5 % are meant.
    """
    pairs, below, above, apart = (float(counted[:, column].sum()) for column in (PAIRS, INCUMBENT, CANDIDATE, APART))
    if below <= 0:
        raise TooLittleError("the incumbent's value is not clear of 0, so there is nothing to be relative to")
    plus, minus, ratio = (apart + above - below) / 2, (apart - above + below) / 2, above / below
    shift, contrast = counted[:, CANDIDATE] - counted[:, INCUMBENT], counted[:, CANDIDATE] - ratio * counted[:, INCUMBENT]
    independent = plus + ratio**2 * minus + (1 - ratio) ** 2 * (below - minus)
    effect = max(_effect(shift, apart, spread), float(np.square(contrast).sum()) / independent if ratio else 1.0)
    wide = max(spread.critical(shift), spread.critical(contrast)) if ratio else spread.critical(shift)
    ends = nam_blackwelder(plus / effect, minus / effect, (below - minus) / effect, wide)
    both = Both(below / pairs, above / pairs, np.zeros(0), np.zeros(0))
    return _oriented(metric, spread, both, (ratio - 1, ends.low - 1, ends.high - 1), Method.SCORE)


def _span(metric: Metric, incumbent: float) -> float:
    """Return how much one pair can differ; never less than a unit, which is what rounding leaves of a smaller range."""
    if metric.kind is Kind.PROPORTION:
        return 1.0
    end = worst(metric)
    span = abs(end - (incumbent if metric.best is None else metric.best))
    # Both ends may have been rounded away from each other.
    return span + unit(metric)


def _shares(shift: NDArray[np.float64], apart: float, spread: Spread) -> tuple[float, Interval]:
    """Return the mean per pair of `shift`, shape [buckets], and Tango's interval; `apart` is the sum of its size over single pairs."""
    pairs = float(spread.pairs.sum())
    point = float(shift.sum()) / pairs
    effect = _effect(shift, apart, spread)
    plus, minus = max(apart + pairs * point, 0.0) / 2 / effect, max(apart - pairs * point, 0.0) / 2 / effect
    # The formula asks for no whole numbers, only the signature does.
    return point, tango(plus, minus, pairs / effect, spread.critical(shift))


def _effect(shift: NDArray[np.float64], apart: float, spread: Spread) -> float:
    """
    Return the design effect, by which counts are divided: the variance of the buckets' sums over that of as many independent pairs (Rao
    and Scott 1992, Biometrics 48:577). Where each discordant conversation has one discordant pair it is 1, and the counts are discordant
    conversations. It is not taken below 1.
    """
    pairs = float(spread.pairs.sum())
    point = float(shift.sum()) / pairs
    independent = apart - pairs * point**2
    clustered = float(np.square(shift - point * spread.pairs).sum())
    return max(1.0, clustered / independent) if independent > 0 else 1.0


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
