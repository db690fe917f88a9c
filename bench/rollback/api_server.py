"""As much of an API server as a gateway needs for its routes: one ConfigMap, listed and watched."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import suppress
from typing import Any

from aiohttp import web
from graft import ENDPOINT, NAMESPACE

from graft_api.dataplane import RECORD_LABEL, ROUTES_KEY, ROUTES_RECORD, routes_name
from graft_api.routes import Routes

BOOKMARK_SECONDS = 20.0


class RoutesServer:
    """In a thread of its own. `write` is what the operator's write is to those who watch."""

    def __init__(self, routes: Routes) -> None:
        self.url = ""
        self._version = 1
        self._object = self._config_map(routes)
        self._watching: set[asyncio.Queue[dict[str, Any]]] = set()
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RoutesServer:
        self._thread.start()
        assert self._up.wait(10), "the mock of the API server does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def write(self, routes: Routes) -> int:
        """Tell everybody who watches. Returns when that was decided, in nanoseconds since 1970: before anything was done for it."""
        decided = time.time_ns()
        self._loop.call_soon_threadsafe(self._tell, routes)
        return decided

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._up.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        application = web.Application()
        application.router.add_get(f"/api/v1/namespaces/{NAMESPACE}/configmaps", self._answer)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    def _tell(self, routes: Routes) -> None:
        self._version += 1
        self._object = self._config_map(routes)
        for queue in self._watching:
            queue.put_nowait({"type": "MODIFIED", "object": self._object})

    def _config_map(self, routes: Routes) -> dict[str, Any]:
        labels = {RECORD_LABEL: ROUTES_RECORD}
        metadata = {"name": routes_name(ENDPOINT), "namespace": NAMESPACE, "labels": labels, "resourceVersion": str(self._version)}
        return {"metadata": metadata, "data": {ROUTES_KEY: json.dumps(routes.to_json())}}

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request)
        return web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": [self._object]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if request.query["resourceVersion"] != str(self._version):
            queue.put_nowait({"type": "MODIFIED", "object": self._object})
        self._watching.add(queue)
        await response.prepare(request)
        try:
            while True:
                event = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self._version)}}}
                with suppress(TimeoutError):
                    event = await asyncio.wait_for(queue.get(), BOOKMARK_SECONDS)
                await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionResetError:
            return response
        finally:
            self._watching.discard(queue)
