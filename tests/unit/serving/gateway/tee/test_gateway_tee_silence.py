"""A gateway with nothing to tell says so: the collector's observed time rests on it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from graft_serving.gateway import tee_sender


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tee_sender, "SAY_SECONDS", 0.05)
    monkeypatch.setattr(tee_sender, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(tee_sender, "LONGEST_PAUSE", 0.02)


async def test_an_idle_gateway_says_that_it_is_there(measured: Any, collector: Any, kit: Any) -> None:
    await measured()
    await kit.until(lambda: len(collector.batches) >= 3)
    assert {(len(batch.frames), batch.numbered) for batch in collector.batches} == {(0, 0)}


async def test_it_goes_on_saying_so_after_a_collector_that_was_away(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    await kit.until(lambda: collector.batches)
    await collector.stop()
    await asyncio.sleep(0.1)
    told = len(collector.batches)
    await collector.start()
    await kit.until(lambda: len(collector.batches) > told + 1)
    assert world.path.tee.queue.sent == 0


async def test_with_nobody_to_tell_nothing_is_said(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    await kit.until(lambda: collector.batches)
    world.path.tee.sender.point(None)
    await asyncio.sleep(0.02)
    told = len(collector.batches)
    await asyncio.sleep(0.2)
    assert len(collector.batches) == told


async def test_what_there_is_to_tell_does_not_wait_for_it(measured: Any, collector: Any, kit: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tee_sender, "SAY_SECONDS", 60.0)
    world = await measured()
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200
    await kit.until(lambda: collector.told)


async def test_a_collector_that_refuses_is_not_asked_faster_for_it(measured: Any, collector: Any, kit: Any) -> None:
    async def refuse(_: web.Request, __: Any) -> web.Response:
        return web.Response(status=401)

    collector.answer = refuse
    await measured()
    await kit.until(lambda: collector.batches)
    await asyncio.sleep(0.25)
    assert len(collector.batches) <= 7
