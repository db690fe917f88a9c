"""From what came back to a value: an answer that never came is an outcome, and the worst one."""

import enum
import math

from graft_api.comparison import Direction, Kind, Metric


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


def value(metric: Metric, answer: Answer, measured: float | None) -> float:
    """
    Return what one side's answer counts as.

    `measured` is the score, or the measured quantity; None where there is none, which is the worst too. A quantity such as
    latency is what it is for an answer that was cut off; for every other metric the answer is not there. An empty answer that
    came fast is not fast.
    """
    cut_off_counts = answer is Answer.LENGTH and metric.kind is Kind.QUANTILE
    if measured is None or math.isnan(measured) or not (answer is Answer.COMPLETE or cut_off_counts):
        return worst(metric)
    return float(measured)
