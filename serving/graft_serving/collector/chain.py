"""
Commits, one after another: what is in one counts, what is in none does not.

    1. the segment's object, under a name that only this process uses
    2. the commit, by a conditional PUT at the fixed key of its sequence number: it names the segment and holds the segment's sums and
       all numbers that are settled by now

A crash before 2 leaves an object that nothing names; a crash after 2 leaves a whole commit. So a segment counts once or never. Of two
processes that both think they are the collector one gets the key; the other sees somebody else's commit there and ends (`FencedError`).
Whoever starts adds up the newest snapshot and the commits after it; a snapshot is all commits so far added up, nothing but a shortcut.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Generic, Literal, Protocol, TypeVar

from pydantic import Field, ValidationError

from graft_api.schema import Count, Model
from graft_serving.collector.numbers import NumbersState
from graft_serving.collector.store import Store, StoreAwayError

logger = logging.getLogger(__name__)

SNAPSHOT_EVERY = 60
"""Commits: whoever starts reads no more than so many."""
KEPT_SNAPSHOTS = 2
BLOCK = 1000
"""Commits of one folder: whoever starts lists those after the newest snapshot, not those of years."""
PAIRS, COMMITS, SNAPSHOTS = "pairs/", "commits/", "snapshots/"


class FencedError(Exception):
    """Another process has committed in this one's place."""


class DamagedError(Exception):
    """What lies in the store is not what a collector with these settings wrote."""


class OtherTestError(DamagedError):
    """What lies in the store is another test's."""


class SegmentReference(Model):
    """The object with a commit's lines."""

    path: Annotated[str, Field(max_length=256)]
    sha256: Annotated[str, Field(max_length=64)]
    size_bytes: Count
    lines: Count


class Progress(Model):
    """Everything so far that is not a sum."""

    numbers: NumbersState = Field(default_factory=NumbersState)
    observed_seconds: Annotated[float, Field(ge=0)] = 0.0
    lost: dict[str, Count] = Field(default_factory=dict)
    """Left out by this collector, by cause."""
    spent: dict[str, Count] = Field(default_factory=dict)
    """Requests of scorers with a budget, by metric."""
    arrived: Count = 0
    """Exchanges of all kinds."""
    ours: Count = 0
    """Those of them that are this test's."""


class Commit(Model):
    """One object of the chain."""

    format: Literal[1] = 1
    sequence: Annotated[int, Field(ge=1)]
    writer: Annotated[str, Field(max_length=64)]
    test: Annotated[str, Field(max_length=64)] = ""
    """Digest of what is compared with what: the sums of two tests must not be added up."""
    began: float
    ended: float
    """Seconds since 1970."""
    segment: SegmentReference | None = None
    sums: dict[str, str]
    """Name -> what it was added up to in this segment (in a snapshot: so far), base64."""
    progress: Progress
    """So far."""


class Sum(Protocol):
    """Something that adds up."""

    def merge(self, other: Sum) -> None:
        """Add another one. Raises ValueError if they do not belong together."""

    def to_bytes(self) -> bytes:
        """Return it as bytes."""


S = TypeVar("S", bound=Sum)


@dataclass(frozen=True)
class Algebra(Generic[S]):
    """What a lane adds up."""

    empty: Callable[[], dict[str, S]]
    read: Callable[[bytes], S]


@dataclass
class Sealed(Generic[S]):
    """A segment that nothing is added to any more."""

    began: float
    ended: float
    lines: bytes
    """Packed."""
    count: int
    sums: Mapping[str, S]
    progress: Progress


@dataclass
class Total(Generic[S]):
    """All commits."""

    sequence: int
    sums: dict[str, S]
    progress: Progress = field(default_factory=Progress)


