"""
Commits, one after another: what is in one counts, what is in none does not.

    1. the segment's object, under a name that only this process uses
    2. the commit, by a conditional PUT at the fixed key of its sequence number: it names the segment and holds the segment's sums and
       all numbers that are settled by now

A crash before 2 leaves an object that nothing names; a crash after 2 leaves a whole commit. So a segment counts once or never. Of two
processes that both think they are the collector one gets the key; the other sees somebody else's commit there and ends (`FencedError`).
No key is ever given back, so one that has slept for a year ends, too.

While nothing is settled there is nothing to commit but time. That is noted in one object, written over and over, for some minutes: a
crash must not lose them, and a chain of years need not have a link for each. A note is of the commit that it names, and says how long it
was *so far*: what a later commit says takes its place, so nothing is counted twice.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Generic

from graft_serving.collector.adding import added_up
from graft_serving.collector.commits import (
    PAIRS,
    SNAPSHOTS,
    Algebra,
    Commit,
    DamagedError,
    FencedError,
    FoldedError,
    Note,
    S,
    Sealed,
    SegmentReference,
    Total,
    bare,
    content_of,
    digest_of,
    path_of,
    read_commit,
    read_note,
    sealed_off,
    sequence_of,
    snapshot_path,
    told,
    write_note,
    written,
)
from graft_serving.collector.indexes import latest, write_index
from graft_serving.collector.store import Store, StoreAwayError

logger = logging.getLogger(__name__)

SNAPSHOT_EVERY = 60
"""Commits: whoever starts reads no more than so many."""
KEPT_SNAPSHOTS = 2
LINEAGE = 64
"""Digests of commits that a report tells."""
IDLE_SECONDS = 600.0
"""At least between two commits that settle nothing; a note is worth no more."""


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
        self.noted_seconds = 0.0
        """For how long was looked, by the last note: more than the last commit says, or less if there is none of it."""
        self.lineage: dict[int, str] = {}
        """Digests of the last commits that were resumed from."""
        self._folded = 0
        """Up to this commit the sums are taken out."""
        self._swept = 0
        """Up to this commit there is nothing left to sweep that this process could have to do with."""

    def resume(self) -> None:
        """Add up what is committed. Raises `StoreAwayError`, `DamagedError`."""
        try:
            found = added_up(self._store, self._algebra, self._test)
        except FoldedError:  # between the list of snapshots and the commits after them another collector went on: once more
            found = added_up(self._store, self._algebra, self._test)
        self.total, self._snapped = found
        self.lineage = self._lineage()
        self.noted_seconds = self._noted()
        self._swept = self.total.sequence
        # An earlier process may have died while it folded; before that there is nothing left to fold.
        self._folded = max(0, self._snapped - 2 * KEPT_SNAPSHOTS * SNAPSHOT_EVERY)

    def _lineage(self) -> dict[int, str]:
        base = self.total.base
        older = [] if base is None else latest(self._store, base) or [base]
        known = [*older, *self.total.since]
        return {commit.sequence: digest for commit in known[-LINEAGE:] if (digest := digest_of(commit)) is not None}

    def _noted(self) -> float:
        note, committed = read_note(self._store), self.total.progress.observed_seconds
        if note is None or (note.sequence, note.digest) != (self.total.sequence, self.total.digest):
            return committed
        return min(max(note.observed_seconds, committed), committed + IDLE_SECONDS)

    def note(self, observed_seconds: float) -> None:
        """Write down for how long was looked so far, while there is nothing else to write. Raises `StoreAwayError`."""
        write_note(self._store, Note(sequence=self.total.sequence, digest=self.total.digest, observed_seconds=observed_seconds))
        self.noted_seconds = observed_seconds

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
        after = self._after(sealed) if sequence - self._snapped >= SNAPSHOT_EVERY else None
        commit = Commit(
            sequence=sequence,
            writer=self._writer,
            test=self._test or "",
            began=sealed.began,
            ended=sealed.ended,
            segment=self._write_segment(sequence, sealed),
            sums=told(sealed.sums),
            progress=sealed.progress,
            previous=self.total.digest,
            total=None if after is None else content_of(told(after), sealed.progress),
        )
        commit = sealed_off(commit)
        self._put(path_of(sequence), written(commit))
        if after is None:
            _add(sealed, self.total.sums)
        else:
            self.total.sums = after
        self.total.went_on(commit)
        self._last = sealed

    def _after(self, sealed: Sealed[S]) -> dict[str, S]:
        """Return what all will come to with a segment, before it counts."""
        after = {name: self._algebra.read(part.to_bytes()) for name, part in self.total.sums.items()}
        _add(sealed, after)
        return after

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
        dead = [path for path in self._store.list(PAIRS) if self._swept < sequence_of(path) <= through and not self._named(path)]
        for path in dead:
            self._store.delete(path)
        self._swept = through
        return len(dead)

    def _named(self, path: str) -> bool:
        commit = read_commit(self._store, path_of(sequence_of(path)))
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

    def _snapshot(self, now: float) -> None:
        total = self.total
        snapshot = Commit(
            sequence=total.sequence,
            writer=self._writer,
            test=self._test or "",
            began=now,
            ended=now,
            sums=told(total.sums),
            progress=total.progress,
            previous=total.digest,
        )
        write_index(self._store, total.since)
        self._store.write(snapshot_path(total.sequence), written(sealed_off(snapshot)))
        self._snapped, total.since = total.sequence, []
        found = self._store.list(SNAPSHOTS)
        for path in found[:-KEPT_SNAPSHOTS]:
            self._store.delete(path)
        if len(found) >= KEPT_SNAPSHOTS:
            self._fold(sequence_of(found[-KEPT_SNAPSHOTS]))

    def _fold(self, through: int) -> None:
        """
        Take the sums out of commits that every kept snapshot holds: they are most of their bytes, and nobody adds them up again.

        The commits themselves stay. They name the segments that count, and hold the keys that a collector which was overtaken in its
        sleep would otherwise get.
        """
        for sequence in range(self._folded + 1, through + 1):
            with suppress(DamagedError):  # somebody took it away, and nobody needs its sums
                commit = read_commit(self._store, path_of(sequence))
                if not commit.folded:
                    self._store.write(path_of(sequence), written(bare(commit)))
            self._folded = sequence


def _add(sealed: Sealed[S], sums: dict[str, S]) -> None:
    for name, part in sealed.sums.items():
        sums[name].merge(part)
