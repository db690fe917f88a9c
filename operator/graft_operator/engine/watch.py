"""
Watches, multiplexed by kopf: what happens in the cluster becomes keys on queues, and nothing else happens here.

kopf lists and watches, reconnects, and survives an API server that is away. Its state keeping (annotations, finalizers,
timers, daemons, indexes, peering, event posting) stays off: each of those loses work when a PATCH fails, and an object
that vanishes while a stream is down is never reported. The queue retries, the resync finds what vanished.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import aiohttp
import kopf

from graft_operator.engine.clock import Clock
from graft_operator.engine.errors import KubeError
from graft_operator.engine.kube import Kube
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import Object, Resource

logger = logging.getLogger(__name__)

GROUP = "graft.dev"

_STREAM = 300
"""Seconds after which the API server ends a watch (an integer: it goes into the query as it is). So often, at least,
every stream that is alive is opened again, which is how a dead one is told from a quiet one."""

_INACTIVITY = 70.0
"""Seconds without an event or a bookmark after which kopf reconnects. Bookmarks come about once a minute."""

_STALLED = timedelta(seconds=_STREAM + _INACTIVITY + 60)
"""A stream that nobody tried to open for this long has no living task behind it. Back-off is at most 30 s."""

_PATIENCE = timedelta(seconds=15)
"""A replica leads also without some kind: the others want to be looked after."""

KeyOf = Callable[[Object], Key | None]


def own_key(body: Object) -> Key | None:
    """The object itself."""
    metadata = body["metadata"]
    return Key(metadata["namespace"], metadata["name"])


def owner_key(kind: str) -> KeyOf:
    """
    The graft object that a child belongs to: by its label `graft.dev/<kind>`, else by its controller reference.

    The label is what pods have, whose controller is a Job. It only says whom to wake: whether the child really is the
    owner's is for the reconciler to check, by uid.
    """
    label = f"{GROUP}/{kind.lower()}"

    def key(body: Object) -> Key | None:
        metadata = body["metadata"]
        name = (metadata.get("labels") or {}).get(label) or _controller(metadata, kind)
        return Key(metadata["namespace"], name) if name else None

    return key


def _controller(metadata: Mapping[str, Any], kind: str) -> str | None:
    for reference in metadata.get("ownerReferences") or []:
        if reference.get("controller") and reference["kind"] == kind and reference["apiVersion"].startswith(f"{GROUP}/"):
            return str(reference["name"])
    return None


@dataclass(frozen=True)
class Watch:
    """One kind to watch: which objects (selectors of the API server), whose key, and where the key goes."""

    resource: Resource
    enqueue: Callable[[Key], None]
    key: KeyOf = own_key
    labels: str = ""
    fields: str = ""


class Streams:
    """When each watch was last opened. Sees every request of kopf's session through aiohttp's tracing."""

    def __init__(self, clock: Clock, expected: Collection[str]) -> None:
        self._clock = clock
        self._unopened = set(expected)
        self._opened: dict[str, float] = {}
        self.listed = asyncio.Event()
        """Set once each of the `expected` paths has been watched: kopf lists first, and queues what it has found."""

    def trace(self) -> aiohttp.TraceConfig:
        config = aiohttp.TraceConfig()
        config.on_request_start.append(self._started)
        return config

    def stalled(self) -> list[str]:
        """Paths of streams that nobody tried to open for so long that their task must be dead."""
        limit = self._clock.monotonic() - _STALLED.total_seconds()
        return sorted(path for path, opened in self._opened.items() if opened < limit)

    async def _started(self, _session: aiohttp.ClientSession, _context: object, request: aiohttp.TraceRequestStartParams) -> None:
        # A list counts as well: with the API server away it is a list that is tried again and again.
        watches, path = "watch" in request.url.query, request.url.path
        if request.method == "GET" and (watches or path in self._opened):
            self._opened[path] = self._clock.monotonic()
        if watches:
            self._unopened.discard(path)
            if not self._unopened:
                self.listed.set()


class Watcher:
    """
    All watches of the process. `run` ends only by raising: then a stream is lost for good and the process must end.

    They only fill queues, so a replica that does not lead watches as well: when its turn comes it knows what there is. Without
    `namespaces`: of the whole cluster. kopf takes SIGTERM for itself when it starts; `on_spawned` is called right after that, for
    the process to take it back (see `LedProcess`).
    """

    def __init__(
        self,
        kube: Kube,
        watches: Sequence[Watch],
        clock: Clock,
        random: Random,
        namespaces: Collection[str] = (),
        on_spawned: Callable[[], None] = lambda: None,
    ) -> None:
        kinds, where = {watch.resource for watch in watches}, namespaces or (None,)
        self.streams = Streams(clock, [kind.path(namespace) for kind in kinds for namespace in where])
        self._kube = kube
        self._on_spawned = on_spawned
        self._watches = watches
        self._clock = clock
        self._random = random
        self._namespaces = namespaces
        self._logged_in = False

    async def listed(self, patience: timedelta = _PATIENCE) -> None:
        """Wait until what there is has been listed and queued; but no longer than `patience`, for a kind may be missing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience.total_seconds()):
                await self.streams.listed.wait()

    async def run(self) -> None:
        kinds = {watch.resource for watch in self._watches}
        await asyncio.gather(*map(self._until_served, sorted(kinds, key=lambda known: known.plural)))
        registry = registry_of(self._watches)
        kopf.on.login(registry=registry, id="login")(self._login)
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=settings_of(self._watches, self._random),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        self._on_spawned()  # nothing may be awaited in between, or a SIGTERM would be kopf's
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _stop(tasks)
        for task in done:
            task.result()
        raise RuntimeError("the watches have ended")

    async def _until_served(self, resource: Resource) -> None:
        """A warning is all that kopf has for a kind that is not there when it starts: it would never be watched."""
        while not await self._serves(resource):
            await self._clock.sleep(5)

    async def _serves(self, resource: Resource) -> bool:
        try:
            if await self._kube.serves(resource):
                return True
            logger.warning("the API server has no %s in %s yet", resource.plural, resource.api_version)
        except KubeError as error:
            logger.warning("cannot ask the API server for %s yet: %s", resource.plural, error)
        return False

    async def _login(self, **_: object) -> kopf.AiohttpSession:
        # Called again when the API server refuses us although the token was read afresh: not in a hot loop.
        if self._logged_in:
            await self._clock.sleep(5)
        self._logged_in = True
        credentials = self._kube.credentials
        session = credentials.open_session([self.streams.trace()])
        return kopf.AiohttpSession(server=credentials.server, default_namespace=credentials.namespace, aiohttp_session=session)


