"""
Ask the shadow server, and tell what a version did from what the server could not even begin.

A connection is opened for each question: on one that was kept, a closing server and a candidate that breaks off look alike.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from graft_api.collect import Shadow
from graft_api.dataplane import NOT_STARTED_HEADER
from graft_api.tee import ExchangeHead
from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.pairs.sides import Said, Side
from graft_serving.backoff import Backoff
from graft_serving.collector.answers import read_answer
from graft_serving.collector.questions import Question
from graft_serving.gateway.upstream import Broken, Connection, Connections, NotConnected, TimedOut

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0


OUTAGE_TRIES = 3
"""So many failed tries in a row, one after another, are an outage: a server that lost one connection is as warm as before."""


class AwayError(Exception):
    """The shadow did not begin: nothing is known of the version. The message says why."""

    def __init__(self, why: str, *, told: bool = False) -> None:
        """`told`: its door itself said so."""
        super().__init__(why)
        self.told = told


@dataclass(frozen=True)
class Reply:
    """What came back."""

    side: Side
    status: int
    """0: no whole answer came."""
    body: bytes


class ShadowServer:
    """One server with both versions."""

    def __init__(self, settings: Shadow, token: Callable[[], str] | None) -> None:
        self._settings = settings
        self._token = token
        self._connections = Connections(CONNECT_SECONDS)

    async def ask(self, question: Question, version: str, head: ExchangeHead) -> Reply:
        """
        Return what the version answered: an error, a timeout and an answer without end are answers, too. Raises `AwayError`.

        The clock starts when the question is sent, on an open connection.
        """
        body = question.encoded(version)
        sent = self._head(question, head, len(body))
        try:
            connection = await self._connections.take(self._settings.address)
        except NotConnected as error:
            raise AwayError("no connection") from error
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                return await self._answered(connection, sent, body, _Asking(question, version, start))
        except (TimeoutError, TimedOut):
            return self._without(Answer.TIMEOUT, start)
        except Broken:
            return self._without(Answer.ERROR, start)
        finally:
            connection.abort()

    async def _answered(self, connection: Connection, sent: bytes, body: bytes, asking: _Asking) -> Reply:
        loop, seconds = asyncio.get_running_loop(), float(self._settings.timeout_seconds)
        answer = await connection.send(sent, body, seconds)
        parts, size, first = [], 0, None
        while part := await connection.read(seconds):
            first = first if first is not None else loop.time() - asking.start
            parts.append(part)
            size += len(part)
            if size > self._settings.answer_bytes:
                return self._without(Answer.ERROR, asking.start)
        found = b"".join(parts)
        _check_begun(answer.status, answer.headers, found, asking.version)
        stream = asking.question.asked.stream
        said = read_answer(asking.question.asked.api.name, answer.status, found, stream=stream)
        return Reply(Side(said, loop.time() - asking.start, first if stream else None), answer.status, found)

    def _without(self, ended: Answer, start: float) -> Reply:
        return Reply(Side(Said(ended), asyncio.get_running_loop().time() - start), 0, b"")

    def _head(self, question: Question, head: ExchangeHead, length: int) -> bytes:
        try:
            token = f"authorization: Bearer {self._token()}\r\n" if self._token else ""
        except (OSError, ValueError) as error:
            raise AwayError("the token for its door is not there") from error
        # What a client chose as its request's id or trace is checked by the gateway; whatever else is here must not end the line.
        names = "".join(f"{name}: {value}\r\n" for name, value in _told(head) if value.isascii() and value.isprintable())
        return (
            f"POST {question.path} HTTP/1.1\r\nhost: {self._settings.address}\r\n{token}{names}"
            f"content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        ).encode("ascii")


@dataclass(frozen=True)
class _Asking:
    question: Question
    version: str
    start: float


def _told(head: ExchangeHead) -> list[tuple[str, str]]:
    return [("x-request-id", f"shadow-{head.request_id}"), ("traceparent", head.traceparent)]


def _check_begun(status: int, headers: dict[str, str], body: bytes, version: str) -> None:
    """Raises `AwayError` for an answer by which no version has answered."""
    if NOT_STARTED_HEADER in headers:
        raise AwayError("its server is not up", told=True)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise AwayError(f"its door refuses this collector ({status})", told=True)
    if status == HTTPStatus.NOT_FOUND and f"The model `{version}` does not exist".encode() in body:
        raise AwayError(f"it does not have {version}", told=True)


class GivenUpError(Exception):
    """The shadow was away for so long that this question is not asked any more."""


class Gate:
    """Open while the shadow can be asked. While it is shut one question at a time tries."""

    def __init__(self, backoff: Backoff, changed: Callable[[bool], None] = lambda _: None) -> None:
        """`backoff`: between two tries. `changed` is told whether it is open, each time."""
        self._backoff = backoff
        self._changed = changed
        self._trying = asyncio.Lock()
        self._tries = 0
        """That failed since it shut."""
        self._outage = False
        self.away: str | None = None
        """Why it is shut."""
        self.returns = 0
        """How often it came up after an outage, cold."""

    async def ask(self, question: Callable[[], Awaitable[Reply]], expired: Callable[[], bool]) -> Reply:
        """Ask, again and again until the shadow has begun to answer. Raises `GivenUpError` once `expired` says so while it is shut."""
        while True:
            if self.away is None:
                with suppress(AwayError):
                    reply = await self._asked(question)
                    # Others may have found the server away meanwhile; an answer that broke off or never came does not say that it is back.
                    if reply.status:
                        self._open()
                    return reply
            async with self._trying:
                # Whoever had the lock before may have found it up: then all who wait go on at once, beside each other.
                if self.away is None:
                    continue
                if expired():
                    raise GivenUpError
                with suppress(AwayError):
                    reply = await self._asked(question)
                    self._open()
                    return reply
                self._tries += 1
                await asyncio.sleep(self._backoff.next())

    async def _asked(self, question: Callable[[], Awaitable[Reply]]) -> Reply:
        try:
            return await question()
        except AwayError as error:
            self._shut(error)
            raise

    def _shut(self, error: AwayError) -> None:
        if self.away != str(error):
            logger.warning("the shadow server cannot be asked: %s; it is tried again", error)
        if self.away is None:
            self._changed(False)
        self.away = str(error)
        self._outage |= error.told

    def _open(self) -> None:
        if self.away is not None:
            logger.info("the shadow server answers")
            self.away = None
            self.returns += self._outage or self._tries >= OUTAGE_TRIES
            self._tries, self._outage = 0, False
            self._backoff.reset()
            self._changed(True)
