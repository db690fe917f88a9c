"""
The reconcile loop of one pod: what the routes want, in one vLLM.

    routes -> wanted versions -> fetches (side by side, in threads) -> observe vLLM -> plan -> one action -> the picture

One loop alone talks to vLLM about adapters, and looks before each step: what vLLM says it has is the truth, not what was done.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from random import Random

from graft_api.fleet import LoadFailure, VersionState
from graft_api.routes import Routes
from graft_serving.agent import plan as planning
from graft_serving.agent import probe, readiness
from graft_serving.agent.cache import Cache
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.fetcher import Fetcher
from graft_serving.agent.fetches import Fetches, Watch
from graft_serving.agent.plan import Action, Pod, Step
from graft_serving.agent.state import Board, Picture, ServerState
from graft_serving.agent.vllm import Vllm, VllmAwayError
from graft_serving.agent.wanted import Server, Wanted

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at vLLM while nothing is to be done."""
MISSED_LOOKS = 3
"""In a row, until vLLM counts as down: a health check may time out on a busy machine."""
STALE_SECONDS = 60.0
"""After the start, the routes of the mounted file count as old for so long while the API server is away: the kubelet is as late."""
UNLOADED_SECONDS = 30.0
"""The files stay this long after an unload: an answer that should not be under way any more, but is, would end vLLM otherwise."""
LONGEST_NAME = 63
"""Of a version; a longer one in vLLM is none of ours, and could not be reported."""


@dataclass(frozen=True)
class Surroundings:
    """All that the loader works with."""

    vllm: Vllm
    cache: Cache
    fetcher: Fetcher
    board: Board
    server: Server
    watched: Callable[[], bool]
    """Whether the API server itself has said what the routes are."""
    clock: Callable[[], float]
    random: Random


