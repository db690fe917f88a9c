"""The harm sequence over a week of hourly looks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from simulation import Rate
from traffic import WORST, Shape, Truth, batch

from graft_api.comparison import Direction, Kind, Metric, Role
from graft_evaluation.paired import harm
from graft_evaluation.paired.sample import Conversations
from graft_evaluation.paired.summary import Plan, Summary

HOURS = 168
PER_HOUR = 15
"""Conversations that close in an hour: little traffic, so that the first looks are at the edge of what the sequence allows."""


def guardrail(kind: Kind, margin: float, worst: float = 1.0) -> Metric:
    return Metric(name="m", kind=kind, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=margin, worst=worst)


CASES = {
    "proportion": (guardrail(Kind.PROPORTION, 0.02), Truth("events", 0.1, 0.0), Shape(HOURS * PER_HOUR)),
    "proportion, skewed sizes": (guardrail(Kind.PROPORTION, 0.02), Truth("events", 0.1, 0.0), Shape(HOURS * PER_HOUR, "skewed")),
    "rare proportion": (guardrail(Kind.PROPORTION, 0.002), Truth("events", 0.005, 0.0), Shape(HOURS * PER_HOUR)),
    "mean": (guardrail(Kind.MEAN, 0.02, 2.0), Truth("scores", 0.5, 0.0), Shape(HOURS * PER_HOUR)),
    "mean, one of 10 %": (guardrail(Kind.MEAN, 0.02, 2.0), Truth("scores", 0.5, 0.0), Shape(HOURS * PER_HOUR, heavy=0.1)),
    "mean, rare worst": (guardrail(Kind.MEAN, 20.0, WORST), Truth("tokens", 200.0, 0.0, missing=(0.003, 0.003)), Shape(HOURS * PER_HOUR)),
    "mean, rarest worst": (guardrail(Kind.MEAN, 20.0, WORST), Truth("tokens", 200.0, 0.0, missing=(0.001, 0.001)), Shape(HOURS * PER_HOUR)),
}


def stopped_at(metric: Metric, truth: Truth, shape: Shape, chance: np.random.Generator) -> int | None:
    """Return the hour in which a week's test is stopped for harm."""
    plan = Plan("bench", (metric,), 1)
    summary = Summary(plan)
    summary.add(batch(shape, truth, chance))
    table = summary.sample.table()
    # Conversations close in the order of a random clock, not of their keys or sizes.
    closes = chance.permutation(len(table)) * HOURS // len(table)
    for hour in range(HOURS):
        closed = Conversations(table.level, table.keys, closes.astype(np.int64), table.sums)
        if harm.read(plan, closed, hour, 0, sharing=1)["m"].shown:
            return hour + 1
    return None


def moved(metric: Metric, truth: Truth, at: float) -> Truth:
    """Return the truth `at` margins worse: of tokens with answers that never come, by more of those."""
    if not any(truth.missing):
        return replace(truth, change=at * metric.margin)
    incumbent, more = truth.missing[0], at * metric.margin / (WORST - truth.level * math.exp(0.125))
    return replace(truth, missing=(incumbent, incumbent + more))


def false_alarms(name: str, at: float, tests: int, chance: np.random.Generator) -> Rate:
    """Return how often a test is stopped where the truth is `at` margins worse: 1 is the guardrail's edge, 0 no difference."""
    metric, truth, shape = CASES[name]
    worse = moved(metric, truth, at)
    if at == 0:
        metric = metric.model_copy(update={"role": Role.PRIMARY, "margin": 0.0})
    return Rate(sum(stopped_at(metric, worse, shape, chance) is not None for _ in range(tests)), tests)


def hours_until_stopped(name: str, at: float, tests: int, chance: np.random.Generator) -> float:
    """Return the median hour in which harm is stopped; infinity where most are not."""
    metric, truth, shape = CASES[name]
    worse = moved(metric, truth, at)
    hours = [stopped_at(metric, worse, shape, chance) or np.inf for _ in range(tests)]
    return float(np.median(hours))
