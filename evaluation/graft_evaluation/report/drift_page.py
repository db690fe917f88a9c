"""The history of drift in one domain as one HTML page: of each principle its distances over time. Nothing is loaded, nothing runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from graft_api.drift import Contrast, DriftHistory, DriftReading, Held, Moment
from graft_evaluation.drift import beyond, describe, number
from graft_evaluation.report import shapes
from graft_evaluation.report.markup import Element, element
from graft_evaluation.report.page import whole
from graft_evaluation.report.shapes import LEFT, RIGHT

DRAWN = 40
"""Moments, the newest: more would touch each other."""
ABOUT = (
    "Cosine distance of the candidate's answers from the incumbent's, asked at the same time, with the 95\N{NO-BREAK SPACE}% interval over"
    " prompts. 0: the same direction, 1: unrelated, 2: opposite. Before activation the whole interval must lie within the limit; once the"
    " candidate serves, one that lies wholly beyond it takes it back."
)


def drift_page(history: DriftHistory) -> str:
    """Return the page."""
    title = f"Drift of {history.domain} on {history.endpoint}"
    return whole(title, [_header(title, history), *_newest(history), *_principles(history), _footer()])


def _header(title: str, history: DriftHistory) -> Element:
    gates = len({(held.gate, held.adapter_uid) for held in history.moments})
    count = f"{len(history.moments)} checks of {gates} candidates" if history.moments else "Nothing was checked yet."
    return element("header", element("h1", title), element("p", count, class_="about"), element("p", ABOUT))


def _newest(history: DriftHistory) -> Iterator[Element]:
    if not history.moments:
        return
    held = history.moments[-1]
    kind = "failed" if beyond(held.readings, held.limit, held.moment) else "passed"
    yield element("h2", f"{_moment(held)}: {held.candidate}")
    yield element("p", outcome(held), class_=f"outcome {kind}")
    yield element("ul", *(element("li", sentence) for sentence in sentences(held)))
    yield _table(held)
    about = f"Gate {held.gate}, {_time(held.at)} UTC, against {held.incumbent}; embeddings of {held.embedding_model}; limit {held.limit}."
    yield element("p", about, class_="fact")


def sentences(held: Held) -> list[str]:
    """Return what stopped the candidate, or where nothing did how far it is from the incumbent."""
    versions = [reading for reading in held.readings if reading.contrast is Contrast.VERSIONS]
    said = beyond(held.readings, held.limit, held.moment) or versions
    return [describe(reading, held.limit, held.moment) for reading in said]


def outcome(held: Held) -> str:
    """Return what a moment came to, in a few words."""
    return _OUTCOMES[held.moment, bool(beyond(held.readings, held.limit, held.moment))]


_OUTCOMES = {
    (Moment.BEFORE, False): "within the limit",
    (Moment.BEFORE, True): "not shown to be within the limit",
    (Moment.AFTER, False): "not shown to be beyond the limit",
    (Moment.AFTER, True): "beyond the limit",
}


def _table(held: Held) -> Element:
    names = ("principle", "contrast", "distance", "95 % interval", "prompts")
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in names)))
    return element("div", element("table", head, element("tbody", *map(_row, held.readings))), class_="wide", tabindex=0)


def _row(reading: DriftReading) -> Element:
    cells = (_CONTRASTS[reading.contrast], number(reading.mean), f"{number(reading.low)} to {number(reading.high)}", str(reading.prompts))
    return element("tr", element("th", reading.principle, scope="row"), *(element("td", cell) for cell in cells))


_CONTRASTS = {
    Contrast.VERSIONS: "candidate against incumbent",
    Contrast.CANDIDATE: "candidate against itself before",
    Contrast.INCUMBENT: "incumbent against itself before",
    Contrast.NOISE: "incumbent against itself, asked twice",
}


def _principles(history: DriftHistory) -> Iterator[Element]:
    names = sorted({reading.principle for held in history.moments for reading in held.readings})
    if names:
        yield element("h2", "Over time")
        yield element("div", *(_card(name, history.moments) for name in names), class_="cards")


def _card(principle: str, moments: Sequence[Held]) -> Element:
    found = [(held, reading) for held in moments for reading in held.readings if _is_of(reading, principle)]
    return element("section", element("h3", principle), over_time(principle, found[-DRAWN:]), class_="card")


def _is_of(reading: DriftReading, principle: str) -> bool:
    return reading.principle == principle and reading.contrast is Contrast.VERSIONS


def over_time(principle: str, found: Sequence[tuple[Held, DriftReading]]) -> Element:
    """Draw the interval of each moment; before activation thin, after it bold; dashed is the limit of that moment."""
    up = shapes.axis([0.0, *(reading.high for _, reading in found), *(float(held.limit) for held, _ in found)], 112.0, 24.0)
    step = (RIGHT - LEFT) / max(len(found), 1)
    parts = [shapes.line("zero", LEFT, up(0), RIGHT, up(0))]
    for place, (held, reading) in enumerate(found):
        start, kind = LEFT + place * step, "first" if held.moment is Moment.BEFORE else "all"
        middle = start + step / 2
        parts += [shapes.line("bound", start, up(float(held.limit)), start + step, up(float(held.limit)))]
        parts += [shapes.line(kind, middle, up(reading.low), middle, up(reading.high)), shapes.dot(kind, middle, up(reading.mean))]
    parts += [shapes.words("thin: before activation, bold: after", LEFT, 10, "start")]
    if found:
        parts += [shapes.words(f"limit {found[-1][0].limit}", RIGHT, 10, "end"), shapes.words(_day(found[0][0]), LEFT, 130, "start")]
    if len(found) > 1:
        parts += [shapes.words(_day(found[-1][0]), RIGHT, 130, "end")]
    return shapes.drawing(134.0, f"distances of {principle} over time", parts)


def _footer() -> Element:
    text = "Kept are vectors and distances, and no answers. Of a principle of few prompts the interval is wide. Times are UTC."
    return element("footer", element("p", text))


def _moment(held: Held) -> str:
    return "Before activation" if held.moment is Moment.BEFORE else "After activation"


def _day(held: Held) -> str:
    return datetime.fromisoformat(held.at).strftime("%d %b %Y")


def _time(at: str) -> str:
    return datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M")
