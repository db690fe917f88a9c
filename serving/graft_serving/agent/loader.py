"""
The reconcile loop of one pod: what the routes want, in one vLLM.

    routes -> desired versions -> fetches (side by side, in threads) -> observe vLLM -> plan -> one action -> the picture

One loop alone talks to vLLM about adapters, and looks before each step: what vLLM says it has is the truth, not what was done.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import Random

from graft_api.fleet import LoadFailure, VersionState
from graft_api.routes import Routes, Version
from graft_serving.agent import plan as planning
from graft_serving.agent import probe, readiness
from graft_serving.agent.cache import Cache
from graft_serving.agent.failure import VersionRefusedError, invalid
from graft_serving.agent.fetcher import Fetched, Fetcher, Order, Stopped
from graft_serving.agent.paths import check_version_name
from graft_serving.agent.plan import Action, Pod, Progress, Step
from graft_serving.agent.state import Board, Picture, ServerState
from graft_serving.agent.verify import Package, Trust
from graft_serving.agent.vllm import Vllm, VllmAwayError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at vLLM while nothing is to be done."""
MISSED_LOOKS = 3
"""In a row, until vLLM counts as down: a health check may time out on a busy machine."""
FETCHES = 8
"""At once; the others wait for their turn, in the routes' order."""
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
STALE_SECONDS = 60.0
"""After the start, the routes of the mounted file count as old for so long while the API server is away: the kubelet is as late."""
UNLOADED_SECONDS = 30.0
"""The files stay this long after an unload: an answer that should not be under way any more, but is, would end vLLM otherwise."""


@dataclass(frozen=True)
class Surroundings:
    """All that the loader works with."""

    vllm: Vllm
    cache: Cache
    fetcher: Fetcher
    board: Board
    base_digest: str | None
    """Of the model that this pod serves; None: unknown, then the routes' word counts."""
    watched: Callable[[], bool]
    """Whether the API server itself has said what the routes are."""
    clock: Callable[[], float]
    random: Random


