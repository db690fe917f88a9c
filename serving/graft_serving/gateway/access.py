"""The access log: one JSON line per request, never content, written in batches off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import BinaryIO

import orjson

from graft_serving.gateway.exchange import Exchange

FLUSH_SECONDS = 0.2
MOST_LINES = 20_000
"""So many lines wait for a slow reader of standard output; what comes then is counted and dropped."""


class AccessLog:
    """`completed` costs one line in memory."""

    def __init__(self, out: BinaryIO, now: Callable[[], float], dropped: Callable[[int], None]) -> None:
        self._out = out
        self._now = now
        self._dropped = dropped
        self._lines: list[bytes] = []

    def completed(self, exchange: Exchange) -> None:
        """Note one request that has ended."""
        if len(self._lines) < MOST_LINES:
            self._lines.append(orjson.dumps(access_line(exchange, self._now()), option=orjson.OPT_APPEND_NEWLINE))
        else:
            self._dropped(1)

    async def run(self) -> None:
        """Write until cancelled, and then what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                if self._lines:
                    await asyncio.to_thread(self._write, self._take())
        finally:
            self._write(self._take())

    def _take(self) -> list[bytes]:
        lines, self._lines = self._lines, []
        return lines

    def _write(self, lines: list[bytes]) -> None:
        self._out.write(b"".join(lines))
        self._out.flush()


def access_line(exchange: Exchange, now: float) -> dict[str, object]:
    """Return what is written of a request. Names, numbers and ids only."""
    first_byte = exchange.first_byte_seconds
    return {
        "time": datetime.fromtimestamp(now, UTC),
        "log": "access",
        "request": exchange.request_id,
        "trace": exchange.trace.trace_id,
        "api": exchange.api,
        "owner": exchange.owner,
        "domain": exchange.domain,
        "version": exchange.version,
        "pod": exchange.pod,
        "revision": exchange.revision,
        "status": exchange.status,
        "cause": exchange.cause,
        "retried": exchange.retried,
        "stream": exchange.stream,
        "ms": round(exchange.seconds * 1000, 2),
        "firstByteMs": None if first_byte is None else round(first_byte * 1000, 2),
        "tokensIn": exchange.tokens_in,
        "tokensOut": exchange.tokens_out,
        "bytesIn": exchange.bytes_in,
        "bytesOut": exchange.bytes_out,
    }
