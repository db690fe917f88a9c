"""Callers, reports, a clock that a test moves, and an API server that is an aiohttp application."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from graft_api.reports import ProgressReport
from graft_api.schema import parse
from graft_operator.engine.credentials import Credentials
from graft_operator.engine.kube import Kube
from graft_operator.reports.sink import Caller


class FakeClock:
    """Time passes when a test says so, and in `sleep`, which records how long it was asked to."""

    def __init__(self) -> None:
        self.start = datetime(2026, 11, 20, 12, tzinfo=UTC)
        self.elapsed = 0.0
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float, wakeup: asyncio.Event | None = None) -> None:
        self.sleeps.append(seconds)
        until = self.elapsed + seconds
        while self.elapsed < until and not (wakeup and wakeup.is_set()):  # noqa: ASYNC110 - it waits for a number to grow
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        self.elapsed += seconds
        await settle()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def caller() -> Callable[..., Caller]:
    def make(**changes: str) -> Caller:
        values = {
            "pod_name": "tune-train-1-abcde",
            "pod_uid": "pod-1",
            "pod_created_at": "2026-11-20T12:00:00Z",
            "namespace": "team",
            "service_account": "graft-trainer",
            "job_name": "tune-train-1",
            "job_uid": "job-1",
            "owner_name": "tune",
            "owner_uid": "tune-1",
        }
        return Caller(**{**values, **changes})

    return make


@pytest.fixture
def progress() -> Callable[..., ProgressReport]:
    return lambda step=1: parse(ProgressReport, {"attempt": 1, "progress": {"stage": "train", "step": step}})


class FakeApiServer:
    """Answers gets from `objects` and TokenReviews from `reviews`, and counts what it was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.reviews: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.broken = False
        self.url = ""

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if self.broken:
            return web.json_response({"reason": "InternalError"}, status=500)
        if request.path.endswith("/tokenreviews"):
            token = (await request.json())["spec"]["token"]
            return web.json_response({"status": self.reviews.get(token, {"authenticated": False})}, status=201)
        if request.path in self.objects:
            return web.json_response(self.objects[request.path])
        return web.json_response({"reason": "NotFound"}, status=404)


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    fake = FakeApiServer()
    async with TestServer(fake.application()) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


@pytest.fixture
async def kube(api: Any) -> AsyncIterator[Kube]:
    async with Kube(Credentials(api.url, "graft-system", ssl.create_default_context())) as client:
        yield client