class Loader:
    """`apply` takes over routes and returns at once; `run` does the work until it is cancelled."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._routes: Routes | None = None
        self._items: dict[str, Progress] = {}
        self._packages: dict[str, Package] = {}
        self._fetching: dict[str, threading.Event] = {}
        self._rest: dict[str, float] = {}
        """Until when a name is left alone after an unload."""
        self._loaded: dict[str, str] = {}
        self._server: ServerState = "Starting"
        self._starts = 0
        self._missed = 0
        self._ready_from: float | None = None
        self._attempted = False
        """Whether the pod was ready once since vLLM came up: what is routed later interrupts nobody."""
        self._began = around.clock()
        self._wake = asyncio.Event()
        self._draining = False
        # Of their own: a store that hangs must not hold up what else is done in threads.
        self._threads = ThreadPoolExecutor(FETCHES, "version")

    # What others ask of it

    def apply(self, routes: Routes) -> None:
        """Take over newer routes."""
        trusted_otherwise = self._routes is not None and _trust(routes, None) != _trust(self._routes, None)
        self._routes = routes
        before = self._items
        self._items = {version.name: _taken_over(before.get(version.name), version) for version in routes.versions[: routes.max_loras]}
        if trusted_otherwise:  # a key may have been withdrawn: everything is held against the new ones
            self._items = {name: replace(_forgiven(item), fetched=False) for name, item in self._items.items()}
        for name, stop in self._fetching.items():
            if name not in self._items:
                stop.set()
        self._show()
        self._wake.set()

    def drain(self) -> None:
        """The pod is going: no request may come any more. What is loaded stays loaded."""
        self._draining = True
        self._show()

    def ready(self) -> bool:
        """Whether the kubelet may send traffic."""
        waited = None if self._ready_from is None else self._around.clock() - self._ready_from
        routed = self._routes.routed() if self._routes else frozenset()
        return readiness.ready(self._server == "Serving" and not self._draining, routed, list(self._items.values()), waited)

    async def run(self) -> None:
        """Work until cancelled."""
        await asyncio.to_thread(self._around.cache.clean)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    await self._observe()
                    self._start_fetches(group)
                    if not await self._act():
                        await self._pause()
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # One turn

    async def _observe(self) -> None:
        """Look at vLLM. A restart is seen by what it has lost, so a missed health check alone changes nothing."""
        try:
            if not await self._around.vllm.healthy():
                raise VllmAwayError("/health")
            self._loaded = await self._around.vllm.adapters()
        except VllmAwayError:
            self._missed += 1
            if self._missed >= MISSED_LOOKS:
                self._is_down()
        else:
            self._missed = 0
            if self._server != "Serving":
                self._came_up()
            self._lose(name for name, item in self._items.items() if item.state is VersionState.READY and not self._pod().ours(name))
        if self._server == "Serving" and self._routes and self._ready_from is None:
            self._ready_from = self._around.clock()
        self._show()

    def _is_down(self) -> None:
        if self._server == "Serving":
            logger.warning("vLLM is down")
            self._server, self._loaded = "Down", {}
            self._begin_attempt()
        self._around.board.open()  # there is nothing that an agent that was restarted could interrupt

    def _begin_attempt(self) -> None:
        """From here on gateways hear that the pod does not serve, until what is routed was tried again."""
        self._ready_from, self._attempted = None, False

    def _came_up(self) -> None:
        self._server, self._starts = "Serving", self._starts + 1
        logger.info("vLLM is up")
        for name, item in self._items.items():
            if not (item.state is VersionState.READY and self._pod().ours(name)):  # else it was never down
                self._items[name] = replace(_forgiven(item), failures=0)

    def _lose(self, names: Iterable[str]) -> None:
        for name in list(names):
            logger.warning("vLLM has lost an adapter", extra={"version": name})
            self._begin_attempt()  # it never loses one but by a restart
            self._items[name] = replace(self._items[name].at(VersionState.WAITING), failures=0)

    def _start_fetches(self, group: asyncio.TaskGroup) -> None:
        for name in planning.fetches(self._pod(), frozenset(self._fetching), self._around.clock()):
            stop = threading.Event()
            self._fetching[name] = stop
            group.create_task(self._fetch(self._items[name].version, stop), name=f"fetch {name}")

    async def _act(self) -> bool:
        """Do the next step, if there is one."""
        now = self._around.clock()
        self._rest = {name: until for name, until in self._rest.items() if until > now}
        action = planning.plan(self._pod(), frozenset(self._fetching) | self._rest.keys(), now)
        if action is None:
            return False
        await self._do(action)
        self._show()
        return True

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    # Steps

    async def _do(self, action: Action) -> None:
        around = self._around
        match action.step:
            case Step.LOAD:
                await self._attempt(action.name, VersionState.LOADING, self._load)
            case Step.PROBE:
                await self._attempt(action.name, VersionState.PROBING, self._probe)
            case Step.UNLOAD:
                self._rest[action.name] = around.clock() + UNLOADED_SECONDS
                try:
                    await around.vllm.unload(action.name)
                    logger.info("unloaded", extra={"version": action.name})
                except VllmAwayError as error:
                    logger.warning("not unloaded: %s", error, extra={"version": action.name})
            case Step.DELETE:
                await asyncio.to_thread(around.cache.remove, action.name)
                self._packages.pop(action.name, None)
                logger.info("files deleted", extra={"version": action.name})

    async def _attempt(self, name: str, state: VersionState, step: Callable[[str], Awaitable[None]]) -> None:
        self._items[name] = self._items[name].at(state)
        self._show()
        try:
            await step(name)
        except VersionRefusedError as error:
            self._fail(name, error)
        except VllmAwayError as error:
            self._fail(name, VersionRefusedError(LoadFailure.PROBE_FAILED, f"vLLM did not answer: {error}"))

    async def _load(self, name: str) -> None:
        await self._touch()
        started = self._around.clock()
        try:
            await self._around.vllm.load(name, str(self._around.cache.path(name)))
        except VersionRefusedError:
            self._loaded = await self._around.vllm.adapters()
            if not self._pod().ours(name):
                raise
        await asyncio.to_thread(self._around.cache.touch, name)
        self._update(name, lambda item: item.took("load", self._around.clock() - started))

    async def _touch(self) -> None:
        """
        Have what stays count as used just now.

        vLLM's workers keep the weights of unloaded names, and make room by what was asked for longest ago: that would be a quiet
        domain's, which are then read from the disk in an engine step, with every request waiting.
        """
        pod = self._pod()
        await asyncio.gather(*(self._around.vllm.touch(item.name) for item in pod.desired if pod.ours(item.name)))

    async def _probe(self, name: str) -> None:
        started = self._around.clock()
        probes = self._packages[name].probes
        if probes is not None:
            salt = f"graft-{self._around.random.getrandbits(64):016x}"
            reading = await probe.measure(self._around.vllm, name, probe.reference(probes), salt)
            self._update(name, lambda item: replace(item, probe=reading))
            probe.judge(reading)
        self._update(name, lambda item: replace(item.at(VersionState.READY), weak=probes is None, failures=0))
        self._update(name, lambda item: item.took("probe", self._around.clock() - started))
        logger.info("ready", extra={"version": name})

    async def _fetch(self, version: Version, stop: threading.Event) -> None:
        assert self._routes  # noqa: S101 - no version without routes
        loop, name = asyncio.get_running_loop(), version.name
        # Before its first answer nobody knows which folders vLLM reads.
        unknown = self._pod().on_disk if self._server == "Starting" else frozenset()
        keep = {*self._items, *self._loaded, *self._rest, *unknown}
        trust = _trust(self._routes, self._around.base_digest)
        loaded = name in self._loaded
        order = Order(version, trust, keep, loaded, stop, lambda state: _tell(loop, lambda: self._now_at(name, state)))
        try:
            fetched = await loop.run_in_executor(self._threads, self._around.fetcher.fetch, order)
        except VersionRefusedError as error:
            self._fail(name, error)
        except Stopped:
            pass
        except OSError as error:
            self._fail(name, VersionRefusedError(LoadFailure.STORE_UNAVAILABLE, f"the adapters' volume: {error.strerror}"))
        except Exception as error:  # noqa: BLE001 - whatever a crafted package makes us raise: it must not end this process
            self._fail(name, invalid(f"the package cannot be read: {type(error).__name__}"))
        else:
            # Against other keys than those of now? Then once more.
            if self._routes and _trust(self._routes, self._around.base_digest) == trust:
                self._arrived(version, fetched)
        finally:
            stop.set()  # a cancelled task leaves its thread behind
            del self._fetching[name]
            self._show()
            self._wake.set()

    def _arrived(self, version: Version, fetched: Fetched) -> None:
        self._packages[version.name] = fetched.package

        def arrived(item: Progress) -> Progress:
            state = item.state if item.state is VersionState.READY else VersionState.WAITING
            return replace(
                item, fetched=True, state=state, seconds={**item.seconds, **{k: round(v, 3) for k, v in fetched.seconds.items()}}
            )

        self._update(version.name, arrived)

    # Bookkeeping

    def _now_at(self, name: str, state: VersionState) -> None:
        self._update(name, lambda item: item if item.state is VersionState.READY or item.fetched else item.at(state))
        self._show()

    def _fail(self, name: str, error: VersionRefusedError) -> None:
        item = self._items.get(name)
        if item is None:
            return
        pause = min(FIRST_RETRY * 2**item.failures, LONGEST_RETRY) * (0.5 + self._around.random.random() / 2)
        self._items[name] = item.failed(error.reason, error.message, self._around.clock() + pause)
        logger.warning("not served: %s", error, extra={"version": name, "reason": str(error.reason)})

    def _update(self, name: str, change: Callable[[Progress], Progress]) -> None:
        if name in self._items:
            self._items[name] = change(self._items[name])

    def _pod(self) -> Pod:
        cache = self._around.cache
        on_disk = cache.names() if cache.root.is_dir() else frozenset()
        serving = self._server == "Serving" and not self._missed
        return Pod(list(self._items.values()), self._loaded, serving, on_disk, str(cache.root), self._certain())

    def _certain(self) -> bool:
        around = self._around
        return self._routes is not None and (around.watched() or around.clock() - self._began >= STALE_SECONDS)

    def _show(self) -> None:
        if self.ready():
            self._attempted = True
            self._around.board.open()
        routes = self._routes
        digest = self._around.base_digest
        self._around.board.show(
            Picture(
                epoch=routes.epoch if routes else 0,
                revision=routes.revision if routes else 0,
                server="Draining" if self._draining else self._server,
                server_starts=self._starts,
                attempted=self._attempted,
                base_digest=digest,
                versions=tuple(self._items.values()),
            )
        )


def _trust(routes: Routes, base_digest: str | None) -> Trust:
    return Trust(tuple(routes.signing_keys), base_digest or routes.base_digest, routes.max_lora_rank)


def _taken_over(before: Progress | None, version: Version) -> Progress:
    """Return what is known of a version that the routes name; a name with another digest is another version."""
    if before is not None and before.version == version:
        return _forgiven(before) if before.reason is LoadFailure.TOO_LARGE else before  # another may have made room
    if before is not None and before.version.digest == version.digest:
        return replace(_forgiven(before), version=version)
    try:
        check_version_name(version.name)
    except VersionRefusedError as error:
        return Progress(version).failed(error.reason, error.message, 0.0)
    return Progress(version)


def _forgiven(item: Progress) -> Progress:
    """Return a version as if nothing had gone wrong so far."""
    return item if item.state is VersionState.READY else replace(item.at(VersionState.WAITING), failures=0)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(what)
