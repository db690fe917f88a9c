"""
The port that clients see: paths, API keys, bodies, error answers, and the end of the process.

Nothing below knows paths; nothing above knows pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from random import Random

import orjson
from aiohttp import StreamReader, web

from graft_serving.gateway.errors import Cause, Dialect, Refusal, error_body
from graft_serving.gateway.exchange import Exchange, Observer
from graft_serving.gateway.keys import ApiKeys
from graft_serving.gateway.limits import HeldBytes, Meters, leave, parsed_bytes
from graft_serving.gateway.models import model_list, one_model
from graft_serving.gateway.passing import Passage
from graft_serving.gateway.relay import Relay, no_routes
from graft_serving.gateway.requests import APIS, Api, read_request
from graft_serving.gateway.table import RoutingTable
from graft_serving.gateway.trace import continue_trace, request_id

logger = logging.getLogger(__name__)

BODY_SECONDS = 60.0
"""A client has so long to send its body."""
KEEPALIVE_SECONDS = 75.0
_MODELS = "/v1/models"
CLIENT_GONE = 499
"""What the access log says of a client that left; nobody gets this status."""


class GatewayServer:
    """`handle` answers one request; `listen`, `drain` and `close` are the life of the port."""

    def __init__(
        self, relay: Relay, keys: ApiKeys, observers: Sequence[Observer], clock: Callable[[], float], random: Random, bodies: HeldBytes
    ) -> None:
        self._relay = relay
        self._keys = keys
        self._bodies = bodies
        self._observers = observers
        self._clock = clock
        self._random = random
        self._owners = Meters("this API key", clock)
        self._under_way = 0
        self._nothing_under_way = asyncio.Event()
        self._nothing_under_way.set()
        self._server: web.Server | None = None
        self._socket: asyncio.Server | None = None
        self.draining = False
        self.port = 0

    async def listen(self, host: str, port: int) -> None:
        """Serve from now on. `port` 0 takes a free one, which `port` then says."""
        self._server = web.Server(
            self.handle, handler_cancellation=True, access_log=None, auto_decompress=False, keepalive_timeout=KEEPALIVE_SECONDS
        )
        self._socket = await asyncio.get_running_loop().create_server(self._server, host, port, backlog=4096)
        self.port = self._socket.sockets[0].getsockname()[1]

    async def drain(self, accept_seconds: float, grace_seconds: float) -> None:
        """
        End well: take requests a little longer, then finish those under way.

        While other nodes still send connections here, answers close theirs, so that clients go to another replica by themselves.
        """
        self.draining = True
        await asyncio.sleep(accept_seconds)
        if self._socket is not None:
            self._socket.close()
        if self._server is not None:
            self._server.pre_shutdown()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._nothing_under_way.wait()
        if self._under_way:
            logger.warning("%d requests are cut off: they did not finish in the time for the drain", self._under_way)

    async def close(self) -> None:
        """Cut off whatever is left."""
        if self._socket is not None:
            self._socket.close()
        if self._server is not None:
            await self._server.shutdown(0.1)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.raw_path.partition("?")[0]
        api = APIS.get(path)
        exchange = self._begin(request, api)
        self._enter()
        try:
            response = await (self._infer(request, api, exchange) if api else self._other(request, path, exchange))
            exchange.status = response.status
        except Refusal as refusal:
            response = self._refused(exchange, api.dialect if api else _dialect(request.headers), refusal)
        except (asyncio.CancelledError, ConnectionResetError):
            exchange.status, exchange.cause = CLIENT_GONE, Cause.CLIENT_GONE
            raise asyncio.CancelledError from None  # a reset would be logged as an error of this handler
        except Exception:
            logger.exception("a request failed")
            failed = Refusal(500, Cause.INTERNAL, "the gateway failed; its log has the request id")
            response = self._refused(exchange, api.dialect if api else Dialect.OPENAI, failed)
        finally:
            self._leave()
            exchange.ended = self._clock()
            self._tell(exchange)
        if self.draining and not response.prepared:
            response.force_close()
        return response

    def _tell(self, exchange: Exchange) -> None:
        """One observer's failure is neither the client's nor another observer's."""
        for observer in self._observers:
            try:
                observer.completed(exchange)
            except Exception:
                logger.exception("a request that has ended could not be told to %s", type(observer).__name__)

    def _enter(self) -> None:
        self._under_way += 1
        self._nothing_under_way.clear()

    def _leave(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._nothing_under_way.set()

    def _begin(self, request: web.BaseRequest, api: Api | None) -> Exchange:
        headers, random, table = request.headers, self._random, self._relay.table
        return Exchange(
            api=api.name if api else "other",
            request_id=request_id(headers.get("x-request-id"), random),
            trace=continue_trace(headers.get("traceparent"), headers.get("tracestate"), random),
            started=self._clock(),
            revision=table.revision if table else 0,
        )

    async def _infer(self, request: web.BaseRequest, api: Api, exchange: Exchange) -> web.StreamResponse:
        if request.method != "POST":
            raise Refusal(405, Cause.METHOD, f"{api.path} takes POST")
        table = self._known()
        exchange.owner = self._keys.owner(request.headers, anonymous=table.settings.anonymous)
        meter = self._owners.admit(exchange.owner, table.settings.per_key)
        held = 0
        try:
            raw = await read_body(request, table.settings.limits.max_body_bytes, self._bodies)
            exchange.bytes_in = held = len(raw)
            self._bodies.take(parsed := parsed_bytes(raw))
            held += parsed
            asked = read_request(api, raw, table.settings.allowed_media_hosts)
            del raw  # is long, and needed until the request is routed, at most
            exchange.stream = asked.stream
            return await self._relay.serve(Passage(request, asked, exchange, table.settings.limits, self.draining))
        finally:
            self._bodies.give_back(held)
            leave(meter)

    async def _other(self, request: web.BaseRequest, path: str, exchange: Exchange) -> web.Response:
        if path != _MODELS and not path.startswith(_MODELS + "/"):
            raise Refusal(404, Cause.NOT_FOUND, "there is nothing at this path")
        if request.method != "GET":
            raise Refusal(405, Cause.METHOD, f"{_MODELS} takes GET")
        table = self._known()
        self._keys.owner(request.headers, anonymous=table.settings.anonymous)
        told = model_list(table) if path == _MODELS else one_model(table, path[len(_MODELS) + 1 :])
        return web.Response(body=orjson.dumps(told), headers=_headers(exchange))

    def _known(self) -> RoutingTable:
        if self._relay.table is None:
            raise no_routes()
        return self._relay.table

    def _refused(self, exchange: Exchange, dialect: Dialect, refusal: Refusal) -> web.Response:
        exchange.status, exchange.cause = refusal.status, refusal.cause
        body = error_body(dialect, refusal)
        exchange.bytes_out = len(body)
        if exchange.mirrored is not None:
            exchange.mirrored.keep(body)
        headers = _headers(exchange)
        if refusal.retry_after is not None:
            headers["Retry-After"] = str(refusal.retry_after)
        return web.Response(body=body, status=refusal.status, headers=headers)


def _headers(exchange: Exchange) -> dict[str, str]:
    """Return the headers of an answer that no pod gave. Revision 0: there are no routes yet."""
    return {
        "Content-Type": "application/json",
        "Server": "graft",
        "x-request-id": exchange.request_id,
        "x-graft-revision": str(exchange.revision),
    }


async def read_body(request: web.BaseRequest, most: int, bodies: HeldBytes) -> bytes:
    """Return the body, counted in `bodies`. Raises `Refusal` if it is longer than `most`, encoded, too slow to come, or does not fit."""
    length = request.content_length
    if length is not None and length > most:
        raise _too_large(most)
    bodies.must_fit(length or 0)
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(415, Cause.INVALID, "send the body without Content-Encoding")
    if "Expect" in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = request.content
    if content.is_eof():
        return _bounded(content.read_nowait(), most, bodies)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read(content, most, bodies)
    except TimeoutError:
        raise Refusal(408, Cause.BODY_TIMEOUT, f"the body did not come within {BODY_SECONDS:.0f} s") from None


async def _read(content: StreamReader, most: int, bodies: HeldBytes) -> bytes:
    parts, length = [], 0
    try:
        while part := await content.readany():
            bodies.take(len(part))
            parts.append(part)
            length += len(part)
            if length > most:
                raise _too_large(most)
        return b"".join(parts)
    except BaseException:  # a client that leaves, too
        bodies.give_back(length)
        raise


def _bounded(body: bytes, most: int, bodies: HeldBytes) -> bytes:
    if len(body) > most:
        raise _too_large(most)
    bodies.take(len(body))
    return body


def _too_large(most: int) -> Refusal:
    return Refusal(413, Cause.TOO_LARGE, f"the body is longer than {most} bytes, which is this endpoint's limit")


def _dialect(headers: Mapping[str, str]) -> Dialect:
    return Dialect.ANTHROPIC if "anthropic-version" in headers else Dialect.OPENAI
