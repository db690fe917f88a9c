"""
Is the candidate doing harm? Asked at every look, and wrong in at most 1 % of tests whatever the number of looks.

Closed conversations are the observations: z = sum over a conversation's pairs of (improvement + margin), whose mean is at least 0
where no harm is done. The upper end of a one-sided asymptotic confidence sequence below 0 shows harm (Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52:2613,
Theorem 2.2 and Proposition B.1).
"""

import math

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import HARM_ALPHA, Direction, HarmReading, Metric, Role, Scale
from graft_evaluation.paired.batch import unit
from graft_evaluation.paired.sample import Conversations
from graft_evaluation.paired.summary import APART, CANDIDATE, INCUMBENT, PAIRS, Plan

MIN_CLOSED = 100
"""Closed conversations before the first look: the sequence holds asymptotically."""
MIN_DIFFERENT = 10
"""Closed conversations in which the sides differ, likewise: a variance of fewer is a guess."""
TIGHTEST_AT = 500
"""Conversations at which the sequence is tightest: harm that shows there is worth stopping for."""


def read(plan: Plan, table: Conversations, now: int, idle_seconds: int) -> dict[str, HarmReading]:
    """
    Return the reading of every primary and guardrail that is a proportion or mean.

    A conversation is closed when nothing came for `idle_seconds` before `now` (seconds since the epoch). The error of 1 % is shared
    equally among the metrics, and by the sample's levels as 1/((l + 1)(l + 2)): each level's conversations are a sequence of their own.
    """
    watched = [i for i, index in enumerate(plan.summed) if plan.metrics[index].role is not Role.INFORMATIONAL]
    closed = table.sums[table.last + idle_seconds <= now]
    alpha = HARM_ALPHA / max(len(watched), 1) / ((table.level + 1) * (table.level + 2))
    return {
        (metric := plan.metrics[plan.summed[place]]).name: _metric(metric, closed[:, 1 + 4 * place : 5 + 4 * place], alpha)
        for place in watched
    }


def half_width(observations: int, alpha: float) -> float:
    """
    Return the half-width in standard deviations of the one-sided sequence after so many observations.

    sqrt(2 (t r^2 + 1) / (t^2 r^2) log(1 + sqrt(t r^2 + 1) / (2 alpha))), with r such that it is tightest at TIGHTEST_AT.
    """
    tail = -2 * math.log(2 * alpha)
    r2 = (tail + math.log(tail) + 1) / TIGHTEST_AT
    spread = observations * r2 + 1
    return math.sqrt(2 * spread / (observations**2 * r2) * math.log1p(math.sqrt(spread) / (2 * alpha)))


def _metric(metric: Metric, sums: NDArray[np.int64], alpha: float) -> HarmReading:
    """Read one metric from its columns of the closed conversations, shape [conversations, 4]."""
    margin = metric.margin if metric.role is Role.GUARDRAIL else 0.0
    sums = sums[sums[:, PAIRS] > 0]
    if len(sums) < MIN_CLOSED or int((sums[:, APART] > 0).sum()) < MIN_DIFFERENT:
        return HarmReading(clusters=len(sums), limit=0.0 - margin)
    counted = sums * np.array([1.0, *[unit(metric)] * 3])
    pairs, incumbent = counted[:, PAIRS], counted[:, INCUMBENT]
    improvement = counted[:, CANDIDATE] - incumbent
    if metric.direction is Direction.LOWER:
        improvement = -improvement
    # What the margin is counted in: pairs, or the incumbent's own value.
    scale = pairs if metric.scale is Scale.ABSOLUTE else incumbent
    if scale.sum() <= 0:
        return HarmReading(clusters=len(sums), limit=0.0 - margin)
    z = improvement + margin * scale
    bound = float(z.mean() + z.std() * half_width(len(z), alpha))
    return HarmReading(clusters=len(z), high=bound / float(scale.mean()) - margin, limit=0.0 - margin, shown=bound < 0)
