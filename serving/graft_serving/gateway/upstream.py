"""
HTTP/1.1 to the doors of server pods: just what a gateway needs of it, at a third of the cost of a general client.

What matters beside cost is that the caller learns whether anything was sent: `NotConnected` means that it was not. Doors are our
own nginx, so whatever is unusual (a bad status line, bytes after an answer, obsolete line folding) ends the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from graft_serving.gateway.framing import Body, body_of, parse_head

LARGEST_HEAD = 65_536
HIGH_WATER = 262_144
"""So many bytes of an answer wait for a slow client before the pod is made to wait."""
IDLE_SECONDS = 20.0
"""Shorter than the door's keepalive_timeout: a connection must not be closed there while a request goes out on it here."""

Take = Callable[[bytes], bool]
"""Gets a piece of a body; returns whether it wants the next one. Raises nothing."""


class NotConnected(Exception):  # noqa: N818 - says what happened
    """Nothing was sent."""


class Broken(Exception):  # noqa: N818
    """The connection failed after something was sent."""


class TimedOut(Exception):  # noqa: N818
    """Nothing came for too long."""


class Aborted(Exception):  # noqa: N818
    """We have broken off the request ourselves."""


class Answer:
    """Status and headers (names in lower case) of one answer."""

    __slots__ = ("headers", "status")

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers


