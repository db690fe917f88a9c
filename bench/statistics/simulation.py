"""Coverage, false passes at the margin, and power, each beside what the field uses on the same data."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from bounds import Rate
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from traffic import SPREAD, WORST, Shape, Truth, batch

from graft_api.comparison import Direction, Estimate, Kind, Limits, Metric, Role, Scale
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.hashing import buckets_of, poisson_weights
from graft_evaluation.paired.reading import REPLICATES, Moment, contrast
from graft_evaluation.paired.resampling import TooLittleError, of_bins, of_sums
from graft_evaluation.paired.summary import Plan, Summary

RARE_MARGIN = 20.0
"""Tokens: the worst values of half a percent of pairs."""
GROUPS = Plan.buckets
SEEDS = 8
"""Different bootstrap seeds in a simulation: one would make all tests share its luck."""


@dataclass(frozen=True)
class Case:
    """One kind of metric on one kind of traffic."""

    kind: str
    traffic: str
    metric: Metric
    shape: Shape
    truth: Truth
    margin: float


def metric(kind: Kind, scale: Scale = Scale.ABSOLUTE, quantile: float | None = None) -> Metric:
    worst = WORST if kind is Kind.MEAN else None
    return Metric(name="m", kind=kind, direction=Direction.LOWER, role=Role.INFORMATIONAL, scale=scale, quantile=quantile, worst=worst)


ABSOLUTE, RELATIVE = Scale.ABSOLUTE, Scale.RELATIVE
TOKENS, SECONDS, EVENTS = Truth("tokens", 200.0, 0.0), Truth("seconds", 1.0, 0.0), Truth("events", 0.3, 0.0)
RARE_WORST = replace(TOKENS, missing=(0.002, 0.002))
"""Answers that never come: as rare as one in 500, each as heavy as 4,096 tokens."""


@dataclass(frozen=True)
class Question:
    """One kind of metric."""

    metric: Metric
    truth: Truth
    margin: float
    shown: float
    """An improvement that is shown in two of three tests to nine of ten: power is most sensitive there."""
    conversations: int = 200
    tests: int = 20_000
    """A false pass in 3.1 % of so many tests still has an upper bound below 3.5 %, with room for chance; 2.5 % is meant."""


QUESTIONS = {
    "proportion": Question(metric(Kind.PROPORTION), EVENTS, 0.05, 0.062),
    "relative proportion": Question(metric(Kind.PROPORTION, RELATIVE), EVENTS, 0.15, 0.19),
    "rare proportion": Question(metric(Kind.PROPORTION), Truth("events", 0.005, 0.0), 0.003, 0.0030, 2000),
    "rare relative proportion": Question(metric(Kind.PROPORTION, RELATIVE), Truth("events", 0.005, 0.0), 0.6, 0.60, 2000, 10_000),
    "mean": Question(metric(Kind.MEAN), Truth("scores", 0.5, 0.0), 0.02, 0.0235),
    "relative mean": Question(metric(Kind.MEAN, RELATIVE), TOKENS, 0.1, 0.058),
    "mean, rare worst": Question(metric(Kind.MEAN), RARE_WORST, RARE_MARGIN, 18.5, 1000, 10_000),
    "relative mean, rare worst": Question(metric(Kind.MEAN, RELATIVE), RARE_WORST, 0.1, 0.075, 1000, 10_000),
    "quantile 0.5": Question(metric(Kind.QUANTILE, RELATIVE, 0.5), SECONDS, 0.1, 0.075, tests=10_000),
    "quantile 0.95": Question(metric(Kind.QUANTILE, RELATIVE, 0.95), SECONDS, 0.1, 0.13, tests=10_000),
    "quantile 0.95 in seconds": Question(metric(Kind.QUANTILE, ABSOLUTE, 0.95), SECONDS, 0.2, 0.29, tests=10_000),
}
"""Every kind of metric on either scale."""


def cases(kind: str) -> list[Case]:
    """Return one kind of metric on every traffic, at its margin."""
    question = QUESTIONS[kind]
    plain = Shape(question.conversations)
    shapes = {
        f"{plain.conversations:,} conversations": plain,
        "skewed sizes": replace(plain, sizes="skewed"),
        "one of 10 %": replace(plain, heavy=0.1),
    }
    return [Case(kind, name, question.metric, shape, question.truth, question.margin) for name, shape in shapes.items()]


def at(case: Case, change: float) -> Truth:
    """Return the truth in which the metric differs by `change`: of rare worst values by how many more there are on one side."""
    truth = case.truth
    if not any(truth.missing):
        return replace(truth, change=change * truth.per_unit(case.metric))
    typical = truth.level * math.exp(SPREAD**2 / 2)
    share, weight = truth.missing[0], WORST - typical
    apart = abs(change)
    if case.metric.scale is RELATIVE:
        # The incumbent's value, by which it is divided, is the lower one or the higher one.
        apart = (typical + share * weight) * (change if change > 0 else 1 / (1 + change) - 1)
    more = share + apart / weight
    return replace(truth, missing=(share, more) if change > 0 else (more, share))


def estimate(case: Case, pairs: Batch, seed: int) -> Estimate | None:
    """
    Run one test through the summary and the intervals that production uses.

    Groups in which there is no conversation are left out of the product with the weights. They add nothing to it, and with 200
    conversations they are four of five: `as_production` holds the outcome against that of the whole.
    """
    summary = _summary(case, pairs, seed)
    occupied = _occupied(pairs, seed)
    drawn = weights(seed)[occupied].T
    try:
        if case.metric.kind is Kind.QUANTILE:
            return of_bins(case.metric, summary.bins[0][:, :, occupied].sum(axis=0, dtype=np.uint32), drawn)
        sums, alone = (kept[0][:, occupied].sum(axis=0) for kept in (summary.sums, summary.alone))
        return of_sums(case.metric, sums, drawn, alone)
    except TooLittleError:
        return None


def _occupied(pairs: Batch, seed: int) -> NDArray[np.intp] | slice:
    """Return the groups in which there are conversations: all, where copying their weights would cost more than it saves."""
    groups = np.unique(buckets_of(pairs.clusters, seed, GROUPS))
    return groups if len(groups) < GROUPS * 3 // 4 else slice(None)


def as_production(case: Case, pairs: Batch, seed: int) -> Estimate | None:
    """Return what the verdict would read of the same pairs."""
    limits = Limits(min_clusters=20, max_cluster_share=1.0)
    return contrast(_summary(case, pairs, seed), limits, Moment(now=0, hours=1.0)).metrics[0].overall


def _summary(case: Case, pairs: Batch, seed: int) -> Summary:
    summary = Summary(Plan("bench", (case.metric,), seed, GROUPS, capacity=1 << 14))
    summary.add(pairs)
    return summary


def confirm(case: Case, tests: int, chance: np.random.Generator) -> None:
    """Raise AssertionError where an interval of this simulation is not production's."""
    for seed in range(tests):
        pairs = batch(case.shape, at(case, case.margin), chance)
        ours, production = estimate(case, pairs, seed), as_production(case, pairs, seed)
        assert (ours is None) == (production is None), f"{case.kind}: {ours} and {production}"
        if ours is not None and production is not None:
            same = np.allclose((ours.low, ours.high), (production.low, production.high), rtol=1e-9, atol=1e-12)
            assert same, f"{case.kind}: {ours} and {production}"


