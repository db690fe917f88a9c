"""
Is a new version worse than the one before it? Asked at every look, and wrong in at most 1 % of watches whatever the number of looks.

Two arms, of different conversations: those on the new version and those that were held back. Of each the mean per value is a ratio of
sums over closed conversations, r = sum y / sum n, whose variance is that of the linearised residuals (Deng, Knoblich and Lu 2018,
"Applying the Delta Method in Metric Analytics", KDD):

    v = sum (y - r n)^2 / (sum n)^2 = (sum y^2 - 2 r sum n y + r^2 sum n^2) / (sum n)^2

All sums are weighted (`graft_api.watch.Moments`), which changes none of this. Estimates of a difference of two means at several looks
have the covariance of the later one's variance, in whatever proportion the arms grow (Jennison and Turnbull 1997, "Group-sequential
analysis incorporating covariate information", Journal of the American Statistical Association 92:1330): divided by its variance V the
difference is a Brownian motion in the information 1 / V. So the sequence by which a ShadowTest looks for harm (`paired.sequence`, with
its source) holds here, too, of t effective conversations with the variance t V each, where 1/t = 1/k_new + 1/k_held_back and
k = (sum n)^2 / sum n^2 is how many conversations of equal size know as much (Kish 1965, Survey Sampling).

The sequence is asymptotic. What makes it hold with few events, and with arms of 95 and 5 %:

* The arm with fewer conversations has by chance no event, and so no variance, when the other one has some. Where there is no harm both
  have the same distribution at every time: each arm's variance per effective conversation is taken to be at least what the other's
  conversations say it is (`Moments.crossed_`).
* A conversation with the share s of an arm's values pulls the mean towards itself, and its residual is too small by 1 - s. No share is
  larger than k^-1/2: the variance is divided by (1 - k^-1/2)^2.
* Nothing is looked at before MIN_CLOSED conversations of each arm are closed, which must be worth MIN_DIFFERENT of equal size, and of a
  proportion before MIN_DIFFERENT conversations had an event and as many had none.

Standard library only: the operator decides by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graft_api.comparison import HARM_ALPHA, Direction, Kind
from graft_api.measures import Measure
from graft_api.watch import Moments, WatchCount, WatchedMetric, WatchedSums, WatchReading
from graft_evaluation.paired.sequence import MIN_CLOSED, MIN_DIFFERENT, half_width

UNITS = {Measure.LATENCY: "s", Measure.FIRST_TOKEN: "s", Measure.TOKENS: "tokens", Measure.LENGTH: "characters"}
ROUNDING = 1e-9
"""What sums that should be none may come to, as a share of what they were taken from."""


@dataclass(frozen=True)
class _Arm:
    """What the closed conversations of one arm say of one metric."""

    mean: float
    worth: float
    """Conversations of equal size that know as much."""
    spread: float
    """Variance of the mean times `worth`."""
    others_spread: float
    """What the other arm's is, if its conversations are like these."""


def read(metrics: Sequence[WatchedMetric], count: WatchCount) -> list[WatchReading]:
    """
    Return the reading of every metric, in their order.

    The error of 1 % is shared equally among them: at no look of a watch of a version that is worse by no margin is any of them
    breached, but in 1 % of watches. Improvements are held back minus new where lower is better, and the other way round.
    """
    sums = {found.name: found for found in count.metrics}
    alpha = HARM_ALPHA / max(len(metrics), 1)
    return [_reading(metric, sums.get(metric.name, WatchedSums(name=metric.name)), alpha) for metric in metrics]


def _reading(metric: WatchedMetric, sums: WatchedSums, alpha: float) -> WatchReading:
    new, held_back = _arm(sums.new), _arm(sums.held_back)
    high = None
    if new is not None and held_back is not None and _enough(metric, sums, new, held_back):
        high = _improvement(metric, new, held_back) + _width(new, held_back, alpha)
    limit = 0.0 - metric.margin
    reading = WatchReading(
        name=metric.name,
        new=new.mean if new else None,
        held_back=held_back.mean if held_back else None,
        clusters_new=sums.new.clusters,
        clusters_held_back=sums.held_back.clusters,
        high=high,
        limit=limit,
        breached=high is not None and high < limit,
    )
    return reading.model_copy(update={"sentence": describe(metric, reading)})


