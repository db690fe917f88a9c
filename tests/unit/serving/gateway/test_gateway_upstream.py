"""Connections to doors, against servers that behave in every way a server may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from graft_serving.gateway.upstream import HIGH_WATER, Broken, Connection, Connections, NotConnected, TimedOut

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Script], Awaitable[str]]
REQUEST = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(script: Script) -> str:
            async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    await script(reader, writer)
                except (asyncio.IncompleteReadError, ConnectionError):
                    pass
                finally:
                    writer.close()

            server = await stack.enter_async_context(await asyncio.start_server(once, "127.0.0.1", 0))
            return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield start


@pytest.fixture
def connections() -> Connections:
    return Connections(1.0)


def answering(*pieces: bytes, keep: bool = True) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readexactly(len(REQUEST) + 2)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005)
            if not keep:
                return

    return script


async def ask(connections: Connections, address: str, seconds: float = 2.0) -> tuple[Connection, int, bytes]:
    connection = await connections.take(address)
    try:
        answer = await connection.send(REQUEST, b"{}", seconds)
        body = b""
        while part := await connection.read(seconds):
            body += part
        return connection, answer.status, body
    finally:
        connection.done()


async def test_a_connection_is_used_again(serve: Serve, connections: Connections) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"ok"))
    first, status, body = await ask(connections, address)
    second, *_ = await ask(connections, address)
    assert (status, body) == (200, b"ok")
    assert first is second
    connections.close()


@pytest.mark.parametrize(
    ("pieces", "keep"),
    [
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n", b"1\r\nk\r\n0\r", b"\n\r\n"), True),
        ((b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncont", b"ent-length: 2\r\n\r\nok"), True),
        ((b"HTTP/1.1 200 OK\r\n\r\no", b"k"), False),
        ((b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",), False),
        ((b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",), False),
    ],
    ids=["chunked", "continue", "to the end", "HTTP/1.0", "close"],
)
async def test_every_framing(serve: Serve, connections: Connections, pieces: tuple[bytes, ...], keep: bool) -> None:
    address = await serve(answering(*pieces, keep=keep))
    first, status, body = await ask(connections, address)
    assert (status, body) == (200, b"ok")
    second, *_ = await ask(connections, address)
    assert (first is second) is keep
    connections.close()


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"HTTP/1.1 200",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nok",),
        (b"SSH-2.0-x\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000,),
    ],
    ids=["nothing", "half a head", "half a body", "no last chunk", "too much", "not HTTP", "endless head"],
)
async def test_a_broken_answer_is_broken(serve: Serve, connections: Connections, pieces: tuple[bytes, ...]) -> None:
    address = await serve(answering(*pieces, keep=False))
    with pytest.raises(Broken):
        await ask(connections, address)


async def test_nobody_there(connections: Connections) -> None:
    with pytest.raises(NotConnected):
        await connections.take("127.0.0.1:1")
    with pytest.raises(NotConnected):
        await connections.take("nonsense")


async def test_a_silent_server(serve: Serve, connections: Connections) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", b"ok"))
    with pytest.raises(TimedOut):
        await ask(connections, address, 0.05)


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(serve: Serve, connections: Connections) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", keep=False))
    first, *_ = await ask(connections, address)
    await asyncio.sleep(0.02)
    second, *_ = await ask(connections, address)
    assert first is not second


async def test_bytes_without_a_request_end_the_connection(serve: Serve, connections: Connections) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"more"))
    first, *_ = await ask(connections, address)
    await asyncio.sleep(0.03)
    assert not first.usable


async def test_a_slow_client_makes_the_pod_wait(serve: Serve, connections: Connections) -> None:
    sent = [0]
    whole = 40 * HIGH_WATER

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST) + 2)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % whole)
        while sent[0] < whole:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent[0] += 65_536

    connection = await connections.take(await serve(flood))
    await connection.send(REQUEST, b"{}", 2.0)
    await asyncio.sleep(0.1)
    assert sent[0] < whole
    received = 0
    while part := await connection.read(2.0):
        received += len(part)
    assert received == whole
    connection.done()
