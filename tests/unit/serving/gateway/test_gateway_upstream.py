"""Connections to doors, against servers that behave in every way a server may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import cast
from unittest.mock import Mock

import pytest

from graft_serving.gateway.upstream import HIGH_WATER, Aborted, Broken, Connection, Connections, NotConnected, TimedOut

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Script], Awaitable[str]]
Body = Callable[[Connection, float], Awaitable[bytes]]
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


async def read(connection: Connection, seconds: float) -> bytes:
    body = b""
    while part := await connection.read(seconds):
        body += part
    return body


async def pour(connection: Connection, seconds: float) -> bytes:
    parts: list[bytes] = []
    assert await connection.pour(lambda part: bool(parts.append(part) or True), seconds)
    return b"".join(parts)


async def sip(connection: Connection, seconds: float) -> bytes:
    """Behind after every piece."""
    parts: list[bytes] = []
    ended = False
    while not ended:
        ended = await connection.pour(lambda part: bool(parts.append(part)), seconds)
        await asyncio.sleep(0.001)
    return b"".join(parts)


both = pytest.mark.parametrize("body", [read, pour, sip])


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


async def unusable(connection: Connection) -> None:
    async with asyncio.timeout(20):
        while connection.usable:  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.001)


async def ask(connections: Connections, address: str, seconds: float = 2.0, body: Body = read) -> tuple[Connection, int, bytes]:
    connection = await connections.take(address)
    try:
        answer = await connection.send(REQUEST, b"{}", seconds)
        return connection, answer.status, await body(connection, seconds)
    finally:
        connection.done()


async def test_a_connection_is_used_again(serve: Serve, connections: Connections) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"ok"))
    first, status, body = await ask(connections, address)
    second, *_ = await ask(connections, address)
    assert (status, body) == (200, b"ok")
    assert first is second
    connections.close()


@both
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
async def test_every_framing(serve: Serve, connections: Connections, body: Body, pieces: tuple[bytes, ...], keep: bool) -> None:
    address = await serve(answering(*pieces, keep=keep))
    first, status, whole = await ask(connections, address, body=body)
    assert (status, whole) == (200, b"ok")
    second, *_ = await ask(connections, address)
    assert (first is second) is keep
    connections.close()


@both
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
async def test_a_broken_answer_is_broken(serve: Serve, connections: Connections, body: Body, pieces: tuple[bytes, ...]) -> None:
    address = await serve(answering(*pieces, keep=False))
    with pytest.raises(Broken):
        await ask(connections, address, body=body)


async def test_nobody_there(connections: Connections) -> None:
    with pytest.raises(NotConnected):
        await connections.take("127.0.0.1:1")
    with pytest.raises(NotConnected):
        await connections.take("nonsense")


@both
async def test_a_silent_server(serve: Serve, connections: Connections, body: Body) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", b"ok"))
    with pytest.raises(TimedOut):
        await ask(connections, address, 0.05, body)


async def test_less_patience_than_before_counts_at_once(serve: Serve, connections: Connections) -> None:
    connection = await connections.take(await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", b"ok")))
    await connection.send(REQUEST, b"{}", 60.0)
    with pytest.raises(TimedOut):
        await asyncio.wait_for(read(connection, 0.05), 20)
    connection.abort()


class SlowClock:
    """The running loop, at a time that the test says; timers are kept for the test to fire."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.create_future = asyncio.get_running_loop().create_future

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, look: Callable[[], None]) -> Mock:
        self.timers.append((when, look))
        return Mock()

    def fire(self) -> None:
        self.now, look = self.timers.pop()
        look()


async def test_one_timer_serves_many_requests_and_ends_none_too_early() -> None:
    clock = SlowClock()
    connection = Connection("a:1", cast("asyncio.AbstractEventLoop", clock), Mock())
    connection.connection_made(Mock(is_closing=lambda: False))
    for _ in range(3):
        first = asyncio.create_task(connection.send(REQUEST, b"{}", 10.0))
        await asyncio.sleep(0)
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await first
        clock.now += 1.0
    assert [when for when, _ in clock.timers] == [110.0]
    late = asyncio.create_task(connection.send(REQUEST, b"{}", 10.0))  # at 103
    await asyncio.sleep(0)
    clock.fire()
    await asyncio.sleep(0)
    assert not late.done()
    assert [when for when, _ in clock.timers] == [113.0]
    clock.fire()
    with pytest.raises(TimedOut):
        await late


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(serve: Serve, connections: Connections) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", keep=False))
    first, *_ = await ask(connections, address)
    await unusable(first)
    second, *_ = await ask(connections, address)
    assert first is not second


async def test_bytes_without_a_request_end_the_connection(serve: Serve, connections: Connections) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"more"))
    first, *_ = await ask(connections, address)
    await unusable(first)


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


