"""From what came back to a value: an answer that never came is an outcome, and the worst one."""

import enum
import math

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import MEAN_REACH, Direction, Kind, Metric


class Answer(enum.StrEnum):
    """How one side's answer ended. Whether the pair counts was decided before this was known."""

    COMPLETE = "Complete"
    LENGTH = "Length"
    """Cut off at the token limit."""
    EMPTY = "Empty"
    TIMEOUT = "Timeout"
    ERROR = "Error"


def worst(metric: Metric) -> float:
    """Return the value of an answer that never came: of a quantity that should be low, infinity unless the metric says less."""
    if metric.worst is not None:
        return metric.worst
    lower = metric.direction is Direction.LOWER
    if metric.kind is Kind.PROPORTION:
        return 1.0 if lower else 0.0
    return math.inf if lower else 0.0


def clipped(metric: Metric, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Return values, of any shape, with none worse than the worst and none better than the best that the metric names.

    Otherwise an answer that never came would beat one that came and is worse, and a candidate would gain by not answering.
    """
    if metric.kind is Kind.PROPORTION or (metric.worst is None and metric.best is None):
        return values
    ends = (metric.worst, metric.best) if metric.direction is Direction.HIGHER else (metric.best, metric.worst)
    low, high = (-math.inf if ends[0] is None else ends[0]), (math.inf if ends[1] is None else ends[1])
    return np.clip(values, low, high)


def counted(metric: Metric, measured: float | None) -> float:
    """
    Return what a measured value counts as on its side.

    What is missing, no number, or of a mean beyond what can be summed, or of a quantile negative, is that side's worst and not left
    out: a pair that is dropped for one side's value is dropped by its outcome. Raises ValueError for a proportion's value that is
    neither 0 nor 1, which is the scorer's fault and no side's.
    """
    if measured is None or math.isnan(measured):
        return worst(metric)
    if metric.kind is Kind.PROPORTION and measured not in (0, 1):
        raise ValueError(f"{metric.name} is a proportion: its values are 0 and 1")
    unsummable = metric.kind is Kind.MEAN and not abs(measured) <= MEAN_REACH * metric.resolution
    if unsummable or (metric.kind is Kind.QUANTILE and measured < 0):
        return worst(metric)
    return float(clipped(metric, np.array(measured, dtype=np.float64)))


def value(metric: Metric, answer: Answer, measured: float | None) -> float:
    """
    Return what one side's answer counts as.

    `measured` is the score, or the measured quantity; None where there is none, which is the worst too. A quantity such as
    latency is what it is for an answer that was cut off; for every other metric the answer is not there. An empty answer that
    came fast is not fast. Raises ValueError as `counted`.
    """
    cut_off_counts = answer is Answer.LENGTH and metric.kind is Kind.QUANTILE
    if not (answer is Answer.COMPLETE or cut_off_counts):
        return worst(metric)
    return counted(metric, measured)
