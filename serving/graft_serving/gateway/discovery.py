"""
Which pods can be asked for what: EndpointSlices say which pods there are, each pod's agent says what it has.

The API server is needed to learn of a new pod, and for nothing else: pods that are known stay known while it is away, also to a
gateway that is restarted meanwhile, and their agents are asked directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Protocol

import aiohttp

from graft_serving.cluster import ApiServer
from graft_serving.gateway.agent_poll import AgentPoll, PollTimes
from graft_serving.gateway.endpoint_slices import PodAddress, SliceBook, slices_of
from graft_serving.gateway.pod_memory import PodMemory, pods_in
from graft_serving.rotated_file import RotatedFile
from graft_serving.sockets import kept_alive

STATIC_POLL_SECONDS = 1.0


class PodBook(Protocol):
    """Who is told. Both calls take over at once."""

    def update(self, name: str, address: str, serving: bool, versions: frozenset[str]) -> None:
        """One pod's state now. `address` is `host:port`. Not serving: no new requests; those in flight go on."""

    def remove(self, name: str) -> None:
        """The pod is gone."""


class PodSource(Protocol):
    """Where the names and addresses come from."""

    async def run(self, discovery: Discovery) -> None:
        """Call `discovery.known` with all pods, at every change, until cancelled."""


class Discovery:
    """One task per pod, while the pod is known."""

    def __init__(self, pods: PodBook, token: RotatedFile[str], random: Random, times: PollTimes | None = None) -> None:
        self._pods = pods
        self._token = token
        self._random = random
        self._times = times or PollTimes()
        self._polled: dict[str, _Polled] = {}
        self._group: asyncio.TaskGroup | None = None
        self._session: aiohttp.ClientSession | None = None
        self.informed = False
        """Whether any source has said which pods there are: until then none being known means nothing."""

    async def run(self, source: PodSource) -> None:
        """Run until cancelled."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, socket_factory=kept_alive)) as session:
            self._session = session
            async with asyncio.TaskGroup() as self._group:
                await source.run(self)

    def known(self, pods: Mapping[str, PodAddress]) -> None:
        """Take the whole picture: what is not in `pods` is not there any more."""
        self.informed = True
        for name in [name for name in self._polled if name not in pods]:
            self._forget(name)
        for name, pod in pods.items():
            polled = self._polled.get(name)
            if polled is not None and polled.pod.address != pod.address:
                self._forget(name)  # another pod of the same name
                polled = None
            if polled is None:
                self._polled[name] = self._begin(name, pod)
            else:
                polled.found(pod)

    def _begin(self, name: str, pod: PodAddress) -> _Polled:
        assert self._group, "not running"  # noqa: S101 - a mistake of ours
        assert self._session, "not running"  # noqa: S101
        polled = _Polled(name, pod, self._pods)
        poll = AgentPoll(pod.address, self._session, self._token, polled.said, self._random, self._times)
        polled.task = self._group.create_task(poll.run(), name=f"agent of {name}")
        return polled

    def _forget(self, name: str) -> None:
        self._polled.pop(name).end()
        self._pods.remove(name)


class _Polled:
    """One pod: what the API server says of it, and what its agent says, put together for the pod book."""

    def __init__(self, name: str, pod: PodAddress, pods: PodBook) -> None:
        self.pod = pod
        self.task: asyncio.Task[None] | None = None
        self._name = name
        self._pods = pods
        self._serving, self._versions = False, frozenset[str]()

    def found(self, pod: PodAddress) -> None:
        if pod != self.pod:
            self.pod = pod
            self._tell()

    def said(self, serving: bool, versions: frozenset[str]) -> None:
        self._serving, self._versions = serving, versions
        self._tell()

    def end(self) -> None:
        if self.task:
            self.task.cancel()

    def _tell(self) -> None:
        serving = self._serving and not self.pod.terminating
        self._pods.update(self._name, self.pod.address, serving, self._versions if serving else frozenset())


class SlicesSource:
    """The EndpointSlices of the endpoint's headless Service."""

    def __init__(self, api: ApiServer, namespace: str, endpoint: str, memory: PodMemory) -> None:
        self._api = api
        self._memory = memory
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._query = {"labelSelector": slices_of(endpoint)}

    async def run(self, discovery: Discovery) -> None:
        """See `PodSource`."""
        if remembered := self._memory.recall():
            discovery.known(remembered)
        book = SliceBook()
        async for event in self._api.watch(self._path, self._query):
            pods = book.take(event)
            discovery.known(pods)
            self._memory.keep(pods)


class StaticSource:
    """A JSON file, `[{"name": "a", "address": "127.0.0.1:8000"}]`, read again when it changes: without a cluster."""

    def __init__(self, path: Path, poll_seconds: float = STATIC_POLL_SECONDS) -> None:
        self._file = RotatedFile(path, pods_in)
        self._poll_seconds = poll_seconds

    async def run(self, discovery: Discovery) -> None:
        """See `PodSource`. Raises OSError or ValueError if the file is not there at the start, or not what it should be."""
        while True:
            discovery.known(self._file.read())
            await asyncio.sleep(self._poll_seconds)
