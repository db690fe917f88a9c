"""Frames of `graft_api.tee`, read and written. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from graft_api.schema import Invalid
from graft_api.tee import FRAME, ExchangeHead

LARGEST_HEAD = 65_536


class BadFrameError(ValueError):
    """Bytes that no gateway of ours sends."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of production with its answer."""

    boot: str
    """Of the gateway."""
    head: ExchangeHead
    request: bytes
    answer: bytes

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.boot}:{self.head.number}"

    @property
    def size(self) -> int:
        """Bytes of content; what else it takes is little beside them, or bounded by `OVERHEAD`."""
        return len(self.request) + len(self.answer) + OVERHEAD


OVERHEAD = 4096
"""Bytes that an exchange takes without its content, generously: so many small ones must not be free."""


def read_frames(boot: str, body: bytes) -> Iterator[Exchange]:
    """Yield the exchanges of a batch. Raises `BadFrameError`; those before it were good."""
    view, at = memoryview(body), 0
    while at < len(body):
        if len(body) - at < FRAME.size:
            raise BadFrameError("a frame is cut off")
        head, request, answer = FRAME.unpack_from(body, at)
        start = at + FRAME.size
        at = start + head + request + answer
        if at > len(body) or head > LARGEST_HEAD:
            raise BadFrameError("a frame is longer than its batch")
        ends = start + head, start + head + request
        yield Exchange(boot, _head(view[start : ends[0]]), bytes(view[ends[0] : ends[1]]), bytes(view[ends[1] : at]))


def write_frames(exchanges: Iterable[tuple[ExchangeHead, bytes, bytes]]) -> bytes:
    """Return a batch, as a gateway sends it."""
    parts: list[bytes] = []
    for head, request, answer in exchanges:
        told = head.model_dump_json(by_alias=True, exclude_none=True).encode()
        parts += [FRAME.pack(len(told), len(request), len(answer)), told, request, answer]
    return b"".join(parts)


def _head(data: memoryview) -> ExchangeHead:
    try:
        # Unknown fields are those of a newer gateway.
        return ExchangeHead.model_validate_json(bytes(data), by_alias=True, by_name=False, extra="ignore")
    except ValidationError as error:
        raise BadFrameError(f"a head is none: {Invalid.of(error)}") from None
