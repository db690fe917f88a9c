"""Drawings of one metric, as SVG within the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from graft_api.comparison import Estimate, Kind, Metric, Role
from graft_evaluation.paired.sentences import amount
from graft_evaluation.report import shapes
from graft_evaluation.report.document import Histogram, Period
from graft_evaluation.report.markup import Element, element
from graft_evaluation.report.shapes import LEFT, RIGHT, WIDTH, Axis

DAY = 86_400


def bound(metric: Metric) -> float | None:
    """Return what the interval's lower end is held against; None where nothing is."""
    if metric.role is Role.INFORMATIONAL:
        return None
    return metric.margin if metric.role is Role.PRIMARY else 0.0 - metric.margin


def intervals(metric: Metric, overall: Estimate, first_turn: Estimate | None) -> Element:
    """Draw the interval against its margin; better is right."""
    limit = bound(metric)
    marks = [0.0, overall.low, overall.high, *([] if limit is None else [limit])]
    marks += [] if first_turn is None else [first_turn.low, first_turn.high]
    axis = shapes.axis(marks, LEFT + 24, RIGHT - 24)
    height = 92.0 if first_turn is None else 118.0
    parts = [] if limit is None else [shapes.rectangle("ground", axis(limit), 18, RIGHT - axis(limit), height - 34)]
    parts += [shapes.line("zero", axis(0), 18, axis(0), height - 16), shapes.text("no change", axis(0), height - 4)]
    if limit:
        parts += [shapes.line("bound", axis(limit), 18, axis(limit), height - 16), shapes.text(_bound_label(metric), axis(limit), 12)]
    parts += [*_interval("all", axis, overall, 44), *_ends(metric, axis, overall, 64)]
    if first_turn is not None:
        parts += [*_interval("first", axis, first_turn, 78), shapes.text("first turns alone", axis(first_turn.improvement), 95)]
    return shapes.drawing(height, f"interval of {metric.called()}, better is right", parts)


def over_time(metric: Metric, periods: Sequence[Period]) -> Element:
    """Draw the interval of each hour or day; better is up."""
    limit = bound(metric)
    known = [value for period in periods for value in (period.low, period.high) if value is not None]
    up = shapes.axis([0.0, *known, *([] if limit is None else [limit])], 112.0, 24.0)
    parts = [shapes.line("zero", LEFT, up(0), RIGHT, up(0))]
    parts += [shapes.line("bound", LEFT, up(limit), RIGHT, up(limit))] if limit else []
    across = _axis_of_time(periods)
    for period in periods:
        if period.low is not None and period.high is not None and period.improvement is not None:
            at = across(period.start + period.seconds / 2)
            parts += [shapes.line("all", at, up(period.low), at, up(period.high)), shapes.dot("all", at, up(period.improvement))]
    parts += [shapes.words(_when(period), at, 130, anchor) for period, at, anchor in _first_and_last(periods)]
    parts += [shapes.words("better is up; line: no change", LEFT, 10, "start")]
    parts += [shapes.words(f"dashed: {_bound_label(metric)}", WIDTH / 2, 130, "middle")] if limit else []
    parts += [shapes.words(f"highest {signed(metric, max(known))}", RIGHT, 10, "end")] if known else []
    return shapes.drawing(134.0, f"intervals of {metric.called()} over time", parts)


def values(metric: Metric, histogram: Histogram) -> Element:
    """Draw both sides' values: the incumbent filled, the candidate as a line."""
    if metric.kind is Kind.PROPORTION:
        return _shares(metric, histogram)
    tallest = max([*histogram.incumbent, *histogram.candidate, 1])
    step = (RIGHT - LEFT) / len(histogram.incumbent)
    high = 84.0
    bars = [
        shapes.rectangle("incumbent", LEFT + place * step, 96 - high * count / tallest, step - 1, high * count / tallest)
        for place, count in enumerate(histogram.incumbent)
    ]
    corners = [(LEFT, 96.0)]
    for place, count in enumerate(histogram.candidate):
        top = 96 - high * count / tallest
        corners += [(LEFT + place * step, top), (LEFT + (place + 1) * step, top)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*corners, (RIGHT, 96.0)])
    parts = [
        *bars,
        element("polyline", class_="candidate", points=points),
        shapes.line("zero", LEFT, 96, RIGHT, 96),
        *_ticks(metric, histogram),
    ]
    return shapes.drawing(114.0, f"values of {metric.called()} of both sides", parts)


