"""
One attempt at one pod: send the request, judge the head of the answer, pass the answer on to the client.

`NotStarted` means that the pod has not begun with the request, so that another one may be asked. After the first byte to the client
nothing is tried again; what breaks then is said within the stream, in the client's dialect.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import NamedTuple

import orjson
from aiohttp import web

from graft_api.dataplane import NOT_STARTED_HEADER, SERVED_BY_HEADER
from graft_api.routes import GatewayLimits
from graft_serving.gateway.client_stream import BEHIND_BYTES, ClientStream, taken_within
from graft_serving.gateway.errors import Cause, Dialect, Refusal, error_object
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.pods import Pod, Pods
from graft_serving.gateway.requests import Api, Asked
from graft_serving.gateway.sse import EventStream, EventTooLong, Renaming, Usage
from graft_serving.gateway.upstream import Aborted, Answer, Broken, Connection, Connections, NotConnected, TimedOut
from graft_serving.gateway.whole_answer import WholeAnswer

TOKEN_SECONDS = 1.0
"""So old the door's token may be before its file is looked at again."""

ENGINE_DEAD = "EngineCore encountered an issue"
"""vLLM's words before it ends; its other errors may be the request's own."""

MOST_RENAMINGS = 1024
"""Kept ready; more names than a process meets in weeks."""


class NotStarted(Exception):  # noqa: N818 - says what happened
    """The pod has not begun with the request."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


class Passage(NamedTuple):
    """A client's request and what its answer must look like."""

    request: web.BaseRequest
    asked: Asked
    exchange: Exchange
    limits: GatewayLimits
    last: bool
    """The gateway is draining: the client's connection ends with this answer."""


