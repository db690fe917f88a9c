"""
Drawings of one metric, as SVG within the page. Colours and fonts are the page's.

They are 360 units wide, so that on a narrow telephone a unit is a pixel and their words can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from graft_api.comparison import Estimate, Kind, Metric, Role
from graft_evaluation.paired.sentences import amount
from graft_evaluation.report.document import Histogram, Period
from graft_evaluation.report.markup import Element, element

WIDTH = 360.0
LEFT, RIGHT = 12.0, 348.0
DAY = 86_400

Axis = Callable[[float], float]


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
    axis = _axis(marks, LEFT + 24, RIGHT - 24)
    height = 92.0 if first_turn is None else 118.0
    parts = [] if limit is None else [_rectangle("ground", axis(limit), 18, RIGHT - axis(limit), height - 34)]
    parts += [_line("zero", axis(0), 18, axis(0), height - 16), _text("no change", axis(0), height - 4)]
    if limit:
        parts += [_line("bound", axis(limit), 18, axis(limit), height - 16), _text(_bound_label(metric), axis(limit), 12)]
    parts += [*_interval("all", axis, overall, 44), *_ends(metric, axis, overall, 64)]
    if first_turn is not None:
        parts += [*_interval("first", axis, first_turn, 78), _text("first turns alone", axis(first_turn.improvement), 95)]
    return _drawing(height, f"interval of {metric.called()}, better is right", parts)


def over_time(metric: Metric, periods: Sequence[Period]) -> Element:
    """Draw the interval of each hour or day; better is up."""
    limit = bound(metric)
    known = [value for period in periods for value in (period.low, period.high) if value is not None]
    up = _axis([0.0, *known, *([] if limit is None else [limit])], 108.0, 12.0)
    parts = [_line("zero", LEFT, up(0), RIGHT, up(0))]
    parts += [_line("bound", LEFT, up(limit), RIGHT, up(limit))] if limit else []
    across = _axis_of_time(periods)
    for period in periods:
        if period.low is not None and period.high is not None and period.improvement is not None:
            at = across(period.start + period.seconds / 2)
            parts += [_line("all", at, up(period.low), at, up(period.high)), _dot("all", at, up(period.improvement))]
    parts += [_words(_when(period), at, 126, anchor) for period, at, anchor in _first_and_last(periods)]
    if known:
        parts += [_words(f"up to {signed(metric, max(known))}", RIGHT, 10, "end"), _words("better is up", LEFT, 10, "start")]
    return _drawing(130.0, f"intervals of {metric.called()} over time", parts)


def values(metric: Metric, histogram: Histogram) -> Element:
    """Draw both sides' values: the incumbent filled, the candidate as a line."""
    if metric.kind is Kind.PROPORTION:
        return _shares(metric, histogram)
    tallest = max([*histogram.incumbent, *histogram.candidate, 1])
    step = (RIGHT - LEFT) / len(histogram.incumbent)
    high = 84.0
    bars = [
        _rectangle("incumbent", LEFT + place * step, 96 - high * count / tallest, step - 1, high * count / tallest)
        for place, count in enumerate(histogram.incumbent)
    ]
    corners = [(LEFT, 96.0)]
    for place, count in enumerate(histogram.candidate):
        top = 96 - high * count / tallest
        corners += [(LEFT + place * step, top), (LEFT + (place + 1) * step, top)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*corners, (RIGHT, 96.0)])
    parts = [*bars, element("polyline", class_="candidate", points=points), _line("zero", LEFT, 96, RIGHT, 96), *_ticks(metric, histogram)]
    return _drawing(114.0, f"values of {metric.called()} of both sides", parts)


def signed(metric: Metric, value: float) -> str:
    """Return an improvement with its sign and unit."""
    return f"{'+' if value > 0 else ''}{amount(metric, value)}"


