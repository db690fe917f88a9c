"""
A stream on its way out: events are written where they come in, and no task wakes up for a token.

aiohttp begins and ends the answer; the chunks in between are framed here, straight to its transport.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.sse import EventStream, EventTooLong

BEHIND_BYTES = 65_536
"""A client that has left so many bytes waiting is behind: where asyncio's transports begin to hold a writer up."""


class ClientStream:
    """`begin`; then `take` is for `Connection.pour`; then `end`."""

    _writer: AbstractStreamWriter
    _transport: asyncio.Transport
    _chunked: bool

    def __init__(self, events: EventStream, exchange: Exchange, clock: Callable[[], float]) -> None:
        self._events = events
        self._exchange = exchange
        self._mirrored = exchange.mirrored
        self._clock = clock
        self.broken: EventTooLong | None = None
        """Why `take` wants no more, if it is not for a client that is behind."""

    async def begin(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Send the head of the answer. Raises ConnectionResetError."""
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        writer, transport = await response.prepare(request), request.transport
        if writer is None or transport is None:
            raise ConnectionResetError
        writer.send_headers()
        self._writer, self._transport, self._chunked = writer, transport, response.chunked
        self._exchange.status = response.status

    def take(self, data: bytes) -> bool:
        """Send the events that are whole now. Returns whether more is wanted."""
        if not self._exchange.first_byte:
            self._exchange.first_byte = self._clock()
        try:
            whole = self._events.feed(data)
        except EventTooLong as error:
            self.broken = error
            return False
        if whole:
            self.send(whole)
        return self._transport.get_write_buffer_size() <= BEHIND_BYTES

    def end(self) -> None:
        """Send what is left. Raises `EventTooLong`."""
        if self.broken is not None:
            raise self.broken
        if rest := self._events.end():
            self.send(rest)

    def send(self, data: bytes) -> None:
        """Write one chunk. To a client that is gone nothing is written: its request is about to be cancelled."""
        if not self._transport.is_closing():
            self._exchange.bytes_out += len(data)
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            if self._mirrored is not None:
                self._mirrored.keep(data)

    async def caught_up(self, seconds: float) -> None:
        """Wait for the client. Raises ConnectionResetError if it takes nothing for too long."""
        async with taken_within(seconds, self._transport):
            await self._writer.drain()


@contextlib.asynccontextmanager
async def taken_within(seconds: float, transport: asyncio.Transport | None) -> AsyncIterator[None]:
    """Give a client so long to take what is written within. Raises ConnectionResetError: it would keep its version in use for ever."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        if transport is not None:
            transport.abort()
        raise ConnectionResetError from None