@functools.lru_cache(maxsize=SEEDS)
def weights(seed: int) -> NDArray[np.float64]:
    """Return production's weights, shape [groups, replicates]: turned, so that a group's are side by side."""
    return np.ascontiguousarray(poisson_weights(seed, REPLICATES, GROUPS).T)


def at_margin(case: Case, change: float, tests: int, chance: np.random.Generator) -> tuple[Rate, Rate, int]:
    """
    Return coverage of the intervals that there are, false passes, and how many tests had no interval.

    The truth lies exactly at the bound. Lower is better, so improvement = -change.
    """
    covered = passed = without = 0
    for test in range(tests):
        truth = at(case, change)
        found = estimate(case, batch(case.shape, truth, chance), test % SEEDS)
        without += found is None
        covered += found is not None and found.low <= -change <= found.high
        passed += found is not None and found.low > -change
    return Rate(covered, tests - without), Rate(passed, tests), without


def power(case: Case, tests: int, chance: np.random.Generator) -> tuple[Rate, Rate]:
    """Return how often an improvement is shown, here and by the reference, on the same pairs: one pair per conversation."""
    change = -QUESTIONS[case.kind].shown
    shape = replace(case.shape, sizes="one", heavy=0.0, conversations=case.shape.conversations * 3)
    ours = theirs = 0
    for test in range(tests):
        pairs = batch(shape, at(case, change), chance)
        found = estimate(case, pairs, test % SEEDS)
        ours += found is not None and found.low > 0
        theirs += REFERENCES[case.metric.kind](case, pairs.incumbent[0], pairs.candidate[0], chance)
    return Rate(ours, tests), Rate(theirs, tests)


Values = NDArray[np.float64]


def by_t_test(case: Case, b: Values, c: Values, _: np.random.Generator) -> bool:
    """The paired t-test; relative: on the linear contrast at margin 0, which is the same test."""
    return bool(stats.ttest_rel(b, c, alternative="greater").pvalue < 0.025)


def by_mcnemar(case: Case, b: Values, c: Values, _: np.random.Generator) -> bool:
    only_b, only_c = int(((b == 1) & (c == 0)).sum()), int(((b == 0) & (c == 1)).sum())
    return only_b > only_c and bool(mcnemar([[0, only_b], [only_c, 0]], exact=False, correction=False).pvalue < 0.05)


def by_scipy_bootstrap(case: Case, b: Values, c: Values, chance: np.random.Generator) -> bool:
    q = case.metric.quantile
    assert q is not None

    def difference(one: Values, other: Values, axis: int = -1) -> Values:
        apart: Values = np.quantile(one, q, axis=axis) - np.quantile(other, q, axis=axis)
        return apart

    found = stats.bootstrap((b, c), difference, paired=True, vectorized=True, n_resamples=500, batch=100, method="percentile", rng=chance)
    return bool(found.confidence_interval.low > 0)


REFERENCES: dict[Kind, Callable[[Case, Values, Values, np.random.Generator], bool]] = {
    Kind.PROPORTION: by_mcnemar,
    Kind.MEAN: by_t_test,
    Kind.QUANTILE: by_scipy_bootstrap,
}