class Chain(Generic[S]):
    """One chain of commits below a store. Its methods block; one call at a time."""

    def __init__(self, store: Store, writer: str, algebra: Algebra[S], test: str | None = None) -> None:
        """`test`: what commits must be of; None for one who reads whatever is there, and for what belongs to no test."""
        self._store = store
        self._test = test
        self._writer = writer
        self._algebra = algebra
        self.total: Total[S] = Total(0, algebra.empty())
        self._last: Sealed[S] | None = None
        """What was committed last."""
        self._snapped = 0
        """The commit of the last snapshot."""
        self._swept = 0
        """Up to this commit there is nothing left to sweep that this process could have to do with."""

    def resume(self) -> None:
        """Add up what is committed. Raises `StoreAwayError`, `DamagedError`."""
        total: Total[S] = Total(0, self._algebra.empty())
        for path in self._store.list(SNAPSHOTS)[-1:]:
            self._add(total, self._read(path))
        snapped = total.sequence
        while later := [path for path in self._store.list(_block(total.sequence + 1)) if _sequence(path) > total.sequence]:
            for path in later:
                if _sequence(path) != total.sequence + 1:
                    raise DamagedError(f"{path}: commit {total.sequence + 1} is missing before it")
                self._add(total, self._read(path))
        self.total, self._swept, self._snapped = total, total.sequence, snapped

    def commit(self, sealed: Sealed[S]) -> None:
        """
        Write a segment down; when this returns it counts. Raises `StoreAwayError`: then call it again with the same segment.

        Raises `FencedError` if another process has taken the place.
        """
        if sealed is not self._last:
            self._commit(sealed)
        if self.total.sequence - self._snapped >= SNAPSHOT_EVERY:
            self._shorten(sealed.ended)

    def _commit(self, sealed: Sealed[S]) -> None:
        sequence = self.total.sequence + 1
        commit = Commit(
            sequence=sequence,
            writer=self._writer,
            test=self._test or "",
            began=sealed.began,
            ended=sealed.ended,
            segment=self._write_segment(sequence, sealed),
            sums=_told(sealed.sums),
            progress=sealed.progress,
        )
        self._put(_path(sequence), _written(commit))
        for name, part in sealed.sums.items():
            self.total.sums[name].merge(part)
        self.total.sequence, self.total.progress, self._last = sequence, sealed.progress, sealed

    def _put(self, path: str, content: bytes) -> None:
        if self._store.put_if_absent(path, content):
            return
        found = self._store.read(path)
        if found is None:
            # A store under load may refuse a condition without anybody having written: that is no other collector.
            raise StoreAwayError(f"{path} is said to be there, and is not")
        if found != content:
            raise FencedError(f"{path} is another collector's")

    def forget(self, days: int, now: float) -> int:
        """Delete segments of days that ended more than `days` days ago; return how many. Raises `StoreAwayError`."""
        oldest = (datetime.fromtimestamp(now, UTC) - timedelta(days=days)).date().isoformat()
        old = [path for path in self._store.list(PAIRS) if path.removeprefix(PAIRS).partition("/")[0] < oldest]
        for path in old:
            self._store.delete(path)
        return len(old)

    def sweep(self) -> int:
        """
        Delete segments that no commit names and none ever will; return how many. Raises `StoreAwayError`.

        Only beside our own commits: what a crash left has the number after those that were resumed, and a segment of a later number
        may be about to be committed by another process.
        """
        through = self.total.sequence
        dead = [path for path in self._store.list(PAIRS) if self._swept < _sequence(path) <= through and not self._named(path)]
        for path in dead:
            self._store.delete(path)
        self._swept = through
        return len(dead)

    def _named(self, path: str) -> bool:
        commit = self._read(_path(_sequence(path)))
        return commit.segment is not None and commit.segment.path == path

    def _write_segment(self, sequence: int, sealed: Sealed[S]) -> SegmentReference | None:
        if not sealed.count:
            return None
        day = datetime.fromtimestamp(sealed.ended, UTC).date().isoformat()
        path = f"{PAIRS}{day}/{sequence:08d}-{self._writer}.jsonl.zst"
        self._store.write(path, sealed.lines)
        return SegmentReference(path=path, sha256=sha256(sealed.lines).hexdigest(), size_bytes=len(sealed.lines), lines=sealed.count)

    def _shorten(self, now: float) -> None:
        """The segment counts already: a store that is away must not make anybody commit it again. The next commit tries again."""
        try:
            self._snapshot(now)
        except StoreAwayError as error:
            logger.warning("no snapshot after commit %d: %s", self.total.sequence, error)
        else:
            self._snapped = self.total.sequence

    def _snapshot(self, now: float) -> None:
        total = self.total
        snapshot = Commit(
            sequence=total.sequence,
            writer=self._writer,
            test=self._test or "",
            began=now,
            ended=now,
            sums=_told(total.sums),
            progress=total.progress,
        )
        self._store.write(f"{SNAPSHOTS}{total.sequence:08d}.json", _written(snapshot))
        for path in self._store.list(SNAPSHOTS)[:-KEPT_SNAPSHOTS]:
            self._store.delete(path)

    def _read(self, path: str) -> Commit:
        content = self._store.read(path)
        try:
            return Commit.model_validate_json(content or b"", by_alias=True, by_name=False, extra="ignore")
        except ValidationError as error:
            raise DamagedError(f"{path} is no commit") from error

    def _add(self, total: Total[S], commit: Commit) -> None:
        if self._test is not None and commit.test != self._test:
            raise OtherTestError(
                f"commit {commit.sequence} is of another test, or of other versions, metrics or another control share: "
                "give this test a store of its own, or empty this one"
            )
        try:
            for name, told in commit.sums.items():
                total.sums[name].merge(self._algebra.read(base64.b64decode(told)))
        except (ValueError, KeyError) as error:
            message = f"commit {commit.sequence} was written with other settings, or is damaged: {error}"
            raise DamagedError(message) from error
        total.sequence, total.progress = commit.sequence, commit.progress


def _told(sums: Mapping[str, S]) -> dict[str, str]:
    return {name: base64.b64encode(part.to_bytes()).decode() for name, part in sorted(sums.items())}


def _written(commit: Commit) -> bytes:
    return commit.model_dump_json(by_alias=True).encode()


def _block(sequence: int) -> str:
    return f"{COMMITS}{sequence // BLOCK:05d}/"


def _path(sequence: int) -> str:
    return f"{_block(sequence)}{sequence:08d}.json"


def _sequence(path: str) -> int:
    """Return a commit's, a snapshot's or a segment's number; 0 for what is none of them."""
    digits = path.rpartition("/")[2][:8]
    return int(digits) if digits.isascii() and digits.isdecimal() else 0
