"""The harm sequence over a week of hourly looks."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from bounds import Rate
from numpy.typing import NDArray
from traffic import WORST, Shape, Truth, batch

from graft_api.comparison import HARM_ALPHA, Direction, Kind, Metric, Role, Scale
from graft_evaluation.paired import harm
from graft_evaluation.paired.batch import unit
from graft_evaluation.paired.sample import Conversations
from graft_evaluation.paired.sequence import half_width
from graft_evaluation.paired.summary import CANDIDATE, INCUMBENT, PAIRS, Plan, Summary

HOURS = 168
PER_HOUR = 15
"""Conversations that close in an hour: little traffic, so that the first looks are at the edge of what the sequence allows."""
TESTS = 5000
"""Half a percent of so many, stopped, still has an upper bound below 1 %."""
CONFIRMED = 10
"""Tests of each case in which every hour is looked at."""


def guardrail(kind: Kind, margin: float, worst: float = 1.0, scale: Scale = Scale.ABSOLUTE) -> Metric:
    return Metric(name="m", kind=kind, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=margin, worst=worst, scale=scale)


WEEK = Shape(HOURS * PER_HOUR)
TOKENS = Truth("tokens", 200.0, 0.0)
CASES = {
    "proportion": (guardrail(Kind.PROPORTION, 0.02), Truth("events", 0.1, 0.0), WEEK),
    "proportion, skewed sizes": (guardrail(Kind.PROPORTION, 0.02), Truth("events", 0.1, 0.0), replace(WEEK, sizes="skewed")),
    "rare proportion": (guardrail(Kind.PROPORTION, 0.002), Truth("events", 0.005, 0.0), WEEK),
    "mean": (guardrail(Kind.MEAN, 0.02, 2.0), Truth("scores", 0.5, 0.0), WEEK),
    "mean, one of 10 %": (guardrail(Kind.MEAN, 0.02, 2.0), Truth("scores", 0.5, 0.0), replace(WEEK, heavy=0.1)),
    "relative mean": (guardrail(Kind.MEAN, 0.05, WORST, Scale.RELATIVE), TOKENS, WEEK),
    "mean, rare worst": (guardrail(Kind.MEAN, 20.0, WORST), replace(TOKENS, missing=(0.003, 0.003)), WEEK),
    "mean, rarest worst": (guardrail(Kind.MEAN, 20.0, WORST), replace(TOKENS, missing=(0.001, 0.001)), WEEK),
}


def stopped_at(metric: Metric, truth: Truth, shape: Shape, chance: np.random.Generator, *, every: bool = False) -> int | None:
    """Return the hour in which a week's test is stopped for harm; `every`: look in each hour, not only where it can be."""
    plan = Plan("bench", (metric,), 1)
    summary = Summary(plan)
    summary.add(batch(shape, truth, chance))
    table = summary.sample.table()
    # Conversations close in the order of a random clock, not of their keys or sizes.
    closes = (chance.permutation(len(table)) * HOURS // len(table)).astype(np.int64)
    closed = Conversations(table.level, table.keys, closes, table.sums)
    hours: Iterable[int] = range(HOURS) if every else possible(metric, closed)
    return next((hour + 1 for hour in hours if harm.read(plan, closed, hour, 0, sharing=1)["m"].shown), None)


def possible(metric: Metric, closed: Conversations) -> list[int]:
    """
    Return the hours in which harm can be shown: few, and only there production's own look is worth its time.

    A mean's bound is the sum of two sequences'. Deviations of two parts add up to at least that of the whole, and half the error
    makes each wider: so where one sequence of the whole shows nothing, nothing is shown.
    """
    assert closed.level == 0
    order = np.argsort(closed.last, kind="stable")
    pairs, incumbent, candidate = (closed.sums[order, 1 + what].astype(float) for what in (PAIRS, INCUMBENT, CANDIDATE))
    incumbent, candidate = incumbent * unit(metric), candidate * unit(metric)
    margin = metric.margin if metric.role is Role.GUARDRAIL else 0.0
    z = incumbent - candidate + margin * (pairs if metric.scale is Scale.ABSOLUTE else incumbent)
    n = np.arange(1, len(z) + 1)
    mean = z.cumsum() / n
    deviation = np.sqrt(np.maximum(np.square(z).cumsum() / n - np.square(mean), 0))
    count = np.searchsorted(closed.last[order], np.arange(HOURS), side="right")
    some = np.maximum(count, 1) - 1
    bound = mean[some] + deviation[some] * half_widths(len(z))[some]
    # What rounding may have done to the sums of squares.
    return [int(hour) for hour in np.flatnonzero((count > 0) & (bound <= 1e-6 * deviation[some]))]


@functools.lru_cache
def half_widths(most: int) -> NDArray[np.float64]:
    """Return the half-width after 1 to `most` conversations that are all kept."""
    return np.array([half_width(count, HARM_ALPHA / 2) for count in range(1, most + 1)])


def moved(metric: Metric, truth: Truth, at: float) -> Truth:
    """Return the truth `at` margins worse: of tokens with answers that never come, by more of those."""
    if not any(truth.missing):
        return replace(truth, change=at * metric.margin)
    incumbent, more = truth.missing[0], at * metric.margin / (WORST - truth.level * math.exp(0.125))
    return replace(truth, missing=(incumbent, incumbent + more))


def false_alarms(name: str, at: float, tests: int, seed: int) -> Rate:
    """Return how often a test is stopped where the truth is `at` margins worse: 1 is the guardrail's edge, 0 no difference."""
    metric, truth, shape = CASES[name]
    worse = moved(metric, truth, at)
    if at == 0:
        metric = metric.model_copy(update={"role": Role.PRIMARY, "margin": 0.0})
    confirm(metric, worse, shape)
    chance = np.random.default_rng(seed)
    return Rate(sum(stopped_at(metric, worse, shape, chance) is not None for _ in range(tests)), tests)


def confirm(metric: Metric, truth: Truth, shape: Shape) -> None:
    """Raise AssertionError where leaving hours out changes when a test is stopped."""
    for seed in range(CONFIRMED):
        every, few = (stopped_at(metric, truth, shape, np.random.default_rng(seed), every=every) for every in (True, False))
        assert every == few, f"stopped in hour {every}, and in hour {few} where hours are left out"


def hours_until_stopped(name: str, at: float, tests: int, seed: int) -> float:
    """Return the median hour in which harm is stopped; infinity where most are not."""
    metric, truth, shape = CASES[name]
    worse, chance = moved(metric, truth, at), np.random.default_rng(seed)
    confirm(metric, worse, shape)
    hours = [stopped_at(metric, worse, shape, chance) or math.inf for _ in range(tests)]
    return float(np.median(hours))
