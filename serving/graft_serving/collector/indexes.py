"""
Which segments count, without a read of every commit: 90 days of them are 130,000 objects.

    indexes/<last>-<first>.json   a line for each commit of these, as it lies in the store without its sums

Written before the snapshot, so every snapshot of a collector that knows indexes has one. Where one is missing (of an older collector, and
after the last snapshot) the commits are read, many at a time. Nothing here is believed: every line must have the digest that the
next one names, and the last one that of the chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from graft_serving.collector.commits import Commit, DamagedError, SegmentReference, check_link, digest_of, parsed, path_of, written
from graft_serving.collector.reading_ahead import read_ahead
from graft_serving.collector.store import Store

INDEXES = "indexes/"
COMMIT_BYTES = 2 * 1024
"""Of a commit without its sums, with room to spare."""


class _Span(NamedTuple):
    first: int
    last: int
    path: str
    packed: bool
    """An index; else one commit."""


def write_index(store: Store, commits: Sequence[Commit]) -> None:
    """Write down commits without their sums: at least one, without a hole. Raises `StoreAwayError`."""
    path = f"{INDEXES}{commits[-1].sequence:08d}-{commits[0].sequence:08d}.json"
    store.write(path, b"\n".join(written(commit) for commit in commits) + b"\n")


def segments(store: Store, through: int, digest: str | None = None) -> Iterator[SegmentReference]:
    """
    Yield the segments of commits up to `through`, in their order. Raises `StoreAwayError`, `DamagedError`.

    `digest`: of the last one, if it is known.
    """
    before: Commit | None = None
    for commit in _commits(store, through):
        check_link(before, commit)
        before = commit
        if commit.segment is not None:
            yield commit.segment
    if digest is not None and (before is None or digest_of(before) != digest):
        raise DamagedError(f"the commits up to {through} are not those that were added up: they were changed or replaced")


def latest(store: Store, last: Commit) -> list[Commit]:
    """Return the commits of the index that ends with `last`, checked; none without it. Raises `StoreAwayError`, `DamagedError`."""
    found: list[Commit] = []
    for span in (span for span in _indexes(store, last.sequence) if span.last == last.sequence):
        found = list(_lines(span, store.read(span.path)))
        for before, commit in zip([None, *found], found, strict=False):
            if before is not None:
                check_link(before, commit)
        if digest_of(found[-1]) != digest_of(last):
            raise DamagedError(f"{span.path} is not of these commits: it was changed or replaced")
    return found


def _commits(store: Store, through: int) -> Iterator[Commit]:
    spans = {span.path: span for span in _spans(_indexes(store, through), through)}
    reached = 0
    for path, content in read_ahead(store, [(path, (span.last - span.first + 1) * COMMIT_BYTES) for path, span in spans.items()]):
        span = spans[path]
        if content is None and not span.packed:
            continue  # somebody took it away; whoever names its digest finds out
        for commit in _lines(span, content) if span.packed else [parsed(content or b"", path)]:
            if reached < commit.sequence <= through:
                reached = commit.sequence
                yield commit


def _spans(indexes: Sequence[_Span], through: int) -> Iterator[_Span]:
    """Yield what must be read to have every commit up to `through`. Of two indexes that overlap the later one's rest counts."""
    reached = 0
    for span in sorted(indexes, key=lambda span: span.last):
        if span.last > reached:
            yield from _singles(reached + 1, span.first)
            yield span
            reached = span.last
    yield from _singles(reached + 1, through + 1)


def _singles(first: int, end: int) -> Iterator[_Span]:
    for sequence in range(first, end):
        yield _Span(sequence, sequence, path_of(sequence), packed=False)


def _indexes(store: Store, through: int) -> list[_Span]:
    found = []
    for path in store.list(INDEXES):
        last, _, first = path.removeprefix(INDEXES).removesuffix(".json").partition("-")
        if last.isdecimal() and first.isdecimal() and int(first) <= through:
            found.append(_Span(int(first), int(last), path, packed=True))
    return found


def _lines(span: _Span, content: bytes | None) -> Iterator[Commit]:
    commits = [parsed(line, span.path) for line in (content or b"").splitlines()]
    if [commit.sequence for commit in commits] != list(range(span.first, span.last + 1)):
        raise DamagedError(f"{span.path} does not have the commits of its name")
    yield from commits
