"""Pairs as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable

from graft_api.collect import PairLine


def read_line(line: bytes) -> PairLine:
    """Return the pair of one line; what a newer version added is ignored. Raises pydantic's `ValidationError`."""
    return PairLine.model_validate_json(line, by_alias=True, by_name=False, extra="ignore")


def read_lines(data: bytes) -> Iterable[PairLine]:
    """Yield the lines of a segment that is unpacked."""
    for line in data.splitlines():
        yield read_line(line)


def write_line(line: PairLine) -> bytes:
    """Return a line with its end."""
    return line.model_dump_json(by_alias=True, exclude_none=False, exclude_defaults=True).encode() + b"\n"
