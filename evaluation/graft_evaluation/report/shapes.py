"""
What drawings are made of, as SVG within a page. Colours and fonts are the page's.

They are 360 units wide, so that on a narrow telephone a unit is a pixel and their words can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graft_evaluation.report.markup import Element, element

WIDTH = 360.0
LEFT, RIGHT = 12.0, 348.0

Axis = Callable[[float], float]


def axis(marks: Sequence[float], start: float, end: float) -> Axis:
    """Return where a value lies, the least mark at `start` and the greatest at `end`."""
    low, high = min(marks), max(marks)
    span = high - low or 1.0
    return lambda value: start + (end - start) * (value - low) / span


def text(text: str, at: float, y: float) -> Element:
    """Return words in the middle of `at`, or beside it where the drawing ends."""
    half = 3.4 * len(text)
    return words(text, min(max(at, half + 2), WIDTH - half - 2), y, "middle")


def words(text: str, x: float, y: float, anchor: str) -> Element:
    """Return words beside `x`: its "start", "middle" or "end" is there."""
    return element("text", text, x=x, y=y, text_anchor=anchor)


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    """Return a line of one of the page's classes."""
    return element("line", class_=kind, x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2))


def rectangle(kind: str, x: float, y: float, width: float, height: float) -> Element:
    """Return a filled rectangle."""
    return element("rect", class_=kind, x=float(x), y=float(y), width=max(float(width), 0.0), height=max(float(height), 0.0))


def dot(kind: str, x: float, y: float) -> Element:
    """Return a mark: a large one of the class `all`."""
    return element("circle", class_=kind, cx=float(x), cy=float(y), r=3.5 if kind == "all" else 2.5)


def drawing(height: float, label: str, parts: Sequence[Element]) -> Element:
    """Return the whole, for those who do not see it with `label`."""
    return element("svg", *parts, viewBox=f"0 0 {WIDTH:.0f} {height:.0f}", role="img", aria_label=label)
