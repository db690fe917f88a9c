"""
Pairs from files: JSON lines, plain or packed by zstd, one file or a folder of them.

A folder with `commits/` is a collector's store: there a segment counts if a commit names it, and what a crash left does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard
from pydantic import ValidationError

from graft_api.collect import PairLine
from graft_api.schema import Invalid
from graft_evaluation.pairs.lines import read_line

ZSTD = b"\x28\xb5\x2f\xfd"
"""How a frame begins (RFC 8878, section 3.1.1)."""
PIECE = 1 << 20
PACKED_PIECE = 1 << 12
"""Small, for four bytes of a frame may unpack to 128 KiB."""
LONGEST_LINE = 1 << 26
"""Bytes: a request and three answers, with room to spare. What packs a terabyte into a megabyte is not read to its end."""
ENDINGS = (".jsonl.zst", ".jsonl", ".zst", ".ndjson")
NAMED_PROBLEMS = 10


@dataclass(frozen=True)
class Place:
    """Where a line stands."""

    file: Path
    number: int

    def __str__(self) -> str:
        """Return it as editors understand it."""
        return f"{self.file}:{self.number}"


@dataclass(frozen=True)
class Found:
    """The files that count."""

    files: tuple[Path, ...]
    uncommitted: int = 0
    """Segments that no commit names: what a crash left."""
    deleted: int = 0
    """Committed segments that are no longer there: older than the retention."""


def files(path: Path) -> Found:
    """Return the files with pairs. Raises `Invalid`."""
    if path.is_file():
        return Found((path,))
    if not path.is_dir():
        raise Invalid([f"{path}: no such file or folder; name the file or folder with the pairs"])
    if (path / "commits").is_dir():
        return _committed(path)
    found = tuple(sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(ENDINGS)))
    if not found:
        raise Invalid([f"{path}: no file that ends in {', '.join(ENDINGS)}; name the folder that a collector wrote, or a file"])
    return Found(found)


def lines(found: Found, strange: Callable[[Iterable[str]], None] | None = None) -> Iterator[tuple[Place, PairLine]]:
    """Yield every pair with its place, file after file; `strange` takes the fields of a line that no pair has. Raises `Invalid`."""
    for file in found.files:
        yield from _pairs(raw_lines(file, _ADVICE), file, strange)


def stream_lines(stream: BinaryIO, file: Path) -> Iterator[tuple[Place, PairLine]]:
    """Yield the pairs of what is open already, and may be no file of this machine: `file` is what it is called. Raises `Invalid`."""
    yield from _pairs(_streamed(stream, file, _ADVICE), file)


def _pairs(found: Iterator[bytes], file: Path, strange: Callable[[Iterable[str]], None] | None = None) -> Iterator[tuple[Place, PairLine]]:
    for number, line in enumerate(found, 1):
        if line.strip():
            yield Place(file, number), _pair(Place(file, number), line, strange)


def _pair(place: Place, line: bytes, strange: Callable[[Iterable[str]], None] | None) -> PairLine:
    try:
        if strange is None:
            return read_line(line)
        try:
            return PairLine.model_validate_json(line, by_alias=True, by_name=False)
        except ValidationError as error:
            # Of a newer collector, or mistyped: read as a collector reads it, and told.
            pair = read_line(line)
            strange([".".join(map(str, item["loc"])) for item in error.errors(include_url=False, include_input=False)])
            return pair
    except ValidationError as error:
        raise Invalid([f"{place}: {problem}; {_ADVICE}" for problem in Invalid.of(error).problems[:NAMED_PROBLEMS]]) from error


_ADVICE = "every line is one pair as docs/shadow.md describes it"


def _committed(store: Path) -> Found:
    named = {path for commit in sorted((store / "commits").rglob("*.json")) if (path := _segment(commit))}
    there = {str(path.relative_to(store)) for path in (store / "pairs").rglob("*") if path.is_file()}
    if not named & there:
        raise Invalid([f"{store}: none of the {len(named)} committed segments is there; copy pairs/ and commits/ of the collector's store"])
    return Found(tuple(store / path for path in sorted(named & there)), len(there - named), len(named - there))


def _segment(commit: Path) -> str | None:
    try:
        segment = json.loads(commit.read_bytes())["segment"]
        return None if segment is None else str(segment["path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid([f"{commit}: no commit of a collector; copy the store again"]) from error


def raw_lines(file: Path, advice: str) -> Iterator[bytes]:
    """Yield lines without their ends. Raises `Invalid` for what is not readable, cut off, or too long."""
    try:
        with file.open("rb") as stream:
            yield from _streamed(stream, file, advice)
    except OSError as error:
        raise Invalid([f"{file}: {error.strerror}"]) from error


def _streamed(stream: BinaryIO, file: Path, advice: str) -> Iterator[bytes]:
    number, rest = 1, b""
    try:
        for piece in _pieces(stream):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
            number += len(whole)
            if len(rest) > LONGEST_LINE:
                raise Invalid([f"{Place(file, number)}: longer than {LONGEST_LINE} bytes; {advice}"])
    except (zstandard.ZstdError, EOFError) as error:
        raise Invalid([f"{Place(file, number)}: the zstd data is damaged or cut off here; copy the file again"]) from error
    if rest:
        yield rest


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    packed = stream.read(len(ZSTD)) == ZSTD
    stream.seek(0)
    if packed:
        yield from _unpacked(stream)
        return
    while piece := stream.read(PIECE):
        yield piece


def _unpacked(stream: BinaryIO) -> Iterator[bytes]:
    """Unpack frame by frame: a reader over the whole file takes one that is cut off for one that has ended."""
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    while piece := stream.read(PACKED_PIECE):
        while piece:
            if unpacker.eof:
                unpacker = zstandard.ZstdDecompressor().decompressobj()
            yield unpacker.decompress(piece)
            piece = unpacker.unused_data if unpacker.eof else b""
    if not unpacker.eof:
        raise EOFError