class Passing:
    """Sends requests to pods and passes their answers on."""

    def __init__(self, pods: Pods, connections: Connections, door_token: Callable[[], str], clock: Callable[[], float]) -> None:
        self._pods = pods
        self._connections = connections
        self._door_token = door_token
        self._clock = clock
        self._token = ""
        self._token_until = 0.0
        self._renamings: dict[tuple[str, str], Renaming] = {}
        self._under_way: dict[Connection, Exchange] = {}
        self._aborted: frozenset[tuple[str, str]] = frozenset()

    def abort(self, aborted: frozenset[tuple[str, str]]) -> None:
        """End what is under way on these versions, as (domain, version), and what is about to be: it may still wait for a connection."""
        self._aborted = aborted
        if not aborted:
            return
        for connection, exchange in self._under_way.items():
            if (exchange.domain, exchange.version) in aborted:
                connection.break_off()

    async def attempt(self, passage: Passage, pod: Pod) -> web.StreamResponse:
        """Ask one pod. Raises `NotStarted` or `Refusal`."""
        try:
            connection = await self._connections.take(pod.address)
        except NotConnected:
            pod.breaker.failed(self._clock())
            raise NotStarted(Cause.UNREACHABLE) from None
        exchange = passage.exchange
        self._under_way[connection] = exchange
        try:
            if self._aborted and (exchange.domain, exchange.version) in self._aborted:
                raise _taken_out()
            answer = await self._send(passage, pod, connection)
            if answer.headers.get("content-type", "").startswith("text/event-stream") and answer.status == 200:
                return await self._stream(passage, connection, answer)
            return await self._whole(passage, pod, connection, answer)
        finally:
            del self._under_way[connection]
            connection.done()

    async def _send(self, passage: Passage, pod: Pod, connection: Connection) -> Answer:
        exchange = passage.exchange
        body = passage.asked.encoded(exchange.version)
        head = self._head(passage, pod, len(body))
        try:
            answer = await connection.send(head, body, passage.limits.first_byte_seconds)
        except Aborted:
            raise _taken_out() from None
        except (Broken, TimedOut) as error:
            pod.breaker.failed(self._clock())
            raise _broken_off(error, first=True) from None
        self._judge(pod, answer)
        return answer

    def _head(self, passage: Passage, pod: Pod, length: int) -> bytes:
        exchange, trace = passage.exchange, passage.exchange.trace
        state = f"tracestate: {trace.state}\r\n" if trace.state else ""
        return (
            f"POST {passage.asked.api.path} HTTP/1.1\r\nhost: {pod.address}\r\nauthorization: Bearer {self._fresh_token()}\r\n"
            f"content-type: application/json\r\ncontent-length: {length}\r\nx-request-id: {exchange.request_id}\r\n"
            f"traceparent: {trace.parent}\r\n{state}\r\n"
        ).encode("ascii")

    def _fresh_token(self) -> str:
        """Return the token as the file had it a second ago, at most."""
        now = self._clock()
        if now >= self._token_until:
            try:
                self._token = self._door_token()
            except (OSError, ValueError):
                raise Refusal(503, Cause.DOOR_REFUSED, "this gateway has not got its token yet", retry_after=1) from None
            self._token_until = now + TOKEN_SECONDS
        return self._token

    def _judge(self, pod: Pod, answer: Answer) -> None:
        """
        Tell the breaker. Raises `NotStarted` for what the door has refused.

        An error of vLLM's own says nothing of the pod: one client could send what makes it, and close the pod to all others.
        """
        status = answer.status
        if status in (401, 403):  # vLLM has no keys: this is the door
            pod.breaker.failed(self._clock())
            raise NotStarted(Cause.DOOR_REFUSED)
        if status in (502, 503) and (NOT_STARTED_HEADER in answer.headers or not _is_json(answer)):
            pod.breaker.failed(self._clock())
            if NOT_STARTED_HEADER in answer.headers:
                raise NotStarted(Cause.NOT_STARTED)
        elif status < 500:
            pod.breaker.succeeded()

    def _judge_words(self, pod: Pod, exchange: Exchange, status: int, message: str) -> None:
        """Tell pods and breaker what an error means for later requests. Raises `NotStarted` if vLLM does not have the version."""
        if status == 404 and message.startswith(f"The model `{exchange.version}` does not exist"):
            self._pods.missing(pod, exchange.version)
            exchange.first_byte = 0.0  # is another pod's to give
            raise NotStarted(Cause.VERSION_MISSING)
        if status >= 500 and message.startswith(ENGINE_DEAD):
            pod.breaker.failed(self._clock())

    def _renaming(self, exchange: Exchange) -> Renaming:
        names = exchange.version, exchange.domain
        found = self._renamings.get(names)
        if found is None:
            if len(self._renamings) >= MOST_RENAMINGS:
                self._renamings.clear()
            found = self._renamings[names] = Renaming(*names)
        return found

    async def _read(self, passage: Passage, connection: Connection) -> bytes:
        exchange = passage.exchange
        parts = []
        try:
            while part := await connection.read(passage.limits.idle_seconds):
                exchange.first_byte = exchange.first_byte or self._clock()
                parts.append(part)
        except (Aborted, Broken, TimedOut) as error:
            raise _broken_off(error, first=False) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _whole(self, passage: Passage, pod: Pod, connection: Connection, answer: Answer) -> web.StreamResponse:
        exchange = passage.exchange
        body = await self._read(passage, connection)
        if answer.status >= 500 and not _is_json(answer):
            raise Refusal(502, Cause.BROKEN, "the model server failed while it answered")  # nginx's own page
        renaming = self._renaming(exchange)
        if answer.status < 400:
            body = renaming.answer(body)
            usage = Usage()
            usage.read(body)
            exchange.tokens_in, exchange.tokens_out = usage.tokens_in, usage.tokens_out
        else:
            self._judge_words(pod, exchange, answer.status, _message(body))
            body = renaming.error(body)
            exchange.cause = Cause.UPSTREAM_ERROR if answer.status >= 500 else None
        exchange.bytes_out = len(body)
        if exchange.mirrored is not None:
            exchange.mirrored.keep(body)
        headers = _headers(passage, answer)
        if not body:
            return web.Response(status=answer.status, headers=headers)
        if len(body) > BEHIND_BYTES:
            return await send_long(passage, web.StreamResponse(status=answer.status, headers=headers), body)
        headers["Date"] = answer.headers.get("date") or formatdate(usegmt=True)
        return WholeAnswer(answer.status, headers, body)

    async def _stream(self, passage: Passage, connection: Connection, answer: Answer) -> web.StreamResponse:
        exchange = passage.exchange
        headers = _headers(passage, answer)
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"  # an nginx in front of this gateway must not collect the events
        response = web.StreamResponse(status=200, headers=headers)
        events = EventStream(self._renaming(exchange), drop_usage=passage.asked.usage_unwanted)
        if passage.last:
            response.force_close()
        client = ClientStream(events, exchange, self._clock)
        await client.begin(passage.request, response)
        try:
            await _pour(connection, client, passage.limits.idle_seconds)
            exchange.cause = Cause.UPSTREAM_ERROR if events.failed else None
        except (Aborted, Broken, TimedOut, EventTooLong) as error:
            refusal = _broken_off(error, first=False)
            exchange.cause = refusal.cause
            client.send(error_event(passage.asked.api, refusal))
        finally:
            exchange.tokens_in, exchange.tokens_out = events.usage.tokens_in, events.usage.tokens_out
        return response


