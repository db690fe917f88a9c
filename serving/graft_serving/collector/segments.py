"""The open segment of a comparison: lines, packed as they come, and what is needed to add them up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

import zstandard

from graft_api.collect import Compare, PairLine
from graft_api.schema import canonical_json
from graft_evaluation.paired import wire
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.pairs.contrasts import PRODUCTION, add_lines
from graft_evaluation.pairs.lines import write_line
from graft_serving.collector.commits import Algebra, Progress, Sealed, Sum

LEVEL = 3
KEPT_BYTES = 2048
"""What a line takes until it is added up, beside its packed bytes."""


@dataclass
class PairSum:
    """A contrast's summary, as the chain adds it up."""

    summary: Summary

    def merge(self, other: Sum) -> None:
        """See `Sum`."""
        self.summary.merge(cast("PairSum", other).summary)

    def to_bytes(self) -> bytes:
        """See `Sum`."""
        return wire.to_bytes(self.summary)


def pair_algebra(plans: dict[str, Plan]) -> Algebra[Sum]:
    """Return how pairs add up."""
    return Algebra(
        empty=lambda: {name: PairSum(Summary(plan)) for name, plan in plans.items()},
        read=lambda data: PairSum(wire.from_bytes(data)),
    )


def test_digest(compare: Compare) -> str:
    """
    Return what tells one test from all others: itself, its versions, and what is measured of them.

    Not its share: gateways and collector draw it together, and what is left to the collector changes while a test runs. Either
    way it is a share of conversations by hash.
    """
    told = compare.model_dump(mode="json", by_alias=True, include={"uid", "incumbent", "candidate", "metrics", "control_share"})
    return sha256(canonical_json(told)).hexdigest()


class PairSegment:
    """See `journal.Open`."""

    def __init__(self, plans: dict[str, Plan]) -> None:
        self.size = 0
        self.exclusions: Counter[tuple[str, str]] = Counter()
        """(cause, side) -> requests that were no pair at all."""
        self._plans = plans
        self._lines: list[PairLine] = []
        self._packer = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._packed = bytearray()

    @property
    def empty(self) -> bool:
        """See `Open`."""
        return not self._lines and not self.exclusions

    def add(self, line: PairLine) -> None:
        """Take a pair."""
        written = write_line(line)
        self.size += len(written) + KEPT_BYTES
        self._packed += self._packer.compress(written)
        self._lines.append(_without_content(line))

    def seal(self, began: float, ended: float, progress: Progress) -> Sealed[Sum]:
        """See `Open`."""
        packed = bytes(self._packed) + self._packer.flush()
        return Sealed(began, ended, packed, len(self._lines), self._sums(), progress)

    def _sums(self) -> dict[str, Sum]:
        if self.empty:
            return {}
        found = {name: Summary(plan) for name, plan in self._plans.items()}
        for summary in found.values():
            add_lines(summary, self._lines)
        for (cause, side), count in self.exclusions.items():
            found[PRODUCTION].exclude(cause, side, count)
        return {name: PairSum(summary) for name, summary in found.items()}


def _without_content(line: PairLine) -> PairLine:
    sides = {
        name: side.model_copy(update={"told": None}) for name in ("production", "candidate", "incumbent") if (side := getattr(line, name))
    }
    return line.model_copy(update={**sides, "request": None})


def unpacked(data: bytes) -> bytes:
    """Return a segment's lines."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)
