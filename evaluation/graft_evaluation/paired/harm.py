"""
Is the candidate doing harm? Asked at every look, and wrong in at most 1 % of tests whatever the number of looks.

Closed conversations are the observations: z = sum over a conversation's pairs of (improvement + margin), whose mean is at least 0
where no harm is done. The upper end of a one-sided asymptotic confidence sequence below 0 shows harm (Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52:2613,
Theorem 2.2 and Proposition B.1).

A mean in which an answer that never came counts as the worst has rare values that weigh more than all others, and its variance says
nothing before enough of them were seen. So a mean is two sequences with half the error each: of the values with the worst replaced
by a typical one, and of the share of pairs in which one side alone is at the worst. Their sum is the mean, and the sum of their
bounds its bound.
"""

import math

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import HARM_ALPHA, Direction, HarmReading, Kind, Metric, Role, Scale
from graft_evaluation.paired.batch import unit
from graft_evaluation.paired.outcomes import worst
from graft_evaluation.paired.sample import Conversations
from graft_evaluation.paired.sequence import MIN_CLOSED, MIN_DIFFERENT, half_width
from graft_evaluation.paired.summary import APART, CANDIDATE, COLUMNS, INCUMBENT, PAIRS, Plan


def watched(plan: Plan) -> list[int]:
    """Return the places, among the proportions and means of a plan, of those that are watched: primaries and guardrails."""
    return [place for place, index in enumerate(plan.summed) if plan.metrics[index].role is not Role.INFORMATIONAL]


def read(plan: Plan, table: Conversations, now: int, idle_seconds: int, sharing: int) -> dict[str, HarmReading]:
    """
    Return the reading of every primary and guardrail that is a proportion or mean.

    A conversation is closed when nothing came for `idle_seconds` before `now` (seconds since the epoch). The error of 1 % is shared
    equally among the `sharing` metrics that are watched in all contrasts of the test, and by the sample's levels as
    1/((l + 1)(l + 2)): each level's conversations are a sequence of their own.
    """
    closed = table.sums[table.last + idle_seconds <= now]
    alpha = HARM_ALPHA / max(sharing, 1) / ((table.level + 1) * (table.level + 2))
    return {
        (metric := plan.metrics[plan.summed[place]]).name: _metric(
            metric, closed[:, 1 + COLUMNS * place : 1 + COLUMNS * (place + 1)], alpha
        )
        for place in watched(plan)
    }


def _metric(metric: Metric, sums: NDArray[np.int64], alpha: float) -> HarmReading:
    """Read one metric from its columns of the closed conversations, shape [conversations, COLUMNS]."""
    margin = metric.margin if metric.role is Role.GUARDRAIL else 0.0
    sums = sums[sums[:, PAIRS] > 0]
    nothing = HarmReading(clusters=len(sums), limit=0.0 - margin)
    if len(sums) < MIN_CLOSED or int((sums[:, APART] > 0).sum()) < MIN_DIFFERENT:
        return nothing
    counted = sums[:, : APART + 1] * np.array([1.0, *[unit(metric)] * 3])
    pairs, incumbent = counted[:, PAIRS], counted[:, INCUMBENT]
    improvement = counted[:, CANDIDATE] - incumbent
    if metric.direction is Direction.LOWER:
        improvement = -improvement
    # What the margin is counted in: pairs, or the incumbent's own value.
    scale = pairs if metric.scale is Scale.ABSOLUTE else incumbent
    if scale.sum() <= 0:
        return nothing
    bound = _bound(metric, counted, improvement, margin * scale, sums[:, APART + 1 :], alpha)
    return HarmReading(clusters=len(sums), high=bound / float(scale.mean()) - margin, limit=0.0 - margin, shown=bound < 0)


def _bound(
    metric: Metric,
    counted: NDArray[np.float64],
    improvement: NDArray[np.float64],
    allowed: NDArray[np.float64],
    alone: NDArray[np.int64],
    alpha: float,
) -> float:
    """
    Return the upper bound of the mean of improvement + allowed, both of shape [conversations].

    `counted` has shape [conversations, 4], and `alone` [conversations, 2]: pairs in which one side alone is at the worst.
    """
    if metric.kind is not Kind.MEAN:
        return _upper(improvement, allowed, alpha, 0.0)
    pairs = float(counted[:, PAIRS].mean())
    # From a typical value of the same traffic.
    span = abs(worst(metric) - float(counted[:, INCUMBENT].mean()) / pairs)
    worst_ones = span * (alone[:, 0] - alone[:, 1]).astype(np.float64)
    # Not having seen the incumbent's first timeout is no proof that there is none, whose cost would outweigh what is seen.
    unseen = span * pairs
    return _upper(improvement - worst_ones, allowed, alpha / 2, 0.0) + _upper(worst_ones, np.zeros(len(allowed)), alpha / 2, unseen)


def _upper(improvement: NDArray[np.float64], allowed: NDArray[np.float64], alpha: float, unseen: float) -> float:
    """
    Return the upper end of one sequence, of at least the variance that MIN_DIFFERENT values other than 0 give.

    Fewer are taken to be like those that were seen, and where there is none, of the size `unseen`.
    """
    z, some = improvement + allowed, improvement[improvement != 0]
    size = float(np.square(some).mean()) if len(some) else unseen**2
    least = math.sqrt(MIN_DIFFERENT / len(z) * size) if len(some) < MIN_DIFFERENT else 0.0
    return float(z.mean()) + max(float(z.std()), least) * half_width(len(z), alpha)
