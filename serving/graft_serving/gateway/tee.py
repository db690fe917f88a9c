"""
The tee: which exchanges the endpoint's collector is told of, and what is kept of one while it is under way.

    routing: choose -> the answer, as the client gets it: keep -> its end: completed -> queue -> `tee_sender`

Nothing here waits. While a request is under way its own bytes are kept, not copies of them; an exchange for which there is no room is
given up, and counted.
"""

from __future__ import annotations

from collections.abc import Callable

from graft_api.tee import Dropped, Tee
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.repeatable import repeatable
from graft_serving.gateway.requests import Body
from graft_serving.gateway.tee_frames import exchange_head, frame
from graft_serving.gateway.tee_queue import TeeQueue

EXCHANGE_BYTES = 1024
"""What an exchange under way takes beside its bytes, its frame's head included."""
PIECE_BYTES = 64
"""What a piece of an answer takes beside its bytes."""


class Mirrored:
    """A chosen exchange under way: the request as it came, and the pieces of the answer as they went."""

    __slots__ = ("_queue", "epoch", "given_up", "held", "named", "number", "pieces", "request")

    def __init__(self, queue: TeeQueue, request: bytes, epoch: int, *, named: bool) -> None:
        self._queue = queue
        self.number = queue.numbered
        self.request = request
        self.pieces: list[bytes] = []
        self.epoch = epoch
        self.named = named
        self.held = 0
        self.given_up = False
        self._charge(len(request) + EXCHANGE_BYTES)

    def keep(self, data: bytes) -> None:
        """The client gets this next."""
        if not self.given_up:
            self.pieces.append(data)
            self._charge(len(data) + PIECE_BYTES)

    def give_up(self, cause: Dropped) -> None:
        """Keep nothing of it."""
        self._queue.drop(cause, self.held)
        self.given_up = True
        self.request = b""
        self.pieces = []

    def _charge(self, count: int) -> None:
        self.held += count
        if cause := self._queue.take(self.held, count):
            self.give_up(cause)


class ExchangeTee:
    """Copies what is chosen into the queue, while there is somebody to send it to."""

    def __init__(self, queue: TeeQueue, wall_clock: Callable[[], float]) -> None:
        self._queue = queue
        self._wall_clock = wall_clock
        self._on = False
        self.opted_out = 0
        """Requests that would have been chosen. They have no numbers."""

    def apply(self, tee: Tee | None) -> None:
        """Keep so much from now on, or nothing."""
        self._on = tee is not None
        if tee is not None:
            self._queue.bound(tee.queue_bytes)

    def choose(self, exchange: Exchange, raw: bytes, body: Body, epoch: int, *, named: bool) -> None:
        """Give the exchange its number, and keep it if it can be kept."""
        self._queue.numbered += 1
        if not repeatable(body):
            self._queue.drop(Dropped.NOT_REPEATABLE, 0)
        elif not self._queue.admits(exchange.conversation):
            self._queue.drop(Dropped.QUEUE_FULL, 0)
        else:
            mirrored = Mirrored(self._queue, raw, epoch, named=named)
            exchange.mirrored = None if mirrored.given_up else mirrored

    def completed(self, exchange: Exchange) -> None:
        """See `Observer`."""
        mirrored = exchange.mirrored
        if mirrored is None:
            return
        exchange.mirrored = None
        if mirrored.given_up:
            return
        if not self._on:
            mirrored.give_up(Dropped.COLLECTOR_AWAY)
            return
        head = exchange_head(exchange, mirrored.number, mirrored.epoch, mirrored.named, self._wall_clock())
        self._queue.put(frame(head, mirrored.request, mirrored.pieces), mirrored.held)
