"""
/livez, /readyz and /metrics, on a port of their own.

/livez fails only for what a restart can cure: an event loop that does not answer, a watch without a living task. It does
not fail because somebody else is away. /readyz says whether this replica could do its work now, and what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest

Check = Callable[[], str | None]
"""What is wrong, in a few words, or None."""


@dataclass(frozen=True)
class Checks:
    """Named checks behind a path."""

    live: Mapping[str, Check] = field(default_factory=dict)
    ready: Mapping[str, Check] = field(default_factory=dict)


class HealthServer:
    """
    Serves until cancelled.

    `registry` None: no /metrics. `host` empty: on all addresses. `port` 0 takes a free one, which `port` then says.
    """

    def __init__(self, registry: CollectorRegistry | None, checks: Checks, host: str, port: int) -> None:
        self._registry = registry
        self._checks = checks
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
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        if self._registry is not None:
            app.router.add_get("/metrics", partial(_metrics, self._registry))
        return app

    async def _live(self, _: web.Request) -> web.Response:
        return _answer(self._checks.live)

    async def _ready(self, _: web.Request) -> web.Response:
        return _answer(self._checks.ready)


async def _metrics(registry: CollectorRegistry, _: web.Request) -> web.Response:
    return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_1_0_0})


def _answer(checks: Mapping[str, Check]) -> web.Response:
    results = {name: check() for name, check in checks.items()}
    lines = [f"{'ok' if wrong is None else 'failed'} {name}{f': {wrong}' if wrong else ''}" for name, wrong in sorted(results.items())]
    healthy = all(wrong is None for wrong in results.values())
    return web.Response(status=200 if healthy else 503, text="\n".join([*lines, "ok" if healthy else "failed", ""]))