async def send_long(passage: Passage, response: web.StreamResponse, body: bytes) -> web.StreamResponse:
    """
    Send an answer that a client may be slow to take, here, where it still counts as under way: a drain waits for it.

    Raises ConnectionResetError if the client takes nothing for too long.
    """
    response.content_length = len(body)
    if passage.last:
        response.force_close()
    await response.prepare(passage.request)
    for start in range(0, len(body), BEHIND_BYTES):
        async with taken_within(passage.limits.idle_seconds, passage.request.transport):
            await response.write(body[start : start + BEHIND_BYTES])
    return response


async def _pour(connection: Connection, client: ClientStream, idle_seconds: float) -> None:
    """Pass a stream on to its end; the pod waits for a client that is behind. Raises `Aborted`, `Broken`, `TimedOut`, `EventTooLong`."""
    while not await connection.pour(client.take, idle_seconds):
        if client.broken is None:
            await client.caught_up(idle_seconds)
        else:
            break
    client.end()


def _is_json(answer: Answer) -> bool:
    return answer.headers.get("content-type", "").startswith("application/json")


def _message(body: bytes) -> str:
    """Return the words of an error, which are at the same place in both dialects; nothing for what is no error of vLLM's."""
    try:
        told = orjson.loads(body)
    except ValueError:
        return ""
    error = told.get("error") if isinstance(told, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def _taken_out() -> Refusal:
    return Refusal(503, Cause.ABORTED, "the version that was to answer has been taken out of service; ask again", retry_after=1)


def _broken_off(error: Exception, *, first: bool) -> Refusal:
    if isinstance(error, Aborted):
        return _taken_out()
    if isinstance(error, TimedOut):
        if first:
            return Refusal(504, Cause.FIRST_BYTE_TIMEOUT, "the model server has not begun to answer in time", retry_after=1)
        return Refusal(504, Cause.IDLE_TIMEOUT, "the model server has stopped in the middle of its answer")
    return Refusal(502, Cause.BROKEN, "the connection to the model server broke while it answered")


def _headers(passage: Passage, answer: Answer) -> dict[str, str]:
    exchange = passage.exchange
    headers = {
        "Content-Type": answer.headers.get("content-type", "application/json"),
        "Server": "graft",
        "x-request-id": exchange.request_id,
        SERVED_BY_HEADER: f"{exchange.version}@{exchange.pod}",
        "x-graft-revision": str(exchange.revision),
    }
    if (wait := answer.headers.get("retry-after")) is not None:
        headers["Retry-After"] = wait
    return headers


def error_event(api: Api, refusal: Refusal) -> bytes:
    """Return what ends a stream that has begun, as each API's clients understand it."""
    if api.dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + orjson.dumps(error_object(api.dialect, refusal)) + b"\n\n"
    if api.path == "/v1/responses":
        told = {"type": "error", "code": refusal.cause.replace("-", "_"), "message": refusal.message, "param": None, "sequence_number": 0}
        return b"event: error\ndata: " + orjson.dumps(told) + b"\n\n"
    return b"data: " + orjson.dumps(error_object(api.dialect, refusal)) + b"\n\n"
