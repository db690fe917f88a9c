"""
What the door asks the agent, over a Unix socket.

The door has checked the caller's token before it passes on /graft/state; what it asks at /auth is that very check.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from graft_api.dataplane import DRAIN_PATH, STATE_PATH
from graft_serving.agent.drain import Drain
from graft_serving.agent.state import Board
from graft_serving.agent.tokens import Answer

LONG_POLL_SECONDS = 20.0
DRAIN_GRACE_SECONDS = 5.0
"""The kubelet calls the other containers' hooks and signals the agent at the same time: who comes first waits this long."""
CLOSE_SECONDS = 2.0

Authenticate = Callable[[str | None], Awaitable[Answer]]


def door_application(authenticate: Authenticate, board: Board, drain: Drain) -> web.Application:
    """Return what listens on the socket."""

    async def auth(request: web.Request) -> web.Response:
        answer = await authenticate(request.headers.get("Authorization"))
        return web.Response(status=answer.status, headers=answer.headers)

    async def state(request: web.Request) -> web.Response:
        if not board.opened:
            return web.Response(status=503)  # as the door answers while the agent is away
        after = request.query.get("after", "")
        if after and not (after.isascii() and after.isdecimal() and len(after) < 19):
            return web.Response(status=400, text="after must be a generation\n")
        found = await board.state(int(after) if after else None, LONG_POLL_SECONDS)
        return web.Response(body=found.model_dump_json(by_alias=True).encode(), content_type="application/json")

    async def draining(_: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(DRAIN_GRACE_SECONDS):
                await drain.begun.wait()
        except TimeoutError:
            return web.Response(status=409, text="the pod is not terminating\n")
        await drain.over.wait()
        return web.Response(text="drained\n")

    application = web.Application()
    application.router.add_get("/auth", auth)
    application.router.add_get(STATE_PATH, state)
    application.router.add_get(DRAIN_PATH, draining)
    return application


async def serve_socket(application: web.Application, path: Path) -> None:
    """Serve until cancelled."""
    # Of an earlier process: the volume outlives the container.
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - in memory, and nothing runs yet
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(path)).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
