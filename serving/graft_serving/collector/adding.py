"""How a chain of commits is added up by whoever reads it, and checked."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Generic

from graft_serving.collector.commits import (
    SNAPSHOTS,
    Algebra,
    Commit,
    DamagedError,
    FoldedError,
    OtherTestError,
    S,
    Total,
    bare,
    block,
    check_link,
    digest_of,
    parsed,
    path_of,
    read_commit,
    sequence_of,
)
from graft_serving.collector.store import Store


def added_up(store: Store, algebra: Algebra[S], test: str | None = None, through: int | None = None) -> tuple[Total[S], int]:
    """
    Return all commits added up, and the number of the snapshot that it begins with.

    `test`: what they must be of; None for whatever is there. `through`: the last one that counts. Raises `StoreAwayError`,
    `DamagedError`, and `FoldedError` where everything before `through` is in later snapshots.
    """
    total: Total[S] = Total(0, algebra.empty())
    reader = _Adding(algebra, test)
    for path in [path for path in store.list(SNAPSHOTS) if through is None or sequence_of(path) <= through][-1:]:
        reader.begin(total, read_commit(store, path), store.read(path_of(sequence_of(path))))
    snapshot = total.sequence
    while later := [path for path in store.list(block(total.sequence + 1)) if sequence_of(path) > total.sequence]:
        for path in later:
            if through is not None and sequence_of(path) > through:
                return total, snapshot
            if sequence_of(path) != total.sequence + 1:
                raise DamagedError(f"{path}: commit {total.sequence + 1} is missing before it")
            reader.add(total, read_commit(store, path))
    return total, snapshot


@dataclass(frozen=True)
class _Adding(Generic[S]):
    algebra: Algebra[S]
    test: str | None

    def begin(self, total: Total[S], snapshot: Commit, ends_with: bytes | None) -> None:
        """Begin with a snapshot. `ends_with`: the commit of its number, which says what must be in it."""
        self._add(total, snapshot)
        last = parsed(ends_with, path_of(snapshot.sequence)) if ends_with else None
        named = (None, None) if last is None else (digest_of(last), last.total)
        checked = None if snapshot.previous is None else snapshot.content
        if (snapshot.previous, checked) != (named if named[0] else (None, None)):
            raise DamagedError(f"snapshot {snapshot.sequence} is not what its commit says: one of them was changed after it was written")
        total.sequence, total.progress, total.ended = snapshot.sequence, snapshot.progress, snapshot.ended
        total.last = total.base = None if last is None else bare(last)

    def add(self, total: Total[S], commit: Commit) -> None:
        """Add the next commit."""
        self._add(total, commit)
        check_link(total.last, commit)
        total.went_on(commit)

    def _add(self, total: Total[S], commit: Commit) -> None:
        if self.test is not None and commit.test != self.test:
            raise OtherTestError(
                f"commit {commit.sequence} is of another test, or of other versions, metrics or shares: "
                "give this test a store of its own, or empty this one"
            )
        if commit.folded:
            raise FoldedError(f"commit {commit.sequence} was folded into a later snapshot, which is not there")
        try:
            for name, told in commit.sums.items():
                total.sums[name].merge(self.algebra.read(base64.b64decode(told)))
        except (ValueError, KeyError) as error:
            message = f"commit {commit.sequence} was written with other settings, or is damaged: {error}"
            raise DamagedError(message) from error
