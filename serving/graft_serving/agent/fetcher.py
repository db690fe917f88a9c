"""Brings one version onto this pod's disk, verified. Everything here blocks: it runs in threads, one per version."""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from graft_api.fleet import LoadFailure, VersionState
from graft_api.routes import Version
from graft_serving.agent.cache import Cache
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.store import Store, copy, listed
from graft_serving.agent.verify import Package, Trust, verify

SLACK_BYTES = 1024 * 1024
"""A folder may have this much more than was announced: then the file that nobody listed can be named."""
DAMAGED = frozenset({LoadFailure.DIGEST_MISMATCH, LoadFailure.UNLISTED_FILE, LoadFailure.UNSAFE_PATH, LoadFailure.INVALID_ARTIFACT})
"""What a folder of the cache may suffer on its disk; fetching it anew helps."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Nobody wants the version any more."""


@dataclass(frozen=True)
class Fetched:
    """A version on the disk, and how long that took."""

    package: Package
    seconds: dict[str, float]


@dataclass(frozen=True)
class Order:
    """What to fetch, and what to hold it against."""

    version: Version
    trust: Trust
    keep: Callable[[], Collection[str]]
    """Returns the folders of other versions that may not make room for this one. Asked when that is done: an order may wait for long."""
    loaded: Callable[[], bool]
    """Whether vLLM has it already: then its folder is not replaced, come what may."""
    stop: threading.Event
    now_at: Callable[[VersionState], None]


class Fetcher:
    """`open_store` returns the store of a URI; `pause` is `time.sleep`, `clock` the monotonic clock."""

    def __init__(
        self, cache: Cache, open_store: Callable[[str], Store], clock: Callable[[], float], pause: Callable[[float], object] = time.sleep
    ) -> None:
        self._cache = cache
        self._open_store = open_store
        self._clock = clock
        self._pause = pause
        self._room = threading.Lock()

    def fetch(self, order: Order) -> Fetched:
        """Return the version, from the disk if it is there. Raises `VersionRefusedError`, or `Stopped`."""
        name = order.version.name
        folder = self._cache.path(name)
        if folder.is_dir():
            try:
                return self._verified(order, folder, {})
            except VersionRefusedError as error:
                if order.loaded() or error.reason not in DAMAGED:
                    raise
                self._cache.remove(name)
        try:
            fetched = self._fetched(order)
        except BaseException:
            self._cache.abandon(name)
            raise
        self._cache.commit(name)
        return fetched

    def _fetched(self, order: Order) -> Fetched:
        order.now_at(VersionState.FETCHING)
        started = self._clock()
        store = self._open_store(order.version.uri)
        entries = listed(store, order.version.size_bytes + SLACK_BYTES)
        with self._room:
            folder = self._cache.begin(order.version.name, sum(entry.size_bytes for entry in entries), order.keep)
        try:
            copy(store, entries, folder, self._pause, order.stop)
        except VersionRefusedError as error:
            if order.stop.is_set():
                raise Stopped from error
            raise
        return self._verified(order, folder, {"fetch": self._clock() - started})

    def _verified(self, order: Order, folder: Path, seconds: dict[str, float]) -> Fetched:
        order.now_at(VersionState.VERIFYING)
        started = self._clock()
        package = verify(folder, order.version, order.trust)
        return Fetched(package, {**seconds, "verify": self._clock() - started})
