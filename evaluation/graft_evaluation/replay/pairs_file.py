"""
The file of pairs that a replay writes: one zstd frame after the other, each written at once.

Whoever is killed while writing leaves a frame that is cut off. It is taken off at the next start, and its requests are asked again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import BinaryIO

import zstandard
from pydantic import ValidationError

from graft_api.collect import PairLine
from graft_api.schema import Invalid
from graft_evaluation.pairs.contrasts import PRODUCTION
from graft_evaluation.pairs.lines import read_lines, write_line

FRAME_SECONDS, FRAME_BYTES = 1.0, 1 << 20
"""A frame is written when either is reached: so much is lost at most, and asked again."""
PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Earlier:
    """What must be known of a pair that is in the file."""

    boot: str
    number: int
    request_id: str
    measured: frozenset[str]
    """Metrics of production's contrast, broken ones included."""
    twice: bool
    """The incumbent was asked once more."""


class PairsFile:
    """The file, open and locked. `opened` makes it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """`file`: at its end."""
        self.path = path
        self._file = file
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, line: PairLine) -> None:
        """Take a pair; it is in the file after the next `flush`, which comes each second."""
        self._waiting.append(write_line(line))
        self._size += len(self._waiting[-1])
        if self._size >= FRAME_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises `Invalid` where the disk is full."""
        if not self._waiting:
            return
        frame = zstandard.ZstdCompressor(level=3).compress(b"".join(self._waiting))
        try:
            self._file.write(frame)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise Invalid([f"--out: {self.path}: {error.strerror}"]) from error
        self._waiting.clear()
        self._size = 0


@contextmanager
def opened(path: Path) -> Iterator[tuple[PairsFile, list[Earlier]]]:
    """Yield the file and the pairs that are in it. Raises `Invalid`."""
    if not path.name.endswith(".zst"):
        raise Invalid([f"--out: {path}: is packed by zstd; let its name end in .jsonl.zst"])
    with _locked(path) as file:
        pairs = PairsFile(path, file)
        before = _before(path, file)
        try:
            yield pairs, before
        finally:
            pairs.flush()


def _locked(path: Path) -> BinaryIO:
    try:
        # It may hold what users wrote: nobody else on this machine reads it.
        path.touch(mode=0o600)
        file = path.open("a+b")
    except OSError as error:
        raise Invalid([f"--out: {path}: {error.strerror}"]) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise Invalid([f"--out: {path}: another replay is writing it; wait for its end, or name another file"]) from error
    return file


def _before(path: Path, file: BinaryIO) -> list[Earlier]:
    found: list[Earlier] = []
    whole = 0
    try:
        for content, end in _frames(file):
            found += [_earlier(line) for line in read_lines(content)]
            whole = end
    except (zstandard.ZstdError, ValidationError) as error:
        raise Invalid([f"--out: {path}: is no file of pairs, or damaged; name another, or delete it to begin anew"]) from error
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return found


def _frames(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield what is in each whole frame, and where it ends in the file. One that is cut off is not yielded."""
    file.seek(0)
    rest, end = b"", 0
    while rest or (rest := file.read(PIECE)):
        unpacker, parts, packed = zstandard.ZstdDecompressor().decompressobj(), [], 0
        while not unpacker.eof and (rest or (rest := file.read(PIECE))):
            parts.append(unpacker.decompress(rest))
            packed += len(rest)
            rest = b""
        if not unpacker.eof:
            return
        rest = unpacker.unused_data
        end += packed - len(rest)
        yield b"".join(parts), end


def _earlier(line: PairLine) -> Earlier:
    measured = line.values.get(PRODUCTION, {}).keys() | line.broken.get(PRODUCTION, {}).keys()
    return Earlier(line.boot, line.number, line.request_id, frozenset(map(intern, measured)), line.incumbent is not None)
