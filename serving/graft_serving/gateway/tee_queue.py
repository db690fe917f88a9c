"""
What is kept of exchanges until the collector has them: bounded in bytes, from a request's first to its frame's last.

Every byte is charged when it is kept and given back when it is sent or dropped, so that `held` is all that the tee holds, exchanges
under way included.

Whoever is refused when the queue fills is decided by a hash of the conversation, before anything is kept: nested, so that those who
are kept at one fullness are kept at every smaller one, and blind to how long requests and answers are. Up to the bound there is room
left for the answers of those who are admitted; only beyond it exchanges under way are given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from graft_api.tee import Dropped
from graft_serving.gateway.tee_frames import Frame, size_of

SHARES = 4
"""One exchange may take this part of the queue: a long one must not push out everybody else's."""
CALM, CLOSED = 0.5, 0.75
"""Of the queue: up to the first everybody is admitted, from the second on nobody is, between them a share of conversations."""
FRAME_BYTES = 256
"""What Python takes for a frame beside its bytes."""
MOST_FRAMES = 2000
"""Of one batch: to collect more at once would hold up the loop."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames that have been taken out, oldest first."""

    frames: list[Frame]
    since: list[float]
    """When each was put in, on the loop's clock."""
    size: int
    """Bytes of all frames."""


class TeeQueue:
    """Frames in the order in which they came, and what became of those before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._frames: deque[Frame] = deque()
        self._since: deque[float] = deque()
        self._most = self._share = 0
        self.held = 0
        """Bytes of all exchanges: under way, waiting, being sent."""
        self.waiting = 0
        """Bytes of frames that wait."""
        self.unsettled = 0
        """Frames that wait or are being sent."""
        self.numbered = 0
        self.sent = 0
        self.dropped = dict.fromkeys(Dropped, 0)
        self.news = asyncio.Event()
        """Something has been put in or dropped since this was cleared."""

    def bound(self, most: int) -> None:
        """Hold at most so many bytes from now on. What is more already goes as it can."""
        self._most, self._share = most, most // SHARES

    def admits(self, conversation: bytes) -> bool:
        """Whether an exchange of this conversation may be kept. The fullness decides how many, a hash decides who."""
        share = (CLOSED * self._most - self.held) / ((CLOSED - CALM) * self._most) if self._most else 0.0
        if share >= 1:
            return True
        point = int.from_bytes(blake2b(conversation, digest_size=8, person=b"graft-tee-room").digest(), "big")
        return point < share * 2**64

    def take(self, one: int, more: int) -> Dropped | None:
        """Charge `more` bytes for an exchange that then has `one` of them. Returns why it must be given up instead, if it must."""
        self.held += more
        if one > self._share:
            return Dropped.TOO_LARGE
        return Dropped.QUEUE_FULL if self.held > self._most else None

    def drop(self, cause: Dropped, held: int, count: int = 1) -> None:
        """Exchanges with so many bytes together are given up."""
        self.held -= held
        self.dropped[cause] += count
        self.news.set()

    def put(self, frame: Frame, held: int) -> None:
        """An exchange that had `held` bytes has ended with this frame."""
        size = size_of(frame)
        self.held += size + FRAME_BYTES - held
        self.waiting += size
        self.unsettled += 1
        self._frames.append(frame)
        self._since.append(self._clock())
        self.news.set()

    def batch(self, most: int) -> Batch:
        """Take out the oldest frames, of at most so many bytes together, but at least one. Settle it, or put it back."""
        count = size = 0
        for frame in self._frames:
            length = size_of(frame)
            if count == MOST_FRAMES or (count and size + length > most):
                break
            count, size = count + 1, size + length
        return self._take_out(count, size)

    def put_back(self, batch: Batch) -> None:
        """It was not sent."""
        self._frames.extendleft(reversed(batch.frames))
        self._since.extendleft(reversed(batch.since))
        self.waiting += batch.size

    def settle(self, batch: Batch, cause: Dropped | None = None) -> None:
        """A batch has been sent, or, for a cause, will not be."""
        count = len(batch.frames)
        held = batch.size + FRAME_BYTES * count
        self.unsettled -= count
        if cause is None:
            self.held -= held
            self.sent += count
        elif count:
            self.drop(cause, held, count)

    def expire(self, seconds: float) -> None:
        """Drop what has waited for so long."""
        oldest = self._clock() - seconds
        count = size = 0
        for frame, since in zip(self._frames, self._since, strict=True):
            if since > oldest:
                break
            count, size = count + 1, size + size_of(frame)
        self.settle(self._take_out(count, size), Dropped.COLLECTOR_AWAY)

    def _take_out(self, count: int, size: int) -> Batch:
        self.waiting -= size
        return Batch([self._frames.popleft() for _ in range(count)], [self._since.popleft() for _ in range(count)], size)