class Connection(asyncio.Protocol):
    """One connection: idle, or one request at a time. `send`, then `read` until it returns nothing, or `pour` until it returns True."""

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop, release: Callable[[Connection], None]) -> None:
        self.address = address
        self._loop = loop
        self._release = release
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Take | None = None
        self._heard = 0.0
        self._patience = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._failure: Exception | None = None
        self._paused = False
        self._choked = False
        self.idle_since = 0.0
        self._begin()

    def _begin(self) -> None:
        self._answer: Answer | None = None
        self._buffer = b""
        self._parts: deque[bytes] = deque()
        self._waiting = 0
        self._body: Body | None = None
        self._keep = True
        self._whole = True

    # What the relay calls.

    @property
    def usable(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing() and self._failure is None

    async def send(self, head: bytes, body: bytes, seconds: float) -> Answer:
        """Send a request and return the head of its answer. Raises `Broken`, `TimedOut` or `Aborted`; then call `abort`."""
        assert self._transport is not None  # noqa: S101 - `usable` was asked
        self._begin()
        self._whole = False
        self._transport.writelines((head, body))
        while self._answer is None:
            await self._wait(seconds)
        return self._answer

    async def send_pieces(self, head: bytes, pieces: Iterable[Sequence[bytes | memoryview]], seconds: float) -> Answer:
        """
        As `send`, for a long body: after every piece others have their turn, and it waits while the server does not read.

        An answer that comes before the end of the body ends the sending, and with it the connection.
        """
        assert self._transport is not None  # noqa: S101 - `usable` was asked
        self._begin()
        self._whole = False
        self._transport.write(head)
        for piece in pieces:
            if self._answer is not None:
                self._keep = False
                break
            self._transport.writelines(piece)
            await self._written(seconds)
        while self._answer is None:
            await self._wait(seconds)
        return self._answer

    async def _written(self, seconds: float) -> None:
        await asyncio.sleep(0)  # a transport that takes everything at once makes nobody wait
        while self._choked and self._answer is None:
            await self._wait(seconds)
        if self._failure is not None:
            raise self._failure

    async def read(self, seconds: float) -> bytes:
        """Return what has come of the answer's body, and nothing at its end. Raises `Broken` or `TimedOut`; then call `abort`."""
        while not self._parts:
            if self._whole:
                return b""
            await self._wait(seconds)
        return self._kept()

    async def pour(self, take: Take, seconds: float) -> bool:
        """
        Hand the answer's body to `take`, as it comes: no task wakes up for it. Returns True at its end.

        Returns False once `take` has: what comes from then on is kept for the next call. Raises `Broken`, or `TimedOut` after `seconds`
        without anything; then call `abort`.
        """
        if self._parts and not take(self._kept()):
            return False
        if self._whole:
            return True
        self._take = take
        try:
            await self._wait(seconds)
        finally:
            self._take = None
        return self._whole and not self._parts

    def _kept(self) -> bytes:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._waiting = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def done(self) -> None:
        """The caller has what it wants: keep the connection if its answer is whole, else end the request by closing it."""
        if self._whole and self._keep and not self._paused and self.usable:
            self._release(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close now: the door sees it, and vLLM stops."""
        if self._transport is not None:
            self._transport.abort()

    def break_off(self) -> None:
        """End the request that is under way here: whoever waits for its answer gets `Aborted`. A whole answer stays one."""
        if self._whole:
            return
        self._parts.clear()
        self._fail(Aborted())
        self.abort()

    async def _wait(self, seconds: float) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        self._heard = self._loop.time()
        self._patience = seconds
        self._look_at(self._heard + seconds)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _look_at(self, when: float) -> None:
        """
        See then whether the server is silent; a look that is due before is enough.

        A timer is left running when its wait is over, so that a busy connection does not make one for every request.
        """
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)
        self._timer_at = when

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        silent_at = self._heard + self._patience
        if silent_at > self._loop.time():
            self._look_at(silent_at)
        else:
            self._waiter.set_exception(TimedOut())

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        try:
            if self._whole:
                raise ValueError("bytes without a request")
            if self._answer is None:
                data = self._read_head(data)
            if self._body is not None and (data or not self._body.needs_more):
                self._read_body(data)
        except ValueError:
            self._fail(Broken("not HTTP"))
            self.abort()
            return
        if self._take is None or self._whole:
            self._wake()

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        if self._take is None:
            self._wake()

    def eof_received(self) -> bool:
        if self._body is not None and not self._whole and self._body.ends_with_connection:
            self._whole = True
            self._keep = False
            self._wake()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._whole:
            self._keep = False
            self._failure = self._failure or Broken("closed")
            self._wake()
        else:
            self._fail(Broken("closed"))

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _read_head(self, data: bytes) -> bytes:
        """Take the head, if it is all there. Returns what follows it."""
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > LARGEST_HEAD:
                raise ValueError("the head is too long")
            self._buffer = data
            return b""
        self._buffer = b""
        status, headers = parse_head(data[:end])
        if status < 200:
            return self._read_head(data[end + 4 :]) if len(data) > end + 4 else b""
        self._keep = headers.get("connection", "").lower() != "close"
        self._body = body_of(status, headers)
        self._answer = Answer(status, headers)
        return data[end + 4 :]

    def _read_body(self, data: bytes) -> None:
        assert self._body is not None  # noqa: S101
        part = self._body.feed(data)
        if part and self._take is not None:
            self._heard = self._loop.time()
            if not self._take(part):
                self._take = None
        elif part:
            self._parts.append(part)
            self._waiting += len(part)
            if self._waiting > HIGH_WATER and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        if not self._body.needs_more:
            self._whole = True


class Connections:
    """Connections by address; those that are idle are used again, the latest first, so that the others may age."""

    def __init__(self, connect_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._connect_seconds = connect_seconds
        self._clock = clock
        self._idle: defaultdict[str, deque[Connection]] = defaultdict(deque)
        self._closed = False

    async def take(self, address: str) -> Connection:
        """Return a connection for one request. Raises `NotConnected`."""
        idle = self._idle[address]
        _drop_old(idle, self._clock() - IDLE_SECONDS)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return await self._connect(address, asyncio.get_running_loop())

    def forget(self, address: str) -> None:
        """Close what is idle to a pod that is gone; what is under way there closes when it is done."""
        for connection in self._idle.pop(address, ()):
            connection.abort()

    def close(self) -> None:
        """Close all that is idle, and keep none from now on."""
        self._closed = True
        for address in list(self._idle):
            self.forget(address)

    async def _connect(self, address: str, loop: asyncio.AbstractEventLoop) -> Connection:
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(lambda: Connection(address, loop, self._release), host.strip("[]"), int(port))
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            raise NotConnected from error
        if not connection.usable:
            raise NotConnected
        return connection

    def _release(self, connection: Connection) -> None:
        if self._closed or connection.address not in self._idle:
            connection.abort()
            return
        connection.idle_since = self._clock()
        self._idle[connection.address].append(connection)


def _drop_old(idle: deque[Connection], oldest: float) -> None:
    while idle and (idle[0].idle_since < oldest or not idle[0].usable):
        idle.popleft().abort()