async def test_a_stream_that_goes_on_is_not_silent(serve: Serve, connections: Connections) -> None:
    """The limit is on the time between two pieces, not on the answer."""
    pieces = (b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n", *[b"x"] * 40)
    _, status, body = await ask(connections, await serve(answering(*pieces)), 0.1, pour)
    assert (status, body) == (200, b"x" * 40)


async def test_who_is_behind_gets_what_came_meanwhile(serve: Serve, connections: Connections) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    connection = await connections.take(await serve(answering(head, b"a", b"b", b"c")))
    await connection.send(REQUEST, b"{}", 2.0)
    parts: list[bytes] = []
    assert not await connection.pour(lambda part: bool(parts.append(part)), 2.0)
    while connection._waiting < 2:  # noqa: ASYNC110 - any condition
        await asyncio.sleep(0.001)
    assert parts == [b"a"]
    assert await connection.pour(lambda part: bool(parts.append(part) or True), 2.0)
    assert parts == [b"a", b"bc"]
    connection.done()


async def test_a_connection_to_a_pod_that_is_gone_closes_when_its_request_is_done(serve: Serve, connections: Connections) -> None:
    address = await serve(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"ok"))
    connection = await connections.take(address)
    await connection.send(REQUEST, b"{}", 2.0)
    connections.forget(address)
    assert await read(connection, 2.0) == b"ok"
    connection.done()
    await unusable(connection)
    again, *_ = await ask(connections, address)
    assert again is not connection
    connections.close()


async def test_a_body_in_pieces_waits_for_a_server_that_reads_slowly(serve: Serve, connections: Connections) -> None:
    go = asyncio.Event()
    received = bytearray()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        while len(received) < 20_000_000:
            received.extend(await reader.read(1 << 20))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await reader.read()

    taken = []

    def pieces() -> Iterator[list[bytes | memoryview]]:
        for number in range(200):
            taken.append(number)
            yield [bytes([number]) * 50_000, memoryview(bytes([number]) * 50_000)]

    connection = await connections.take(await serve(script))
    sending = asyncio.create_task(connection.send_pieces(b"POST / HTTP/1.1\r\ncontent-length: 20000000\r\n\r\n", pieces(), 2.0))
    await asyncio.sleep(0.1)
    assert len(taken) < 150
    go.set()
    assert (await sending).status == 204
    assert bytes(received) == b"".join(bytes([number]) * 100_000 for number in range(200))
    connection.done()
    assert await connections.take(connection.address) is connection
    connection.abort()


async def test_an_answer_before_the_end_of_the_body_ends_the_connection(serve: Serve, connections: Connections) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")
        await asyncio.sleep(1)

    connection = await connections.take(await serve(script))
    answer = await connection.send_pieces(
        b"POST / HTTP/1.1\r\ncontent-length: 90000000\r\n\r\n", ([b"x" * 100_000] for _ in range(900)), 2.0
    )
    assert answer.status == 429
    connection.done()
    assert not connection.usable


@pytest.mark.parametrize("reads", [True, False], ids=["it closes", "it is silent"])
async def test_a_server_that_does_not_take_the_body(serve: Serve, connections: Connections, reads: bool) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if reads:
            writer.transport.abort()
        else:
            await asyncio.sleep(0.5)

    connection = await connections.take(await serve(script))
    pieces = ([b"x" * 100_000] for _ in range(900))
    with pytest.raises(Broken if reads else TimedOut):
        await connection.send_pieces(b"POST / HTTP/1.1\r\ncontent-length: 90000000\r\n\r\n", pieces, 0.1)
    connection.done()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


@both
async def test_a_request_that_is_broken_off_gives_nothing_of_its_answer(serve: Serve, connections: Connections, body: Body) -> None:
    closed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST) + 2)
        writer.write(HEAD + b"ok")
        await reader.read()
        closed.set()

    connection = await connections.take(await serve(script))
    await connection.send(REQUEST, b"{}", 2.0)
    connection.break_off()
    with pytest.raises(Aborted):
        await body(connection, 2.0)
    connection.done()
    assert not connection.usable
    await asyncio.wait_for(closed.wait(), 20)


async def test_who_waits_for_an_answer_is_told_at_once(serve: Serve, connections: Connections) -> None:
    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    connection = await connections.take(await serve(script))
    waiting = asyncio.create_task(connection.send(REQUEST, b"{}", 60.0))
    await asyncio.sleep(0)
    connection.break_off()
    with pytest.raises(Aborted):
        await asyncio.wait_for(waiting, 20)


@both
async def test_an_answer_that_is_whole_is_not_broken_off(serve: Serve, connections: Connections, body: Body) -> None:
    connection = await connections.take(await serve(answering(HEAD + b"ok", b"ay")))
    await connection.send(REQUEST, b"{}", 2.0)
    await asyncio.sleep(0.05)
    connection.break_off()
    assert await body(connection, 2.0) == b"okay"
    connection.done()
    assert connection.usable
    connections.close()