class Loader:
    """`apply` takes over routes and returns at once; `run` does the work until it is cancelled."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._wanted = Wanted(around.server, around.clock, around.random)
        self._fetches = Fetches(around.fetcher, self._wanted, Watch(self._held, self._kept, self._show, self._changed))
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

    # What others ask of it

    def apply(self, routes: Routes) -> None:
        """Take over newer routes."""
        self._wanted.take_over(routes)
        self._fetches.stop_unwanted()
        self._changed()

    def drain(self) -> None:
        """The pod is going: no request may come any more. What is loaded stays loaded."""
        self._draining = True
        self._show()

    def ready(self) -> bool:
        """Whether the kubelet may send traffic."""
        waited = None if self._ready_from is None else self._around.clock() - self._ready_from
        serving = self._server == "Serving" and not self._draining
        return readiness.ready(serving, self._wanted.routed(), list(self._wanted.items.values()), waited)

    async def run(self) -> None:
        """Work until cancelled."""
        await asyncio.to_thread(self._around.cache.clean)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    await self._observe()
                    self._fetches.start(planning.fetches(self._pod(), self._fetches.under_way, self._around.clock()), group)
                    if not await self._act():
                        await self._pause()
        finally:
            self._fetches.close()

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
            self._lose(name for name, item in self._wanted.items.items() if item.state is VersionState.READY and not self._pod().ours(name))
        if self._server == "Serving" and self._wanted.routes and self._ready_from is None:
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
        for name, item in self._wanted.items.items():
            if not (item.state is VersionState.READY and self._pod().ours(name)):  # else it was never down
                self._wanted.forgive(name)

    def _lose(self, names: Iterable[str]) -> None:
        for name in list(names):
            logger.warning("vLLM has lost an adapter", extra={"version": name})
            self._begin_attempt()  # it never loses one but by a restart
            self._wanted.lose(name)

    async def _act(self) -> bool:
        """Do the next step, if there is one."""
        now = self._around.clock()
        self._rest = {name: until for name, until in self._rest.items() if until > now}
        action = planning.plan(self._pod(), self._fetches.under_way | self._rest.keys(), now)
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
                self._rest = {**self._rest, action.name: around.clock() + UNLOADED_SECONDS}
                try:
                    await around.vllm.unload(action.name)
                    logger.info("unloaded", extra={"version": action.name})
                except VllmAwayError as error:
                    logger.warning("not unloaded: %s", error, extra={"version": action.name})
            case Step.DELETE:
                await asyncio.to_thread(around.cache.remove, action.name)
                self._wanted.forget_package(action.name)
                logger.info("files deleted", extra={"version": action.name})

    async def _attempt(self, name: str, state: VersionState, step: Callable[[str], Awaitable[None]]) -> None:
        self._wanted.update(name, lambda item: item.at(state))
        self._show()
        try:
            await step(name)
        except VersionRefusedError as error:
            self._wanted.fail(name, error)
        except VllmAwayError as error:
            self._wanted.fail(name, VersionRefusedError(LoadFailure.PROBE_FAILED, f"vLLM did not answer: {error}"))

    async def _load(self, name: str) -> None:
        await self._touch()
        started, path = self._around.clock(), str(self._around.cache.path(name))
        self._loaded = {**self._loaded, name: path}  # from here on vLLM may have it, whatever becomes of the answer
        try:
            await self._around.vllm.load(name, path)
        except VersionRefusedError:
            self._loaded = await self._around.vllm.adapters()
            if not self._pod().ours(name):
                raise
        await asyncio.to_thread(self._around.cache.touch, name)
        self._wanted.update(name, lambda item: item.took("load", self._around.clock() - started))

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
        probes = self._wanted.package(name).probes
        if probes is not None:
            salt = f"graft-{self._around.random.getrandbits(64):016x}"
            reading = await probe.measure(self._around.vllm, name, probe.reference(probes), salt)
            self._wanted.update(name, lambda item: replace(item, probe=reading))
            probe.judge(reading)
        self._wanted.update(name, lambda item: replace(item.at(VersionState.READY), weak=probes is None, failures=0))
        self._wanted.update(name, lambda item: item.took("probe", self._around.clock() - started))
        logger.info("ready", extra={"version": name, "seconds": self._wanted.items[name].seconds})

    # What is the case

    def _pod(self) -> Pod:
        cache, on_disk = self._around.cache, self._on_disk()
        serving = self._server == "Serving" and not self._missed
        return Pod(list(self._wanted.items.values()), self._loaded, serving, on_disk, str(cache.root), self._certain())

    def _certain(self) -> bool:
        around = self._around
        return self._wanted.routes is not None and (around.watched() or around.clock() - self._began >= STALE_SECONDS)

    def _on_disk(self) -> frozenset[str]:
        cache = self._around.cache
        return cache.names() if cache.root.is_dir() else frozenset()

    # In other threads, too: these tables are replaced and never get or lose a name themselves.

    def _held(self) -> frozenset[str]:
        """Return what vLLM has, or may have: before its first answer nobody knows, but it is on the disk."""
        return self._on_disk() if self._server == "Starting" else frozenset(self._loaded)

    def _kept(self) -> frozenset[str]:
        """Return whose folders must stay."""
        return frozenset({*self._wanted.items, *self._held(), *self._rest})

    # What is said of it

    def _changed(self) -> None:
        self._show()
        self._wake.set()

    def _show(self) -> None:
        if self.ready():
            self._attempted = True
            self._around.board.open()
        routes, wanted = self._wanted.routes, self._wanted
        leaving = sorted(name for name in self._held() - wanted.items.keys() if 0 < len(name) <= LONGEST_NAME)
        self._around.board.show(
            Picture(
                epoch=routes.epoch if routes else 0,
                revision=routes.revision if routes else 0,
                server="Draining" if self._draining else self._server,
                server_starts=self._starts,
                attempted=self._attempted,
                base_digest=self._around.server.base_digest,
                versions=(*wanted.items.values(), *(item for item in wanted.beyond if item.name not in leaving)),
                unloading=tuple(leaving),
            )
        )
