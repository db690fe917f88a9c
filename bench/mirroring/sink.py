"""In the collector's place: reads whatever is posted, forgets it, and answers 204, at once or after a while.

.venv/bin/python bench/mirroring/sink.py --port 9000 --delay 10
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
LENGTH = b"\r\ncontent-length: "


class Sink(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._head = b""
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            begin = self._head.lower().index(LENGTH) + len(LENGTH)
            self._left = int(self._head[begin : self._head.index(b"\r\n", begin)])
            data, self._head = self._head[end + 4 :], b""
        self._left -= len(data)
        if not self._left:
            asyncio.get_running_loop().call_later(self._delay, self._answer)

    def _answer(self) -> None:
        if self._transport is not None:
            self._transport.write(ANSWER)


async def serve(port: int, delay: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Sink(delay), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.delay))


if __name__ == "__main__":
    main()
