"""
Copies a folder of objects onto the disk as fast as the store gives it: large objects in parts, many at once.

What is copied is pinned when it is listed: a part of an object that was replaced meanwhile is refused by the store, not mixed in.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from graft_api.fleet import LoadFailure
from graft_runtime.store import Entry
from graft_serving.agent.failure import VersionRefusedError, invalid
from graft_serving.agent.paths import check_relative

PARALLEL = 8
PART_BYTES = 16 * 1024 * 1024
TRIES = 4
"""Of each part; a part that breaks off goes on where it broke."""
MOST_OBJECTS = 4096
"""Of a folder."""


class Store(Protocol):
    """Objects below one URI. Its methods block and may be called from many threads. They raise `VersionRefusedError`."""

    uri: str

    def list(self) -> list[Entry]:
        """Return every object below the URI."""

    def read_part(self, entry: Entry, start: int, length: int) -> Iterator[bytes]:
        """Return a part of an object as it was listed, in pieces."""


def open_store(uri: str, credentials: Path) -> Store:
    """
    Return the store at `uri`, `s3://bucket/folder`. Nothing is asked of it yet.

    No file://: whoever may create an Adapter would have this process read its own files, secrets included, and say what is in them.
    """
    if urlsplit(uri).scheme != "s3":
        raise invalid(f"{uri[:200]}: only s3:// can be fetched")
    from graft_serving.agent.s3 import open_folder  # noqa: PLC0415 - whoever brings a store of their own needs no S3 client

    return open_folder(uri, credentials)


def listed(store: Store, most_bytes: int) -> list[Entry]:
    """Return what there is to copy. Refuses nothing at all, names that leave the folder, and more than was announced."""
    entries = store.list()
    if not entries:
        raise VersionRefusedError(LoadFailure.NOT_FOUND, f"{store.uri}: there is nothing there")
    for entry in entries:
        check_relative(entry.path)
    if len(entries) > MOST_OBJECTS:
        raise VersionRefusedError(LoadFailure.TOO_LARGE, f"{store.uri} has {len(entries)} objects, more than {MOST_OBJECTS}")
    total = sum(entry.size_bytes for entry in entries)
    if total > most_bytes:
        raise VersionRefusedError(LoadFailure.TOO_LARGE, f"{store.uri} has {total} bytes, more than the {most_bytes} that are allowed")
    return entries


def copy(store: Store, entries: list[Entry], target: Path, pause: Callable[[float], object], broken: threading.Event) -> None:
    """
    Copy `entries` below `target`, which must be empty.

    `pause` waits between two tries of a part (`time.sleep`). Whoever sets `broken` ends the copy at its next chunk.
    """
    with ThreadPoolExecutor(PARALLEL, "fetch") as pool:
        parts = [
            pool.submit(_copy_part, store, part, target / part.entry.path, pause, broken)
            for entry in sorted(entries, key=lambda entry: -entry.size_bytes)
            for part in _parts(entry, target / entry.path)
        ]
        _finish(parts, broken)


@dataclass(frozen=True)
class _Part:
    entry: Entry
    start: int
    length: int


def _parts(entry: Entry, target: Path) -> list[_Part]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        file.truncate(entry.size_bytes)
    return [_Part(entry, start, min(PART_BYTES, entry.size_bytes - start)) for start in range(0, entry.size_bytes, PART_BYTES)]


def _finish(parts: list[Future[None]], broken: threading.Event) -> None:
    done, _ = wait(parts, return_when=FIRST_EXCEPTION)
    if any(part.exception() for part in done):
        broken.set()  # the others end at their next chunk
    for part in parts:
        if not part.cancel():
            part.exception()
    for part in done:
        part.result()


def _copy_part(store: Store, part: _Part, target: Path, pause: Callable[[float], object], broken: threading.Event) -> None:
    with target.open("r+b", buffering=0) as file:
        file.seek(part.start)
        for attempt in range(TRIES):
            try:
                missing = _append(store, part, file.tell() - part.start, file.write, broken)
                if not missing:
                    return
                failure = VersionRefusedError(LoadFailure.STORE_UNAVAILABLE, f"{store.uri}/{part.entry.path}: {missing} bytes are missing")
            except VersionRefusedError as error:
                if error.reason is not LoadFailure.STORE_UNAVAILABLE or broken.is_set():
                    raise
                failure = error
            pause(0.1 * 2**attempt)
        raise failure


def _append(store: Store, part: _Part, done: int, write: Callable[[bytes], int], broken: threading.Event) -> int:
    """Return how many bytes the store still owes after it has ended its answer."""
    for chunk in store.read_part(part.entry, part.start + done, part.length - done):
        if broken.is_set() or done + len(chunk) > part.length:
            raise VersionRefusedError(LoadFailure.STORE_UNAVAILABLE, f"{store.uri}/{part.entry.path}: the answer was cut off")
        write(chunk)
        done += len(chunk)
    return part.length - done
