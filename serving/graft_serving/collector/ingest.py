"""
Where gateways bring exchanges: POST /v1/exchanges.

An answer of 204 means taken, and nothing more is done before it: whatever is slow comes after. 429 means that there is no room
now. 4xx means never again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import orjson
from aiohttp import web

from graft_api.tee import BOOT_HEADER, DROPPED_HEADER, EXCHANGES_PATH, NUMBERED_HEADER, Dropped
from graft_serving.agent.tokens import Answer
from graft_serving.collector.frames import BadFrameError, Exchange, read_frames
from graft_serving.collector.numbers import Numbers

logger = logging.getLogger(__name__)

LONGEST_BODY = 320 * 1024 * 1024
"""The largest request that a gateway takes, its answer, and what frames them."""
RETRY_SECONDS = 1
CLOSE_SECONDS = 5.0

Authenticate = Callable[[str | None], Awaitable[Answer]]


class Lane(Protocol):
    """One that exchanges are offered to."""

    held: int
    """Bytes of exchanges in memory."""

    def offer(self, exchange: Exchange) -> None:
        """Take it or leave it; never waits."""


class Intake:
    """Reads batches and offers what is in them to every lane."""

    def __init__(
        self,
        lanes: Sequence[tuple[Lane, Callable[[], Numbers]]],
        room: int,
        now: Callable[[], float],
        ready: Callable[[], bool],
        contact: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Take what it needs.

        `room`: bytes of batches and exchanges that may be in memory. `now`: seconds since 1970. `ready`: what was counted before is known.
        `contact`: called after each batch that was taken, also one without exchanges.
        """
        self._lanes = lanes
        self._room = room
        self._now = now
        self._ready = ready
        self._contact = contact
        self._reading = 0
        self.stopping = False
        self.batches: Counter[int] = Counter()
        """By status."""
        self.exchanges = 0

    @property
    def held(self) -> int:
        """Bytes of batches that are being read and exchanges that are not dealt with."""
        return self._reading + sum(lane.held for lane, _ in self._lanes)

    async def take(self, request: web.Request) -> web.Response:
        """Answer a batch, whose sender is known."""
        response = await self._taken(request)
        self.batches[response.status] += 1
        return response

    async def _taken(self, request: web.Request) -> web.Response:
        length = request.content_length
        if length is None:
            return web.Response(status=411)
        if length > min(LONGEST_BODY, self._room):
            return web.Response(status=413)
        if self.stopping or not self._ready():
            return web.Response(status=503, headers={"Retry-After": str(RETRY_SECONDS)})
        if self.held + length > self._room:
            return web.Response(status=429, headers={"Retry-After": str(RETRY_SECONDS)})
        self._reading += length
        try:
            return self._read(request.headers, await request.read())
        finally:
            self._reading -= length

    def _read(self, headers: Mapping[str, str], body: bytes) -> web.Response:
        """All or nothing, in one step: half a batch would be taken again, and the numbers of the rest be missed meanwhile."""
        boot = headers.get(BOOT_HEADER, "")
        try:
            numbered, dropped = int(headers.get(NUMBERED_HEADER, "0")), _dropped(headers.get(DROPPED_HEADER, "{}"))
            if not 0 < len(boot) <= 64 or not 0 <= numbered < 2**63:
                raise BadFrameError("boot or number is none")
            exchanges = list(read_frames(boot, body))
        except ValueError as error:  # a BadFrameError is one
            logger.warning("a batch cannot be read: %s", str(error)[:200])
            return web.Response(status=400)
        lowest = min((exchange.head.number for exchange in exchanges), default=None)
        for lane, numbers in self._lanes:
            numbers().heard(boot, lowest, numbered, dropped, self._now())
            for exchange in exchanges:
                lane.offer(exchange)
            numbers().watch(self._now())
        self.exchanges += len(exchanges)
        self._contact()
        return web.Response(status=204)


def _dropped(text: str) -> dict[str, int]:
    value = orjson.loads(text)
    if not isinstance(value, dict) or not all(isinstance(count, int) and count >= 0 for count in value.values()):
        raise BadFrameError("what was dropped is no object of counts")
    known = set(Dropped)
    # A newer gateway's causes become one, so that a header cannot make as many labels as it likes.
    found: Counter[str] = Counter()
    for cause, count in value.items():
        found[cause if cause in known else "other"] += count
    return dict(found)


def application(intake: Intake, authenticate: Authenticate) -> web.Application:
    """Return what listens on the collector's port."""

    async def exchanges(request: web.Request) -> web.Response:
        answer = await authenticate(request.headers.get("Authorization"))
        if answer.status != 204:
            intake.batches[answer.status] += 1
            return web.Response(status=answer.status, headers=answer.headers)
        return await intake.take(request)

    made = web.Application(client_max_size=LONGEST_BODY)
    made.router.add_post(EXCHANGES_PATH, exchanges)
    return made


async def serve(made: web.Application, host: str, port: int) -> None:
    """Serve until cancelled."""
    runner = web.AppRunner(made, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
