"""
The objects of a chain of commits.

    commits/<thousands>/<sequence>.json   one segment: which object, its sums, and everything that is settled by then
    snapshots/<sequence>.json             all commits up to this one added up: a shortcut
    indexes/<last>-<first>.json           the commits between two snapshots without their sums: a shortcut to their segments
    observed.json                         for how long was looked since the last commit, while there was nothing to commit

Of a commit that several snapshots hold, the sums are taken out: it goes on to name its segment, and to keep its place.

Every commit names its predecessor's digest, and before a snapshot is written its commit names what it will hold: the digest of the last
one is of everything before it. Digests are of what never changes, so a commit without its sums has the same. Commits of a collector that
knew no digests have none, and are not checked.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

import orjson
from pydantic import Field, ValidationError

from graft_api.schema import Count, Model
from graft_serving.collector.numbers import NumbersState
from graft_serving.collector.store import Store

BLOCK = 1000
"""Commits of one folder: whoever starts lists those after the newest snapshot, not those of years."""
NOTE = "observed.json"
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
    previous: Annotated[str, Field(max_length=64)] | None = None
    """Digest of the commit before; in a snapshot of the commit that it ends with. None: of the first, and of one without digests."""
    content: Annotated[str, Field(max_length=64)] | None = None
    """SHA-256 of its sums and its progress. None: it was written by a collector that knew no digests."""
    total: Annotated[str, Field(max_length=64)] | None = None
    """The `content` of the snapshot that is due after it."""
    folded: bool = False
    """Its sums are in snapshots alone, and its progress is no longer said."""


class Note(Model):
    """For how long was looked since a commit, while there was nothing to commit."""

    sequence: Count
    digest: Annotated[str, Field(max_length=64)] | None = None
    """Of the commit that it is after."""
    observed_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """So far, as in `Progress`."""


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
    ended: float = 0.0
    """When the last one was sealed, in seconds since 1970."""
    last: Commit | None = None
    """The last one, without its sums. None: there is none, or nobody knows it any more."""
    base: Commit | None = None
    """That of the snapshot that was begun with, without its sums."""
    since: list[Commit] = field(default_factory=list)
    """Those after the last snapshot, without their sums."""

    @property
    def digest(self) -> str | None:
        """Return the last one's digest, if it has one."""
        return None if self.last is None else digest_of(self.last)

    def went_on(self, commit: Commit) -> None:
        """Its sums are added."""
        self.sequence, self.progress, self.ended = commit.sequence, commit.progress, commit.ended
        self.last = bare(commit)
        self.since.append(self.last)


class FoldedError(DamagedError):
    """The sums of a commit are in later snapshots alone."""


def read_commit(store: Store, path: str) -> Commit:
    """Return a commit or snapshot. Raises `DamagedError`, `StoreAwayError`."""
    return parsed(store.read(path) or b"", path)


def parsed(content: bytes, path: str) -> Commit:
    """Return the commit that lies at `path`. Raises `DamagedError`, also where its sums are not those that it was written with."""
    try:
        commit = Commit.model_validate_json(content, by_alias=True, by_name=False, extra="ignore")
    except ValidationError as error:
        raise DamagedError(f"{path} is no commit") from error
    if commit.content is not None and not commit.folded:
        raw = orjson.loads(content)
        # Of what lies there, and not of what is understood: a later collector's progress may say more.
        if _content(raw["sums"], raw["progress"]) != commit.content:
            raise DamagedError(f"{path} is not what was committed: somebody changed its sums")
    return commit


def read_note(store: Store) -> Note | None:
    """Return the last note; None if there is none, or nothing that is one: it is worth some minutes. Raises `StoreAwayError`."""
    try:
        return Note.model_validate_json(store.read(NOTE) or b"", by_alias=True, by_name=False, extra="ignore")
    except ValidationError:
        return None


def write_note(store: Store, note: Note) -> None:
    """Write it over the one before. Raises `StoreAwayError`."""
    store.write(NOTE, note.model_dump_json(by_alias=True).encode())


def sealed_off(commit: Commit) -> Commit:
    """Return it with the digest of its content: nothing of it may be changed any more, but for `bare`."""
    return commit.model_copy(update={"content": content_of(commit.sums, commit.progress)})


def bare(commit: Commit) -> Commit:
    """Return it without its sums. Its digest is the same."""
    return commit.model_copy(update={"folded": True, "sums": {}, "progress": Progress()})


def content_of(sums: Mapping[str, str], progress: Progress) -> str:
    """Return the digest of what a commit or snapshot adds up."""
    return _content(dict(sums), orjson.loads(progress.model_dump_json(by_alias=True)))


def _content(sums: Any, progress: Any) -> str:  # noqa: ANN401 - JSON
    return sha256(orjson.dumps({"sums": sums, "progress": progress}, option=orjson.OPT_SORT_KEYS)).hexdigest()


def digest_of(commit: Commit) -> str | None:
    """
    Return the digest that the next one names; None for one that was written without.

    Of these fields in this order, for ever: fields that are added later must not change what is written already.
    """
    if commit.content is None:
        return None
    segment = commit.segment
    named = None if segment is None else [segment.path, segment.sha256, segment.size_bytes, segment.lines]
    told = [commit.sequence, commit.writer, commit.test, commit.began, commit.ended, named, commit.previous, commit.content, commit.total]
    return sha256(orjson.dumps(told)).hexdigest()


def check_link(before: Commit | None, commit: Commit) -> None:
    """Check that `commit` follows `before` (None: that is not known, or there is none). Raises `DamagedError`."""
    known = before if before is not None and before.sequence == commit.sequence - 1 else None
    expected = None if known is None else digest_of(known)
    if commit.content is None and expected is None:
        return
    if commit.content is None or commit.previous != expected:
        raise DamagedError(
            f"commit {commit.sequence} does not follow what is before it: one of them was changed or replaced after it was written"
        )


def written(commit: Commit) -> bytes:
    """Return it as it lies in the store."""
    return commit.model_dump_json(by_alias=True).encode()


def told(sums: Mapping[str, Sum]) -> dict[str, str]:
    """Return sums as a commit holds them."""
    return {name: base64.b64encode(part.to_bytes()).decode() for name, part in sorted(sums.items())}


def block(sequence: int) -> str:
    """Return the folder of a commit."""
    return f"{COMMITS}{sequence // BLOCK:05d}/"


def path_of(sequence: int) -> str:
    """Return where a commit lies."""
    return f"{block(sequence)}{sequence:08d}.json"


def snapshot_path(sequence: int) -> str:
    """Return where a snapshot lies."""
    return f"{SNAPSHOTS}{sequence:08d}.json"


def sequence_of(path: str) -> int:
    """Return a commit's, a snapshot's or a segment's number; 0 for what is none of them."""
    digits = path.rpartition("/")[2][:8]
    return int(digits) if digits.isascii() and digits.isdecimal() else 0
