"""
The HTTPS server of the reports: routes as in `graft_api.reports` and `graft_api.fleet`.

A handler reads, proves who speaks, parses, asks the sink, and hands its answer to the pod. Nothing of a body is ever logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel

from graft_api.collect import COLLECTOR, CollectorReport
from graft_api.dataplane import GATEWAY, SERVER
from graft_api.drift import DRIFT, DriftReport
from graft_api.fleet import AgentReport, GatewayReport
from graft_api.reports import MAX_BODY_BYTES, ClaimGrant, ClaimRequest, ProgressReport, TerminalResult
from graft_api.schema import Invalid, parse
from graft_operator.engine.clock import Clock
from graft_operator.engine.errors import KubeError, LeadershipLost, NotYet
from graft_operator.reports.chains import Foreign, Unauthenticated
from graft_operator.reports.coalesce import Coalescer
from graft_operator.reports.identity import Identities
from graft_operator.reports.service import PORT
from graft_operator.reports.sink import Caller, FleetCaller, FleetSink, Refusal, ReportSink, Superseded

MAX_FLEET_BODY_BYTES = 1536 * 1024
"""
Room for the largest report that its schema allows: 1.25 MiB of a collector that compares with 32 metrics in 4 contrasts, observes 256
scores and watches 31 domains by 17 metrics each, which alone are 0.44 MiB. `test_largest_reports` adds it up.
"""
READ_SECONDS = 10.0
"""For the body."""
ANSWER_SECONDS = 30.0
KEEPALIVE_SECONDS = 75.0
RETRY_AFTER_SECONDS = 2
GRACE_SECONDS = 10.0
"""How long requests in flight may take to finish when the server stops."""

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ReportsServer:
    """
    Listens with `context` and hands reports to `sink` and `fleet` while `leading()` holds.

    `identities` asks the API server; `clock` measures the coalescer's pauses.
    """

    def __init__(self, sink: ReportSink, identities: Identities, leading: Callable[[], bool], clock: Clock, fleet: FleetSink) -> None:
        self._sink = sink
        self._fleet = fleet
        self._identities = identities
        self._leading = leading
        self.coalescer = Coalescer(sink.progress, clock)

    async def run(self, context: ssl.SSLContext | None, host: str | None = None, port: int = PORT) -> None:
        """Serve until cancelled, then let requests in flight finish. `context` None (tests): plain HTTP."""
        runner = web.AppRunner(self.application(), access_log=None, keepalive_timeout=KEEPALIVE_SECONDS, shutdown_timeout=GRACE_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=context, reuse_address=True).start()
            await self.coalescer.run()
        finally:
            await runner.cleanup()

    def application(self) -> web.Application:
        """The routes, behind the guard that every one of them needs."""
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._answer])
        root = "/v1/namespaces/{namespace}/finetunejobs/{name}"
        application.router.add_post(f"{root}/claim", self._claim)
        application.router.add_post(f"{root}/progress", self._progress)
        application.router.add_post(f"{root}/result", self._result)
        root = "/v1/namespaces/{namespace}/modelendpoints/{name}"
        application.router.add_post(f"{root}/agent", partial(self._heard, AgentReport, SERVER, self._fleet.heard_agent))
        application.router.add_post(f"{root}/gateway", partial(self._heard, GatewayReport, GATEWAY, self._fleet.heard_gateway))
        application.router.add_post(f"{root}/collector", partial(self._heard, CollectorReport, COLLECTOR, self._fleet.heard_collector))
        application.router.add_post(f"{root}/drift", partial(self._heard, DriftReport, DRIFT, self._fleet.heard_drift))
        return application

    async def _claim(self, request: web.Request) -> web.Response:
        caller, claim = await self._read(request, ClaimRequest)
        attempt = await self._sink.claim(caller, caller.namespace, caller.owner_name, claim)
        self.coalescer.forget(caller, caller.namespace, caller.owner_name)
        return web.json_response(ClaimGrant(attempt=attempt).to_json())

    async def _progress(self, request: web.Request) -> web.Response:
        caller, report = await self._read(request, ProgressReport)
        self.coalescer.offer(caller, caller.namespace, caller.owner_name, report)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _result(self, request: web.Request) -> web.Response:
        caller, result = await self._read(request, TerminalResult)
        await self._sink.result(caller, caller.namespace, caller.owner_name, result)
        self.coalescer.forget(caller, caller.namespace, caller.owner_name)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _read(self, request: web.Request, model: type[M]) -> tuple[Caller, M]:
        """Who speaks, then what they say: a body is not even parsed for a stranger."""
        caller = await self._identities.caller(request.headers.get("Authorization"))
        wanted = request.match_info["namespace"], request.match_info["name"]
        if (caller.namespace, caller.owner_name) != wanted:
            raise Foreign(f"pod {caller.pod_name} belongs to {caller.namespace}/{caller.owner_name}")
        return caller, await _body(request, model)

    async def _heard(self, model: type[M], role: str, hear: Callable[[FleetCaller, M], None], request: web.Request) -> web.Response:
        """A report of the data plane, taken at once: it is a whole picture, and the next one is due in seconds."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        caller = await self._identities.fleet_caller(request.headers.get("Authorization"), namespace, name)
        if (caller.namespace, caller.endpoint_name, caller.role) != (namespace, name, role):
            raise Foreign(f"pod {caller.pod_name} is a {caller.role} of {caller.namespace}/{caller.endpoint_name}")
        hear(caller, await _body(request.clone(client_max_size=MAX_FLEET_BODY_BYTES), model))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._leading():
            return _refused(HTTPStatus.SERVICE_UNAVAILABLE, "this replica does not lead")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await handler(request)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001 - the edge of one request: whatever happened to it, the others go on
            status, message = _translated(error)
            _log(request, status, message, error)
            return _refused(status, message)


