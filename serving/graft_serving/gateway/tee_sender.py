"""
From the queue to the collector: one batch at a time, over one connection that is kept, in writes that are short.

Production does not notice whether the collector is fast, slow or away: this task has nothing that a request waits for, and what the
collector does not take in time is dropped from the queue's old end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

import orjson

from graft_api.tee import (
    BOOT_HEADER,
    DROPPED_HEADER,
    EXCHANGES_PATH,
    EXCHANGES_TYPE,
    LARGEST_BATCH,
    NUMBERED_HEADER,
    Dropped,
)
from graft_serving.backoff import Backoff
from graft_serving.gateway.tee_frames import writes
from graft_serving.gateway.tee_queue import Batch, TeeQueue
from graft_serving.gateway.upstream import Answer, Broken, Connection, Connections, NotConnected, TimedOut
from graft_serving.trouble import Trouble

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.05
"""From a batch's first frame to its sending: one POST for the fifty exchanges of a gateway at 1,000 a second."""
ANSWER_SECONDS = 30.0
"""A collector that neither reads nor answers for so long is away."""
AWAY_SECONDS = 60.0
"""Frames that wait for longer are dropped, if the queue's bytes last so long."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Short, for after each pause all that has become too old meanwhile is dropped at once."""
LONGEST_WISH = 5.0
"""So much of a Retry-After is heeded."""
REMIND_SECONDS = 300.0
SAY_SECONDS = 30.0
"""With nothing to tell for so long the collector is told so: what it hears nothing of, it has not observed."""


class NotNow(Exception):  # noqa: N818 - says what happened
    """The collector may take the batch later."""

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"status {status}")
        self.seconds = seconds


class TeeSender:
    """`run` sends; `point` says to whom; `flush` is the end."""

    def __init__(self, queue: TeeQueue, connections: Connections, token: Callable[[], str], boot: str, random: Random) -> None:
        self._queue = queue
        self._connections = connections
        self._token = token
        self._boot = boot
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, random)
        self._trouble = Trouble("the collector", REMIND_SECONDS)
        self._address: str | None = None
        self._connection: Connection | None = None
        self._hurry = asyncio.Event()
        self._told = 0
        """Of all that was dropped, how much the collector has been told of."""

    def point(self, address: str | None) -> None:
        """Send there from now on; None: to nobody. What is being sent elsewhere is broken off."""
        if address == self._address:
            return
        if self._address is not None:
            self._connections.forget(self._address)
        self._address = address
        if self._connection is not None:
            self._connection.abort()
        if address is None:
            self._queue.expire(0.0)
        self._backoff.reset()
        self._hurry.set()
        self._queue.news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            address = await self._something()
            if self._queue.waiting < LARGEST_BATCH:
                await asyncio.sleep(LINGER_SECONDS)
            self._hurry.clear()
            self._queue.expire(AWAY_SECONDS)
            try:
                await self._deliver(address)
            except (NotConnected, Broken, TimedOut, NotNow, OSError, ValueError) as error:
                self._trouble.met(str(error) or type(error).__name__)
                await self._pause(error.seconds if isinstance(error, NotNow) else 0.0)
            except Exception:
                # The edge of measuring: a mistake in here must not end a process that serves production.
                logger.exception("exchanges could not be sent")
                await self._pause(LONGEST_WISH)

    async def flush(self, seconds: float) -> None:
        """Wait until all is sent, for so long at most. No exchange is under way any more."""
        self._hurry.set()
        try:
            async with asyncio.timeout(seconds):
                while self._queue.unsettled:  # noqa: ASYNC110 - looked at for once in a process's life
                    await asyncio.sleep(0.01)
        except TimeoutError:
            logger.warning("%d exchanges are lost: the collector did not take them in the time for the drain", self._queue.unsettled)

    def close(self) -> None:
        """End now."""
        self.point(None)
        self._connections.close()

    async def _something(self) -> str:
        """Wait until there is somebody to send it to, and something to send, or nothing for long enough to say so."""
        silent = False
        while self._address is None or not (self._queue.waiting or self._news() or silent):
            self._queue.news.clear()
            silent = False
            try:
                async with asyncio.timeout(None if self._address is None else SAY_SECONDS):
                    await self._queue.news.wait()
            except TimeoutError:
                silent = True
        return self._address

    def _news(self) -> bool:
        return sum(self._queue.dropped.values()) != self._told

    async def _pause(self, at_least: float) -> None:
        """Wait before the next attempt; a new address ends the wait."""
        try:
            async with asyncio.timeout(max(self._backoff.next(), min(at_least, LONGEST_WISH))):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _deliver(self, address: str) -> None:
        """Send one batch, and settle it. Raises what `run` tries again after; then the batch is in the queue."""
        connection = await self._connections.take(address)
        if address != self._address:
            connection.done()
            return
        self._connection = connection
        batch = self._queue.batch(LARGEST_BATCH)
        dropped = sum(self._queue.dropped.values())
        try:
            answer = await connection.send_pieces(self._head(batch), writes(batch.frames), ANSWER_SECONDS)
            self._settle(batch, answer)
            self._told = dropped
        except BaseException:
            self._give_back(batch)
            raise
        finally:
            self._connection = None
            connection.done()

    def _settle(self, batch: Batch, answer: Answer) -> None:
        """Raises `NotNow`."""
        status = answer.status
        if 200 <= status < 300:
            self._queue.settle(batch)
            self._trouble.over()
            self._backoff.reset()
        elif 400 <= status < 500 and status != 429:
            self._trouble.met(f"status {status}, a batch is dropped")
            self._queue.settle(batch, Dropped.REFUSED)
        else:
            raise NotNow(status, _seconds(answer.headers.get("retry-after", "")))

    def _give_back(self, batch: Batch) -> None:
        self._queue.put_back(batch)
        if self._address is None:
            self._queue.expire(0.0)

    def _head(self, batch: Batch) -> bytes:
        """Raises OSError or ValueError without a token."""
        dropped = orjson.dumps(self._queue.dropped, option=orjson.OPT_NON_STR_KEYS).decode()
        return (
            f"POST {EXCHANGES_PATH} HTTP/1.1\r\nhost: {self._address}\r\nauthorization: Bearer {self._token()}\r\n"
            f"content-type: {EXCHANGES_TYPE}\r\ncontent-length: {batch.size}\r\n{BOOT_HEADER}: {self._boot}\r\n"
            f"{NUMBERED_HEADER}: {self._queue.numbered}\r\n{DROPPED_HEADER}: {dropped}\r\n\r\n"
        ).encode("ascii")


def _seconds(text: str) -> float:
    """Return what Retry-After asks for; a date is not understood."""
    return float(text) if text.isdecimal() and len(text) < 9 else 0.0
