"""Fetches that go on side by side, each in a thread, and what becomes of them in the loop's notes."""

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from graft_api.fleet import LoadFailure, VersionState
from graft_api.routes import Version
from graft_serving.agent.failure import VersionRefusedError, invalid
from graft_serving.agent.fetcher import Fetched, Fetcher, Order, Stopped
from graft_serving.agent.verify import Trust
from graft_serving.agent.wanted import Wanted

AT_ONCE = 8
"""The others wait for their turn, in the routes' order."""


@dataclass(frozen=True)
class Watch:
    """What the fetches ask, from their threads, and whom they tell, on the loop."""

    held: Callable[[], Collection[str]]
    """Names that vLLM has, or may have."""
    kept: Callable[[], Collection[str]]
    """Names whose folders may not make room."""
    moved: Callable[[], None]
    """Some version is further than before."""
    ended: Callable[[], None]


class Fetches:
    """At most one of each version."""

    def __init__(self, fetcher: Fetcher, wanted: Wanted, watch: Watch) -> None:
        self._fetcher = fetcher
        self._wanted = wanted
        self._watch = watch
        self._under_way: dict[str, threading.Event] = {}
        # Of their own: a store that hangs must not hold up what else is done in threads.
        self._threads = ThreadPoolExecutor(AT_ONCE, "version")

    @property
    def under_way(self) -> frozenset[str]:
        """The versions whose files are worked on."""
        return frozenset(self._under_way)

    def start(self, names: Iterable[str], group: asyncio.TaskGroup) -> None:
        """Begin to fetch wanted versions."""
        for name in names:
            stop = threading.Event()
            self._under_way[name] = stop
            group.create_task(self._fetch(self._wanted.items[name].version, stop), name=f"fetch {name}")

    def stop_unwanted(self) -> None:
        """End those that nobody waits for any more."""
        for name, stop in self._under_way.items():
            if name not in self._wanted.items:
                stop.set()

    def close(self) -> None:
        """Leave the threads to themselves: they end at their next chunk."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _fetch(self, version: Version, stop: threading.Event) -> None:
        trust = self._wanted.trust()
        try:
            fetched = await self._verdict(version, trust, stop)
        except VersionRefusedError as error:
            self._wanted.refused(version, trust, error)
        except Stopped:
            pass
        else:
            self._wanted.arrived(version, trust, fetched)
        finally:
            stop.set()  # a cancelled task leaves its thread behind
            del self._under_way[version.name]
            self._watch.ended()

    async def _verdict(self, version: Version, trust: Trust, stop: threading.Event) -> Fetched:
        """Return the version; raises `VersionRefusedError` whatever went wrong with it, or `Stopped`."""
        loop, name = asyncio.get_running_loop(), version.name

        def now_at(state: VersionState) -> None:
            loop.call_soon_threadsafe(self._now_at, name, state)

        order = Order(version, trust, self._watch.kept, lambda: name in self._watch.held(), stop, now_at)
        try:
            return await loop.run_in_executor(self._threads, self._fetcher.fetch, order)
        except (VersionRefusedError, Stopped):
            raise
        except OSError as error:
            raise VersionRefusedError(LoadFailure.STORE_UNAVAILABLE, f"the adapters' volume: {error.strerror}") from error
        except Exception as error:  # whatever a crafted package makes us raise: it must not end this process
            raise invalid(f"the package cannot be read: {type(error).__name__}") from error

    def _now_at(self, name: str, state: VersionState) -> None:
        self._wanted.update(name, lambda item: item if item.state is VersionState.READY or item.fetched else item.at(state))
        self._watch.moved()
