"""Sessions to an API server: how they end. Who is at the other end is asked in tests/api."""

import asyncio
import socket
import ssl
import threading
import warnings
from datetime import UTC, datetime

import uvloop

from graft_operator.engine.credentials import Credentials
from graft_operator.reports.certificates import renewed

ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n"


def watched(tmp_path):
    """A TLS server on a port that begins to answer, goes on for ever, and never says farewell; and whom to trust for it."""
    material = renewed(None, ["localhost"], datetime.now(UTC))
    for name, content in (("key", material.key), ("chain", material.chain), ("authority", material.bundle)):
        (tmp_path / name).write_text(content)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    listening, streams = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        stream = server.wrap_socket(listening.accept()[0], server_side=True)
        stream.recv(65536)
        stream.sendall(ANSWER)
        streams.append(stream)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listening, streams, ssl.create_default_context(cafile=str(tmp_path / "authority"))


def test_nothing_of_a_watch_that_is_given_up_is_left_when_the_loop_ends(tmp_path):
    listening, streams, trust = watched(tmp_path)
    server = f"https://localhost:{listening.getsockname()[1]}"

    async def give_up():
        session, begun = Credentials(server, "default", trust).open_session(), asyncio.Event()

        async def watch():
            async with session.get(server) as response:
                async for _ in response.content:
                    begun.set()

        watching = asyncio.create_task(watch())
        await begun.wait()
        watching.cancel()
        await asyncio.wait([watching])
        await session.close()

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        uvloop.run(give_up())
    for opened in (listening, *streams):
        opened.close()
    assert [str(one.message) for one in warned] == []