class _BadReport(Exception):  # noqa: N818 - a statement about the body
    """Not `Invalid` itself: what the sink finds invalid is not the pod's mistake."""


async def _body(request: web.BaseRequest, model: type[M]) -> M:
    async with asyncio.timeout(READ_SECONDS):
        return _parsed(model, await request.read())


def _parsed(model: type[M], body: bytes) -> M:
    """Strict JSON: Python's reader would let NaN and Infinity through, which the API server then refuses."""
    try:
        return parse(model, json.loads(body, parse_constant=_no_constant))
    except Invalid as invalid:
        raise _BadReport(str(invalid)) from invalid
    except (ValueError, RecursionError) as error:
        raise _BadReport("the body is not JSON") from error


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _translated(error: Exception) -> tuple[HTTPStatus, str]:
    """What the pod is told. It must stop at 401, 403 and 409, so nothing that may pass by itself is one of these."""
    match error:
        case Unauthenticated():
            return HTTPStatus.UNAUTHORIZED, str(error)
        case Superseded():
            return HTTPStatus.CONFLICT, str(error)
        case Foreign() | Refusal():
            return HTTPStatus.FORBIDDEN, str(error)
        case _BadReport():
            return HTTPStatus.BAD_REQUEST, str(error)
    return HTTPStatus.SERVICE_UNAVAILABLE, f"not now: {type(error).__name__}"


def _log(request: web.Request, status: HTTPStatus, message: str, error: Exception) -> None:
    """Refusals are the pod's business; what is not foreseen is ours, with the place but without its words: they may quote a body."""
    if status is not HTTPStatus.SERVICE_UNAVAILABLE:
        logger.info("%s %s: %s %s", request.method, request.rel_url.raw_path, status.value, message)
    elif isinstance(error, KubeError | NotYet | TimeoutError | LeadershipLost):
        logger.warning("%s %s: %s: %s", request.method, request.rel_url.raw_path, message, error)
    else:
        place = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s %s: %s at\n%s", request.method, request.rel_url.raw_path, message, place)


def _refused(status: HTTPStatus, message: str) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
    return web.json_response({"error": message}, status=status, headers=headers)
