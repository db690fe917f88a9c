"""Exchanges in the form in which they travel, put together from the bytes that are there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import orjson

from graft_api.tee import FRAME
from graft_serving.gateway.exchange import Exchange

JOINED_BYTES = 65_536
"""A frame up to this length becomes one piece: the copy is cheaper than what its parts cost one by one. A longer one is left as it is."""
WRITE_BYTES = 65_536
"""Of one write: what the kernel takes for it holds up everybody else for some ten microseconds."""

Frame = bytes | tuple[bytes, ...]
"""
As a whole or in parts. There may be a hundred thousand, and the collector of cycles does not walk bytes: with a container for each it
would hold up everybody for milliseconds.
"""


def frame(head: bytes, request: bytes, answer: Sequence[bytes]) -> Frame:
    """Return one frame."""
    length = sum(map(len, answer))
    parts = (FRAME.pack(len(head), len(request), length), head, request, *answer)
    return parts if FRAME.size + len(head) + len(request) + length > JOINED_BYTES else b"".join(parts)


def size_of(one: Frame) -> int:
    """Return a frame's length in bytes."""
    return len(one) if isinstance(one, bytes) else sum(map(len, one))


def exchange_head(exchange: Exchange, number: int, epoch: int, named: bool, now: float) -> bytes:
    """Return `ExchangeHead` as JSON. `now` is the end of the exchange, in seconds since 1970."""
    return orjson.dumps(
        {
            "number": number,
            "requestId": exchange.request_id,
            "traceparent": exchange.trace.parent,
            "api": exchange.api,
            "domain": exchange.domain,
            "wanted": exchange.wanted,
            "version": exchange.version or None,
            "pod": exchange.pod or None,
            "epoch": epoch,
            "revision": exchange.revision,
            "conversation": exchange.conversation.hex(),
            "named": named,
            "stream": exchange.stream,
            "status": exchange.status,
            "cause": exchange.cause,
            "started": now - exchange.seconds,
            "seconds": exchange.seconds,
            "firstByteSeconds": exchange.first_byte_seconds,
            "tokensIn": exchange.tokens_in,
            "tokensOut": exchange.tokens_out,
        }
    )


def writes(frames: Iterable[Frame]) -> Iterator[list[bytes | memoryview]]:
    """Yield the frames' bytes in lists of at most `WRITE_BYTES` together."""
    pieces: list[bytes | memoryview] = []
    room = WRITE_BYTES
    for one in frames:
        for part in (one,) if isinstance(one, bytes) else one:
            for piece in _cut(part):
                if len(piece) > room:
                    yield pieces
                    pieces, room = [], WRITE_BYTES
                pieces.append(piece)
                room -= len(piece)
    if pieces:
        yield pieces


def _cut(part: bytes) -> Iterable[bytes | memoryview]:
    if len(part) <= WRITE_BYTES:
        return (part,)
    whole = memoryview(part)
    return (whole[at : at + WRITE_BYTES] for at in range(0, len(part), WRITE_BYTES))