def registry_of(watches: Sequence[Watch]) -> kopf.OperatorRegistry:
    """One `on.event` handler per watch, each of which only puts a key on a queue."""
    registry = kopf.OperatorRegistry()
    for number, watch in enumerate(watches):
        resource = watch.resource
        subscribe = kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=f"{resource.plural}-{number}")
        subscribe(_handler(watch))
    return registry


def _handler(watch: Watch) -> Callable[..., Any]:
    async def enqueue(event: Mapping[str, Any], **_: object) -> None:
        key = watch.key(event["object"])
        if key:
            watch.enqueue(key)

    return enqueue


def settings_of(watches: Sequence[Watch], random: Random) -> kopf.OperatorSettings:
    """For kopf: everything off that keeps state, and everything on that keeps it watching."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # kinds and namespaces are what they were at the start
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = Backoffs(random)
    settings.watching.server_timeout = _STREAM
    settings.watching.inactivity_timeout = _INACTIVITY
    # A listed object has a task for as long as idle_timeout (0 would spin), and a chunk is decoded as a whole: with 100 and
    # 0.1 s, listing 1,000 finished jobs with their Jobs and Pods costs 37 MB more that are never given back; with these 17.
    settings.watching.chunk_size = 25
    settings.queueing.idle_timeout = 0.02
    settings.process.ultimate_exiting_timeout = None  # ending the process is process.py's business
    for watch in watches:
        _select(settings.watching.label_selectors, watch.resource, watch.labels)
        _select(settings.watching.field_selectors, watch.resource, watch.fields)
    return settings


def _select(selectors: MutableMapping[Any, str], resource: Resource, selector: str) -> None:
    """One stream serves all watches of a kind, and kopf would join different selectors by "and"."""
    key = (resource.group, resource.version, resource.plural)
    if selectors.get(key, selector) != selector:
        raise ValueError(f"watches of {resource.plural} have different selectors: {selectors[key]!r} and {selector!r}")
    selectors[key] = selector


@dataclass(frozen=True)
class Backoffs:
    """Endless, and iterable again for every request: with an end, kopf gives a stream up after a minute of errors."""

    random: Random

    def __iter__(self) -> Iterator[float]:
        for delay in itertools.chain((1, 1, 2, 3, 5, 8, 13, 21), itertools.repeat(25)):
            yield delay * self.random.uniform(0.8, 1.2)


class _NoDiffBase(kopf.DiffBaseStorage):
    """By default every object of every event is copied to find out what changed. Nobody asks."""

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: object) -> None:
        return None


async def _stop(tasks: Collection[asyncio.Task[None]]) -> None:
    """Not kopf's own run_tasks, which would also cancel every other task of the loop that is younger than the watches."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=10)