def signed(metric: Metric, value: float) -> str:
    """Return an improvement with its sign and unit."""
    return f"{'+' if value > 0 else ''}{amount(metric, value)}"


def _shares(metric: Metric, histogram: Histogram) -> Element:
    parts: list[Element] = []
    for place, (side, counts) in enumerate((("incumbent", histogram.incumbent), ("candidate", histogram.candidate))):
        share = counts[-1] / max(sum(counts), 1)
        top = 8.0 + 40 * place
        parts += [
            shapes.rectangle("empty", LEFT, top, RIGHT - LEFT, 16),
            shapes.rectangle(f"{side} bar", LEFT, top, share * (RIGHT - LEFT), 16),
            shapes.words(f"{side}: {counts[-1]} of {sum(counts)}, {share:.2%}", LEFT, top + 29, "start"),
        ]
    return shapes.drawing(90.0, f"share of ones of {metric.called()} on both sides", parts)


def _ticks(metric: Metric, histogram: Histogram) -> Iterator[Element]:
    edges = histogram.edges
    for at, edge, anchor in ((LEFT, edges[0], "start"), ((LEFT + RIGHT) / 2, edges[len(edges) // 2], "middle"), (RIGHT, edges[-1], "end")):
        yield shapes.words(f"{_within(metric, edge):.3g} {metric.unit}".rstrip(), at, 110, anchor)


def _within(metric: Metric, edge: float) -> float:
    """Return the edge, or the end of the metric's range: the bin that holds the best value may reach beyond it, and no value does."""
    ends = [end for end in (metric.worst, metric.best) if end is not None]
    return min(max(edge, min(ends)), max(ends)) if metric.best is not None else edge


def _ends(metric: Metric, axis: Axis, estimate: Estimate, y: float) -> list[Element]:
    """Return the numbers at an interval's ends, or one of both where two would lie on one another."""
    low, high = signed(metric, estimate.low), signed(metric, estimate.high)
    if axis(estimate.high) - axis(estimate.low) < 4 * (len(low) + len(high)) + 12:
        return [shapes.text(f"{low} to {high}", axis(estimate.improvement), y)]
    return [shapes.text(low, axis(estimate.low), y), shapes.text(high, axis(estimate.high), y)]


def _bound_label(metric: Metric) -> str:
    word = "must gain" if metric.role is Role.PRIMARY else "may lose"
    return f"{word} {amount(metric, metric.margin)}"


def _interval(kind: str, axis: Axis, estimate: Estimate, y: float) -> list[Element]:
    low, high = axis(estimate.low), axis(estimate.high)
    ends = [shapes.line(kind, end, y - 5, end, y + 5) for end in (low, high)]
    return [shapes.line(kind, low, y, high, y), *ends, shapes.dot(kind, axis(estimate.improvement), y)]


def _axis_of_time(periods: Sequence[Period]) -> Axis:
    ends = [float(periods[0].start), float(periods[-1].start + periods[-1].seconds)] if periods else [0.0, 1.0]
    return shapes.axis(ends, LEFT, RIGHT)


def _first_and_last(periods: Sequence[Period]) -> list[tuple[Period, float, str]]:
    found = [(period, at, anchor) for period, at, anchor in zip(periods[:1], (LEFT,), ("start",), strict=False)]
    return [*found, (periods[-1], RIGHT, "end")] if len(periods) > 1 else found


def _when(period: Period) -> str:
    return datetime.fromtimestamp(period.start, UTC).strftime("%d %b" if period.seconds == DAY else "%d %b %H:%M")
