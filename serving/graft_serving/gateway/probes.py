"""
/livez, /readyz and /metrics of the gateway, on a port of their own.

/livez fails only for what a restart can cure, so never for a server, an API server or an operator that is away. /readyz says
whether this replica could serve a request now, and what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest

Check = Callable[[], str | None]
"""What is wrong, in a few words, or None."""


class ProbesServer:
    """Serves until cancelled. `port` 0 takes a free one, which `port` then says."""

    def __init__(self, registry: CollectorRegistry, ready: Mapping[str, Check], host: str, port: int) -> None:
        self._registry = registry
        self._ready = ready
        self._host = host
        self.port = port
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled."""
        runner = web.AppRunner(self._application(), access_log=None, handle_signals=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self.port)
            await site.start()
            self.port = runner.addresses[0][1]
            self.started.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/livez", self._answer_live)
        app.router.add_get("/readyz", self._answer_ready)
        app.router.add_get("/metrics", self._answer_metrics)
        return app

    async def _answer_live(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # the event loop answers: that is all that a restart could change

    async def _answer_ready(self, _: web.Request) -> web.Response:
        results = {name: check() for name, check in self._ready.items()}
        lines = [f"{'ok' if wrong is None else 'failed'} {name}{f': {wrong}' if wrong else ''}" for name, wrong in sorted(results.items())]
        healthy = all(wrong is None for wrong in results.values())
        return web.Response(status=200 if healthy else 503, text="\n".join([*lines, "ok" if healthy else "failed", ""]))

    async def _answer_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_1_0_0})
