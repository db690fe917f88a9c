"""Coverage, false passes at the margin, and power, each beside what the field uses on the same data."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from traffic import WORST, Shape, Truth, batch

from graft_api.comparison import Direction, Estimate, Kind, Metric, Role, Scale
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.hashing import poisson_weights
from graft_evaluation.paired.resampling import TooLittleError, Weights, of_bins, of_sums
from graft_evaluation.paired.summary import Plan, Summary

RARE_MARGIN = 20.0
"""Tokens: the worst values of half a percent of pairs."""
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


@dataclass(frozen=True)
class Rate:
    """A share of simulated tests."""

    hits: int
    tests: int

    @property
    def share(self) -> float:
        return self.hits / self.tests if self.tests else float("nan")

    @property
    def upper(self) -> float:
        """One-sided 95 % bound of Clopper and Pearson."""
        return float(proportion_confint(self.hits, self.tests, alpha=0.10, method="beta")[1])


def metric(kind: Kind, scale: Scale = Scale.ABSOLUTE, quantile: float | None = None) -> Metric:
    worst = WORST if kind is Kind.MEAN else None
    return Metric(name="m", kind=kind, direction=Direction.LOWER, role=Role.INFORMATIONAL, scale=scale, quantile=quantile, worst=worst)


def cases() -> list[Case]:
    """Every metric kind on every traffic, at its margin."""
    plain, skewed = Shape(200), Shape(200, "skewed")
    heavy = Shape(200, "geometric", heavy=0.1)
    shapes = {"200 conversations": plain, "skewed sizes": skewed, "one of 10 %": heavy}
    proportion, mean, relative_mean = metric(Kind.PROPORTION), metric(Kind.MEAN), metric(Kind.MEAN, Scale.RELATIVE)
    found = []
    for name, shape in shapes.items():
        found += [
            Case("proportion", name, proportion, shape, Truth("events", 0.3, 0.0), 0.05),
            Case("mean", name, mean, shape, Truth("scores", 0.5, 0.0), 0.02),
            Case("relative mean", name, relative_mean, shape, Truth("tokens", 200.0, 0.0), 0.1),
        ]
        for q in (0.5, 0.95):
            quantile = metric(Kind.QUANTILE, Scale.RELATIVE, q)
            found.append(Case(f"quantile {q:g}", name, quantile, shape, Truth("seconds", 1.0, 0.0), 0.1))
        bigger = replace(shape, conversations=2000)
        found.append(Case("rare proportion", name.replace("200", "2,000"), proportion, bigger, Truth("events", 0.005, 0.0), 0.003))
    # A change of the values, and answers that never come: as rare as one in 500, each as heavy as 4,096 tokens.
    rare = Truth("tokens", 200.0, 0.0, missing=(0.002, 0.002))
    for name, shape in shapes.items():
        bigger = replace(shape, conversations=1000)
        found.append(Case("mean, rare worst", name.replace("200", "1,000"), mean, bigger, rare, RARE_MARGIN))
    return found


def at(case: Case, change: float) -> Truth:
    """Return the truth in which the mean or share differs by `change`: of rare worst values by how many more there are on one side."""
    if not any(case.truth.missing):
        return replace(case.truth, change=change)
    incumbent, more = case.truth.missing[0], abs(change) / (WORST - case.truth.level * math.exp(0.125))
    return replace(case.truth, missing=(incumbent, incumbent + more) if change > 0 else (incumbent + more, incumbent))


def estimate(case: Case, pairs: Batch, seed: int) -> Estimate | None:
    """Run one test through the summary that production uses."""
    summary = Summary(Plan("bench", (case.metric,), seed, capacity=1 << 14))
    summary.add(pairs)
    try:
        if case.metric.kind is Kind.QUANTILE:
            return of_bins(case.metric, summary.bins[0].sum(axis=0, dtype=np.uint32), weights(seed))
        return of_sums(case.metric, summary.sums[0].sum(axis=0), weights(seed), summary.alone[0].sum(axis=0))
    except TooLittleError:
        return None


@functools.lru_cache(maxsize=SEEDS)
def weights(seed: int) -> Weights:
    return poisson_weights(seed, 1000, 1024)


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


def power(case: Case, change: float, tests: int, chance: np.random.Generator) -> tuple[Rate, Rate]:
    """Return how often an improvement is shown, here and by the reference, on the same pairs: one pair per conversation."""
    shape = replace(case.shape, sizes="one", heavy=0.0, conversations=case.shape.conversations * 3)
    ours = theirs = 0
    for test in range(tests):
        pairs = batch(shape, at(case, change), chance)
        found = estimate(case, pairs, test % SEEDS)
        ours += found is not None and found.low > 0
        theirs += REFERENCES[case.metric.kind](case, pairs.incumbent[0], pairs.candidate[0], chance)
    return Rate(ours, tests), Rate(theirs, tests)


def power_change(case: Case) -> float:
    """Return an improvement that is shown in about four of five tests: power is most sensitive there."""
    spread = {"proportion": 0.062, "rare proportion": 0.0030, "mean": 0.0235, "mean, rare worst": 18.5, "relative mean": 0.065}
    return -spread.get(case.kind, 0.075 if case.kind == "quantile 0.5" else 0.13)


Values = NDArray[np.float64]


def by_t_test(case: Case, b: Values, c: Values, _: np.random.Generator) -> bool:
    """The paired t-test; relative: on the linear contrast at margin 0, which is the same test."""
    return bool(stats.ttest_rel(b, c, alternative="greater").pvalue < 0.025)


def by_mcnemar(case: Case, b: Values, c: Values, _: np.random.Generator) -> bool:
    only_b, only_c = int(((b == 1) & (c == 0)).sum()), int(((b == 0) & (c == 1)).sum())
    return only_b > only_c and bool(mcnemar([[0, only_b], [only_c, 0]], exact=False, correction=False).pvalue < 0.05)


def by_scipy_bootstrap(case: Case, b: Values, c: Values, chance: np.random.Generator) -> bool:
    q = case.metric.quantile

    def difference(one: Values, other: Values, axis: int = -1) -> Values:
        return np.quantile(one, q, axis=axis) - np.quantile(other, q, axis=axis)

    found = stats.bootstrap((b, c), difference, paired=True, vectorized=True, n_resamples=500, batch=100, method="percentile", rng=chance)
    return bool(found.confidence_interval.low > 0)


REFERENCES: dict[Kind, Callable[[Case, Values, Values, np.random.Generator], bool]] = {
    Kind.PROPORTION: by_mcnemar,
    Kind.MEAN: by_t_test,
    Kind.QUANTILE: by_scipy_bootstrap,
}
