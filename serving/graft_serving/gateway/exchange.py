"""One request from its first byte to its last: what is measured, logged and, once it has ended, handed to observers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from graft_serving.gateway.errors import Cause
from graft_serving.gateway.trace import Trace

if TYPE_CHECKING:
    from graft_serving.gateway.tee import Mirrored


@dataclass(slots=True)
class Exchange:
    """Filled in as the request goes on; holds no content itself."""

    api: str
    request_id: str
    trace: Trace
    started: float
    """On the event loop's clock."""
    owner: str = ""
    domain: str = ""
    wanted: str = ""
    """The version that the route names."""
    version: str = ""
    """The version that serves: `wanted`, or `base` as its fallback."""
    pod: str = ""
    revision: int = 0
    conversation: bytes = b""
    stream: bool = False
    retried: Cause | None = None
    status: int = 0
    cause: Cause | None = None
    first_byte: float = 0.0
    ended: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    mirrored: Mirrored | None = None
    """What the collector will be told, if this exchange is measured; gone once it has ended."""

    @property
    def seconds(self) -> float:
        """From the request to the end of its answer."""
        return self.ended - self.started

    @property
    def first_byte_seconds(self) -> float | None:
        """From the request to the first byte of the answer's body; for a stream that is its first token."""
        return self.first_byte - self.started if self.first_byte else None


class Observer(Protocol):
    """Is told of every request that has ended. Must not wait."""

    def completed(self, exchange: Exchange) -> None:
        """One request has ended, well or not."""