def _shares(metric: Metric, histogram: Histogram) -> Element:
    parts: list[Element] = []
    for place, (side, counts) in enumerate((("incumbent", histogram.incumbent), ("candidate", histogram.candidate))):
        share = counts[-1] / max(sum(counts), 1)
        top = 8.0 + 40 * place
        parts += [
            _rectangle("empty", LEFT, top, RIGHT - LEFT, 16),
            _rectangle(f"{side} bar", LEFT, top, share * (RIGHT - LEFT), 16),
            _words(f"{side}: {counts[-1]} of {sum(counts)}, {share:.2%}", LEFT, top + 29, "start"),
        ]
    return _drawing(90.0, f"share of ones of {metric.called()} on both sides", parts)


def _ticks(metric: Metric, histogram: Histogram) -> Iterator[Element]:
    edges = histogram.edges
    for at, edge, anchor in ((LEFT, edges[0], "start"), ((LEFT + RIGHT) / 2, edges[len(edges) // 2], "middle"), (RIGHT, edges[-1], "end")):
        yield _words(f"{edge:.3g} {metric.unit}".rstrip(), at, 110, anchor)


def _ends(metric: Metric, axis: Axis, estimate: Estimate, y: float) -> list[Element]:
    """Return the numbers at an interval's ends, or one of both where two would lie on one another."""
    low, high = signed(metric, estimate.low), signed(metric, estimate.high)
    if axis(estimate.high) - axis(estimate.low) < 4 * (len(low) + len(high)) + 12:
        return [_text(f"{low} to {high}", axis(estimate.improvement), y)]
    return [_text(low, axis(estimate.low), y), _text(high, axis(estimate.high), y)]


def _bound_label(metric: Metric) -> str:
    word = "must gain" if metric.role is Role.PRIMARY else "may lose"
    return f"{word} {amount(metric, metric.margin)}"


def _interval(kind: str, axis: Axis, estimate: Estimate, y: float) -> list[Element]:
    low, high = axis(estimate.low), axis(estimate.high)
    ends = [_line(kind, end, y - 5, end, y + 5) for end in (low, high)]
    return [_line(kind, low, y, high, y), *ends, _dot(kind, axis(estimate.improvement), y)]


def _axis(marks: Sequence[float], start: float, end: float) -> Axis:
    low, high = min(marks), max(marks)
    span = high - low or 1.0
    return lambda value: start + (end - start) * (value - low) / span


def _axis_of_time(periods: Sequence[Period]) -> Axis:
    ends = [float(periods[0].start), float(periods[-1].start + periods[-1].seconds)] if periods else [0.0, 1.0]
    return _axis(ends, LEFT, RIGHT)


def _first_and_last(periods: Sequence[Period]) -> list[tuple[Period, float, str]]:
    found = [(period, at, anchor) for period, at, anchor in zip(periods[:1], (LEFT,), ("start",), strict=False)]
    return [*found, (periods[-1], RIGHT, "end")] if len(periods) > 1 else found


def _when(period: Period) -> str:
    return datetime.fromtimestamp(period.start, UTC).strftime("%d %b" if period.seconds == DAY else "%d %b %H:%M")


def _text(text: str, at: float, y: float) -> Element:
    """Return words in the middle of `at`, or beside it where the drawing ends."""
    half = 3.4 * len(text)
    return _words(text, min(max(at, half + 2), WIDTH - half - 2), y, "middle")


def _words(text: str, x: float, y: float, anchor: str) -> Element:
    return element("text", text, x=x, y=y, text_anchor=anchor)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    return element("line", class_=kind, x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2))


def _rectangle(kind: str, x: float, y: float, width: float, height: float) -> Element:
    return element("rect", class_=kind, x=float(x), y=float(y), width=max(float(width), 0.0), height=max(float(height), 0.0))


def _dot(kind: str, x: float, y: float) -> Element:
    return element("circle", class_=kind, cx=float(x), cy=float(y), r=3.5 if kind == "all" else 2.5)


def _drawing(height: float, label: str, parts: Sequence[Element]) -> Element:
    return element("svg", *parts, viewBox=f"0 0 {WIDTH:.0f} {height:.0f}", role="img", aria_label=label)
