"""Pure: the guardrails that a ShadowTest has without its author's asking."""

from collections.abc import Sequence

from graft_api.collect import MeasuredMetric
from graft_api.comparison import Direction, Kind, Metric, Role, Scale
from graft_api.measures import HARDWARE, Measure
from graft_api.shadowtest import AddedGuardrail

STANDARD = (
    AddedGuardrail(
        measure=Measure.SERVER_ERROR,
        metric=Metric(name="server-errors", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=0.005),
    ),
    AddedGuardrail(
        measure=Measure.REFUSAL,
        metric=Metric(name="refusals", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=0.02),
    ),
    AddedGuardrail(
        measure=Measure.LATENCY,
        metric=Metric(
            name="latency-p95",
            label="95th percentile of latency",
            unit="s",
            kind=Kind.QUANTILE,
            direction=Direction.LOWER,
            role=Role.GUARDRAIL,
            margin=0.1,
            scale=Scale.RELATIVE,
            quantile=0.95,
        ),
    ),
    AddedGuardrail(
        measure=Measure.FIRST_TOKEN,
        metric=Metric(
            name="first-token-p95",
            label="95th percentile of the time to the first token",
            unit="s",
            kind=Kind.QUANTILE,
            direction=Direction.LOWER,
            role=Role.INFORMATIONAL,
            scale=Scale.RELATIVE,
            quantile=0.95,
        ),
    ),
)
"""
What a better answer must not cost.

The time to the first token decides nothing: requests without a stream have none, and nobody here can tell whether clients will
stream. As a guardrail it would be measured on no pair of such an endpoint, and no test of it could ever pass. Who streams adds it.
"""


def added(metrics: Sequence[MeasuredMetric], *, control: bool) -> list[AddedGuardrail]:
    """Return the standard guardrails whose measure none of the metrics has; `control`: there is a control share."""
    measured = {metric.measure for metric in metrics}
    due = [metric for metric in STANDARD if metric.measure not in measured and (control or metric.measure not in HARDWARE)]
    taken = {metric.metric.name for metric in metrics}
    return [_named_apart(metric, taken) for metric in due]


def with_added(metrics: Sequence[MeasuredMetric], guardrails: Sequence[AddedGuardrail]) -> list[MeasuredMetric]:
    """Return all that is measured."""
    return [*metrics, *(MeasuredMetric(metric=one.metric, measure=one.measure) for one in guardrails)]


def _named_apart(standard: AddedGuardrail, taken: set[str]) -> AddedGuardrail:
    """Return it under a name that no metric of the user's has."""
    name = standard.metric.name
    while name in taken:
        name = f"standard-{name}"
    if name == standard.metric.name:
        return standard
    metric = standard.metric.model_copy(update={"name": name, "label": standard.metric.called()})
    return standard.model_copy(update={"metric": metric})