def _arm(moments: Moments) -> _Arm | None:
    """Return what an arm says; None: nothing of it is closed."""
    if moments.values <= 0 or moments.values_squared <= 0:
        return None
    mean = moments.total / moments.values
    worth = moments.values**2 / moments.values_squared
    if worth <= 1:
        return _Arm(mean, worth, math.inf, math.inf)
    hidden = (1 - worth**-0.5) ** 2
    own = _residuals(mean, moments.total_squared, moments.product, moments.values_squared) / hidden
    if moments.crossed_values_squared <= 0:
        return _Arm(mean, worth, own, own)
    crossed = _residuals(mean, moments.crossed_total_squared, moments.crossed_product, moments.crossed_values_squared) / hidden
    return _Arm(mean, worth, own, crossed)


def _residuals(mean: float, total_squared: float, product: float, values_squared: float) -> float:
    """Return the sum of squared residuals over that of squared sizes."""
    return max(total_squared - 2 * mean * product + mean**2 * values_squared, 0.0) / values_squared


def _enough(metric: WatchedMetric, sums: WatchedSums, new: _Arm, held_back: _Arm) -> bool:
    """Whether there is enough to look at."""
    if min(sums.new.clusters, sums.held_back.clusters) < MIN_CLOSED or min(new.worth, held_back.worth) < MIN_DIFFERENT:
        return False
    if metric.kind is not Kind.PROPORTION:
        return True
    return min(_events(sums.new) + _events(sums.held_back), _events(_others(sums.new)) + _events(_others(sums.held_back))) >= MIN_DIFFERENT


def _events(moments: Moments) -> float:
    """Return how many conversations with equally many ones among their values have as many: never more than have any."""
    if moments.total <= ROUNDING * moments.values or moments.total_squared <= 0:
        return 0.0
    return moments.total**2 / moments.total_squared


def _others(moments: Moments) -> Moments:
    """Return the sums of a proportion with zeros and ones exchanged."""
    squares = moments.values_squared - 2 * moments.product + moments.total_squared
    return moments.model_copy(update={"total": moments.values - moments.total, "total_squared": squares})


def _improvement(metric: WatchedMetric, new: _Arm, held_back: _Arm) -> float:
    return held_back.mean - new.mean if metric.direction is Direction.LOWER else new.mean - held_back.mean


def _width(new: _Arm, held_back: _Arm, alpha: float) -> float:
    """Return how far the improvement may lie above its estimate, at every look at once."""
    variance = max(new.spread, held_back.others_spread) / new.worth + max(held_back.spread, new.others_spread) / held_back.worth
    observations = 1 / (1 / new.worth + 1 / held_back.worth)
    return math.sqrt(variance * observations) * half_width(observations, alpha)


def describe(metric: WatchedMetric, reading: WatchReading) -> str:
    """Return what a reading means, with its numbers and the bound that they were held against."""
    name = metric.name.replace("-", " ")
    if reading.new is None or reading.held_back is None:
        arm = "the new version" if reading.new is None else "the version before it"
        return f"{name}: no conversation on {arm} is closed yet"
    means = f"{name}: {_level(metric, reading.new)} on the new version, {_level(metric, reading.held_back)} held back"
    if reading.high is None:
        return f"{means}; {_missing(reading)}"
    if reading.breached:
        return f"{means}; at least {_amount(metric, -reading.high)} worse, {_allowed(metric)}"
    beyond = f" by more than {_amount(metric, metric.margin)}" if metric.margin else ""
    return f"{means}; that it is worse{beyond} is not shown"


def _missing(reading: WatchReading) -> str:
    new, held_back = reading.clusters_new, reading.clusters_held_back
    if min(new, held_back) < MIN_CLOSED:
        return f"{new:,} and {held_back:,} conversations are closed, of each {MIN_CLOSED} are needed before it is judged"
    return "too few of the conversations differ to judge it, or a few of them are most of the traffic"


def _allowed(metric: WatchedMetric) -> str:
    return f"{_number(metric, metric.margin)} {'is' if metric.margin == 1 else 'are'} allowed" if metric.margin else "none is allowed"


def _level(metric: WatchedMetric, value: float) -> str:
    """Return one arm's mean with its unit."""
    return f"{_number(metric, value)} %" if metric.kind is Kind.PROPORTION else _amount(metric, value)


def _amount(metric: WatchedMetric, value: float) -> str:
    """Return a difference with its unit."""
    unit = "points" if metric.kind is Kind.PROPORTION else UNITS.get(metric.measure, "") if metric.measure else ""
    return f"{_number(metric, value)} {unit}".rstrip()


def _number(metric: WatchedMetric, value: float) -> str:
    """Return a number with as many digits as can matter: percentages with one, and more where a tenth is too coarse."""
    if metric.kind is not Kind.PROPORTION:
        return f"{value:.4g}"
    value *= 100
    return f"{value + 0.0:.{1 if abs(value) >= 0.1 or value == 0 else 3}f}"
