"""Many objects of a store, in their order: whoever reads thousands one after another waits for most of an hour."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from graft_serving.collector.store import Store

AT_A_TIME = 16
"""Requests: also what a store's client keeps connections for."""
MOST_AHEAD_BYTES = 64 * 1024**2
"""Of objects that are read before their turn."""


def read_ahead(store: Store, objects: Iterable[tuple[str, int]]) -> Iterator[tuple[str, bytes | None]]:
    """
    Yield paths with what lies there, None where nothing does. Raises `StoreAwayError`.

    `objects`: paths and their sizes in bytes, about; of larger ones fewer are read at a time.
    """
    waiting: deque[tuple[str, int, Future[bytes | None]]] = deque()
    ahead = 0
    pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="read-ahead")
    try:
        for path, size in objects:
            while waiting and (len(waiting) >= 2 * AT_A_TIME or ahead + size > MOST_AHEAD_BYTES):
                first, its_size, content = waiting.popleft()
                ahead -= its_size
                yield first, content.result()
            waiting.append((path, size, pool.submit(store.read, path)))
            ahead += size
        while waiting:
            first, _, content = waiting.popleft()
            yield first, content.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
