"""A collector on a real socket that reads what it is sent by its own means, and a gateway that tells it."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from graft_api.schema import parse
from graft_api.tee import ExchangeHead, Measuring, Tee


@dataclass(frozen=True)
class Told:
    """One frame."""

    head: ExchangeHead
    request: bytes
    answer: bytes


@dataclass(frozen=True)
class Batch:
    headers: dict[str, str]
    frames: list[Told]
    client: tuple[str, int]

    @property
    def numbered(self) -> int:
        return int(self.headers["x-graft-numbered"])

    @property
    def dropped(self) -> dict[str, int]:
        return {cause: count for cause, count in json.loads(self.headers["x-graft-dropped"]).items() if count}


def frames_of(body: bytes) -> list[Told]:
    """By the contract's words: three lengths of four bytes each, then what they are of."""
    told = []
    while body:
        head, request, answer = struct.unpack(">3I", body[:12])
        ends = 12, 12 + head, 12 + head + request, 12 + head + request + answer
        assert ends[3] <= len(body)
        parts = [body[start:end] for start, end in pairwise(ends)]
        told.append(Told(parse(ExchangeHead, json.loads(parts[0])), parts[1], parts[2]))
        body = body[ends[3] :]
    return told


class Collector:
    """`answer` decides what becomes of a batch; everything that came whole is in `batches`."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.answer: Callable[[web.Request, Batch], Awaitable[web.Response]] | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def told(self) -> list[Told]:
        return [frame for batch in self.batches for frame in batch.frames]

    @property
    def numbers(self) -> list[int]:
        return [each.head.number for each in self.told]

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/exchanges", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        assert request.content_type == "application/vnd.graft.exchanges"
        assert request.transport is not None
        headers = {name.lower(): value for name, value in request.headers.items()}
        batch = Batch(headers, frames_of(body), request.transport.get_extra_info("peername"))
        self.batches.append(batch)
        return await self.answer(request, batch) if self.answer else web.Response(status=204)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def measured(make_world: Any, kit: Any, collector: Collector, tmp_path: Any) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Returns a gateway that tells the collector of everything, but for what the caller says otherwise."""
    tasks = []

    async def make(pods: int = 1, share: int = 10_000, queue_bytes: int = 1 << 20, **settings: Any) -> Any:
        routes = kit.make_routes().model_copy(update={"tee": tee_to(collector.address, share, queue_bytes)})
        world = await make_world(pods=pods, routes=routes, collector_token_file=tmp_path / "token", **settings)
        tasks.append(asyncio.create_task(world.path.tee.sender.run()))
        return world

    yield make
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def tee_to(address: str, share: int = 10_000, queue_bytes: int = 1 << 20) -> Tee:
    return Tee(collector=address, queue_bytes=queue_bytes, domains=[Measuring(domain="dsl", share=share, salt="s")])


@pytest.fixture
def tee() -> Callable[..., Tee]:
    return tee_to
