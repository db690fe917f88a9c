"""HTML and SVG elements: what is put into them is text, and nothing else can be."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Element:
    """A piece of finished markup. Whatever is none is text, and is escaped."""

    markup: str


Part = Element | str | Iterable["Part"]
Value = str | int | float

VOID = frozenset({"meta", "br"})


def element(tag: str, *parts: Part, **attributes: Value) -> Element:
    """Return an element; `class_` and `stroke_width` become `class` and `stroke-width`."""
    named = "".join(f' {name.rstrip("_").replace("_", "-")}="{html.escape(_written(value))}"' for name, value in attributes.items())
    return Element(f"<{tag}{named}>" if tag in VOID else f"<{tag}{named}>{_markup(parts)}</{tag}>")


def _markup(part: Part) -> str:
    if isinstance(part, Element):
        return part.markup
    if isinstance(part, str):
        return html.escape(_readable(part))
    return "".join(_markup(each) for each in part)


def _written(value: Value) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else _readable(str(value))


def _readable(text: str) -> str:
    """Replace what HTML cannot hold: control characters."""
    return "".join(_readable_character(character) for character in text)


def _readable_character(character: str) -> str:
    code = ord(character)
    hidden = (code < 32 and character not in "\n\t") or 127 <= code < 160
    return "\N{REPLACEMENT CHARACTER}" if hidden else character
