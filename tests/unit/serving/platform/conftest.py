"""An API server, an agent behind a door and an operator, as aiohttp applications that a test scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from graft_api.routes import Routes
from graft_api.schema import parse
from graft_serving.cluster import ApiAddress, ApiServer, ApiTimes

QUICK = ApiTimes(connect=0.5, answer=0.5, stream=2, silent=0.3, first_pause=0.01, longest_pause=0.05)


class FakeApiServer:
    """Lists `objects`; a watch sends `log` from the asked version on and stays open. Everything that may go wrong can be switched on."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 1
        self.log: list[tuple[int, dict[str, Any]]] = []
        self.forgotten = 0
        self.broken = False
        self.mute = False
        self.bookmarks = True
        self.lists = 0
        self.watches: list[dict[str, str]] = []
        self.headers: list[str | None] = []
        self._streams: set[asyncio.Event] = set()
        self._news = asyncio.Event()
        self.url = ""

    def put(self, name: str, **fields: Any) -> None:
        """Create or replace an object, and tell the watches."""
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = {"metadata": {"name": name}, **fields}
        self._tell(kind, name)

    def delete(self, name: str) -> None:
        self._tell("DELETED", name)
        del self.objects[name]

    def forget(self) -> None:
        """As after a compaction: who asks for anything older gets 410."""
        self.log.clear()
        self.forgotten = self.version

    def cut(self) -> None:
        """Break every open stream."""
        for cut in self._streams:
            cut.set()

    def _tell(self, kind: str, name: str) -> None:
        self.version += 1
        self.objects[name]["metadata"]["resourceVersion"] = str(self.version)
        self.log.append((self.version, {"type": kind, "object": json.loads(json.dumps(self.objects[name]))}))
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers.get("Authorization"))
        if self.broken:
            return web.json_response({"reason": "ServiceUnavailable"}, status=503)
        if "watch" in request.query:
            return await self._watch(request)
        self.lists += 1
        items = list(self.objects.values())
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches.append(dict(request.query))
        since = int(request.query["resourceVersion"])
        if since < self.forgotten:
            return web.json_response({"reason": "Expired", "code": 410}, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        cut = asyncio.Event()
        self._streams.add(cut)
        try:
            await self._feed(response, since, cut)
        finally:
            self._streams.discard(cut)
        if request.transport:
            request.transport.abort()
        return response

    async def _feed(self, response: web.StreamResponse, since: int, cut: asyncio.Event) -> None:
        while not cut.is_set():
            if since < self.forgotten:
                await self._send(response, {"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
                return
            for version, event in [] if self.mute else list(self.log):
                if version > since:
                    since = version
                    await self._send(response, event)
            if self.bookmarks and not self.mute:
                await self._send(response, {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(since)}}})
            news, cutting = asyncio.ensure_future(self._news.wait()), asyncio.ensure_future(cut.wait())
            await asyncio.wait({news, cutting}, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            cutting.cancel()

    @staticmethod
    async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(json.dumps(event).encode() + b"\n")


async def until(true: Callable[[], object], seconds: float = 1.5) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for is anything
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
async def fake_api() -> AsyncIterator[FakeApiServer]:
    fake = FakeApiServer()
    async with TestServer(fake.application()) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake
        fake.cut()


@pytest.fixture
async def api(fake_api: Any) -> AsyncIterator[ApiServer]:
    async with ApiServer(ApiAddress(fake_api.url), Random(1), QUICK) as server:  # noqa: S311 - jitter
        yield server


@pytest.fixture
async def background() -> AsyncIterator[Callable[[Any], asyncio.Task[Any]]]:
    """Start something that runs for ever; it is cancelled when the test is over, and must not have ended by itself."""
    tasks: list[asyncio.Task[Any]] = []

    def start(coroutine: Any) -> asyncio.Task[Any]:
        tasks.append(asyncio.ensure_future(coroutine))
        return tasks[-1]

    yield start
    ended = [task for task in tasks if task.done() and not task.cancelled()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


@pytest.fixture
def routes() -> Callable[..., Routes]:
    def make(revision: int = 1, epoch: int = 1, uid: str = "uid-1", name: str = "prod", **fields: Any) -> Routes:
        document = {
            "endpoint": {"namespace": "team", "name": name, "uid": uid},
            "epoch": epoch,
            "revision": revision,
            "maxLoras": 4,
            "maxLoraRank": 64,
            "signingKeys": [],
        }
        return parse(Routes, {**document, **fields})

    return make
