"""
What pairs are, as lines and as numbers. Pure.

Whoever has the lines has the summaries: the collector itself adds up what it has written into a line, so that the same function
over committed lines, here or on somebody's laptop, comes to the same state bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from graft_api.collect import HARDWARE, Compare, Content, PairLine, SideLine, Sides, Told
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.hashing import conversation_keys
from graft_evaluation.paired.outcomes import worst
from graft_evaluation.paired.summary import Plan, Summary
from graft_serving.collector.answers import Side

PRODUCTION, CONTROL, INSTRUMENT = "production", "control", "instrument"
"""Names of the contrasts: production against candidate, both versions on the shadow, production against the shadow's incumbent."""


def plans(compare: Compare) -> dict[str, Plan]:
    """Return what is summed, by contrast: hardware only where both sides had the same, all else of production's own answers."""
    hardware = tuple(measured.metric for measured in compare.metrics if measured.measure in HARDWARE)
    quality = tuple(measured.metric for measured in compare.metrics if measured.measure not in HARDWARE)
    found = {PRODUCTION: Plan(PRODUCTION, quality, compare.seed)}
    if float(compare.control_share) > 0:
        found[INSTRUMENT] = Plan(INSTRUMENT, quality, compare.seed)
        if hardware:
            found[CONTROL] = Plan(CONTROL, hardware, compare.seed)
    return found


def add_lines(summary: Summary, lines: Sequence[PairLine]) -> None:
    """Add what `lines` say of one contrast to its summary."""
    name = summary.plan.name
    for line in lines:
        for metric in line.broken.get(name, ()):
            summary.fail(metric)
        if name in line.exclusions:
            summary.exclude(*line.exclusions[name])
    present = [line for line in lines if name in line.values]
    if present:
        summary.add(_batch(summary.plan, present))


def summed(plan: Plan, lines: Sequence[PairLine]) -> Summary:
    """Return the summary of lines alone."""
    summary = Summary(plan)
    add_lines(summary, lines)
    return summary


def _batch(plan: Plan, lines: Sequence[PairLine]) -> Batch:
    values = np.full((2, len(plan.metrics), len(lines)), np.nan)
    for row, metric in enumerate(plan.metrics):
        for column, line in enumerate(lines):
            sides = line.values[plan.name].get(metric.name)
            if sides is not None:
                # Two absences are not an unsampled pair, which is how two NaN would read.
                values[:, row, column] = worst(metric) if sides == (None, None) else _numbers(sides)
    return Batch(
        clusters=conversation_keys([bytes.fromhex(line.conversation) for line in lines]),
        first_turn=np.array([line.first_turn for line in lines], dtype=np.bool_),
        seconds=np.array([line.at for line in lines], dtype=np.int64),
        incumbent=values[0],
        candidate=values[1],
    )


def _numbers(sides: Sides) -> tuple[float, float]:
    incumbent, candidate = (np.nan if value is None else value for value in sides)
    return incumbent, candidate


class Redactor:
    """Makes lines of answers and requests, with as much of their content as may be kept."""

    def __init__(self, content: Content, key: bytes) -> None:
        """`key`: of this process, never written down."""
        self._content = content
        self._key = key

    def side(self, side: Side) -> SideLine:
        """Return one side of a line."""
        said = side.said
        line = SideLine(ended=said.ended, seconds=side.seconds, first_byte_seconds=side.first_byte_seconds, tokens=said.tokens)
        if self._content is Content.NONE:
            return line
        calls = None if said.tool_calls is None else [(call.name, call.arguments) for call in said.tool_calls]
        update = {"characters": len(said.text), "digest": self._digest(repr((said.text, calls)).encode("utf-8", "surrogatepass"))}
        if self._content is Content.FULL:
            return line.model_copy(update={**update, "told": Told(text=_storable(said.text), tool_calls=calls)})
        return line.model_copy(update=update)

    def request(self, body: bytes) -> dict[str, Any]:
        """Return a line's fields of the request."""
        if self._content is Content.NONE:
            return {}
        found: dict[str, Any] = {"request_digest": self._digest(body), "request_bytes": len(body)}
        return {**found, "request": body.decode("utf-8", "replace")} if self._content is Content.FULL else found

    def _digest(self, data: bytes) -> str:
        return blake2b(data, digest_size=16, key=self._key).hexdigest()


def read_lines(data: bytes) -> Iterable[PairLine]:
    """Yield the lines of a segment that is unpacked."""
    for line in data.splitlines():
        yield PairLine.model_validate_json(line, by_alias=True, by_name=False, extra="ignore")


def write_line(line: PairLine) -> bytes:
    """Return a line with its end."""
    return line.model_dump_json(by_alias=True, exclude_none=False, exclude_defaults=True).encode() + b"\n"


def _storable(text: str) -> str:
    """Half a surrogate pair cannot be written down."""
    return text.encode("utf-8", "replace").decode()
