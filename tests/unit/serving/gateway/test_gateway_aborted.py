"""Routes that end what is under way on a version."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from graft_api.routes import Arm
from graft_serving.gateway.errors import Cause


def rolled_back(kit: Any, revision: int = 2, **more: Any) -> Any:
    return kit.make_routes(revision, Arm(version=kit.OLD), **{"aborted": [kit.NEW]} | more)


async def never(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def on_new(make_world: Any, kit: Any) -> Any:
    return await make_world(routes=kit.make_routes(1, Arm(version=kit.NEW)))


async def test_a_request_without_an_answer_yet_is_to_be_asked_again(make_world: Any, kit: Any) -> None:
    world = await on_new(make_world, kit)
    world.pods[0].behave = never
    asking = asyncio.create_task(world.post(body=kit.ask()).__aenter__())
    await kit.until(lambda: world.path.in_flight() == {kit.NEW: 1})
    world.path.apply(rolled_back(kit))
    async with await asyncio.wait_for(asking, 20) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await answer.json())["error"]["code"] == "aborted"
    await asyncio.wait_for(world.pods[0].cancelled.wait(), 20)
    assert world.path.in_flight() == {}
    assert (world.recorder.all[0].version, world.recorder.all[0].cause) == (kit.NEW, Cause.ABORTED)
    assert +world.path.metrics.series("dsl", kit.NEW).troubles == {"aborted": 1}
    assert not world.path.pods.all()[0].breaker.failures
    world.pods[0].behave = None
    async with world.post(body=kit.ask()) as answer:
        assert (answer.status, answer.headers["x-graft-served-by"]) == (200, f"{kit.OLD}@e-server-0")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/chat/completions", 'data: {"error":{'),
        ("/v1/messages", 'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"'),
        ("/v1/responses", 'event: error\ndata: {"type":"error","code":"aborted"'),
    ],
)
async def test_a_stream_ends_with_an_error_as_its_client_understands_it(make_world: Any, kit: Any, path: str, says: str) -> None:
    world = await on_new(make_world, kit)

    async def begin(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await kit.stream(request, ["data: {}\n\n"], pause=60)

    world.pods[0].behave = begin
    async with world.post(path, body={"model": "dsl", "input": "hi", "messages": [], "stream": True}) as answer:
        assert await answer.content.readany() == b"data: {}\n\n"
        world.path.apply(rolled_back(kit))
        rest = (await asyncio.wait_for(answer.read(), 20)).decode()
    assert rest.startswith(says)
    assert "taken out of service" in rest
    assert json.loads(rest.partition("data: ")[2])
    await asyncio.wait_for(world.pods[0].cancelled.wait(), 20)
    await kit.until(lambda: world.recorder.all)
    assert (world.recorder.all[0].status, world.recorder.all[0].cause) == (200, Cause.ABORTED)


async def test_a_stream_whose_client_is_behind_ends_upstream_at_once(make_world: Any, kit: Any) -> None:
    world = await on_new(make_world, kit)

    async def flood(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await kit.stream(request, ["data: " + "x" * 60_000 + "\n\n"] * 2000)

    world.pods[0].behave = flood
    body = kit.compact(kit.ask(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {kit.KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", world.path.server.port, limit=1024)
    writer.write(head.encode() + body)
    await kit.until(world.path.in_flight)
    await asyncio.sleep(0.1)  # until every socket on the way is full
    world.path.apply(rolled_back(kit))
    await asyncio.wait_for(world.pods[0].cancelled.wait(), 20)
    told = b""
    while b"taken out of service" not in told[-1000:]:
        piece = await asyncio.wait_for(reader.read(1 << 20), 20)
        assert piece, "the stream ended without a word"
        told = told[-1000:] + piece
    writer.close()
    await kit.until(lambda: not world.path.in_flight())


@pytest.mark.parametrize(
    "route",
    [
        pytest.param({"aborted": []}, id="nothing is aborted"),
        pytest.param({"aborted": ["dsl-cccccccccccccccc"]}, id="another version is"),
    ],
)
async def test_what_is_not_named_finishes(make_world: Any, kit: Any, route: dict[str, Any]) -> None:
    world = await on_new(make_world, kit)
    go = asyncio.Event()

    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await go.wait()
        return await world.pods[0].answer(request, body)

    world.pods[0].behave = wait
    asking = asyncio.create_task(world.post(body=kit.ask()).__aenter__())
    await kit.until(world.path.in_flight)
    world.path.apply(rolled_back(kit, **route))
    go.set()
    async with await asking as answer:
        assert (answer.status, answer.headers["x-graft-served-by"]) == (200, f"{kit.NEW}@e-server-0")


async def test_a_version_that_is_still_routed_is_never_aborted(make_world: Any, kit: Any) -> None:
    world = await on_new(make_world, kit)
    world.path.apply(kit.make_routes(2, Arm(version=kit.NEW), aborted=[kit.NEW]))
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200


async def test_a_request_that_waits_for_its_connection_does_not_begin(make_world: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await on_new(make_world, kit)
    go, take = asyncio.Event(), world.path.connections.take

    async def slow(address: str) -> Any:
        await go.wait()
        return await take(address)

    monkeypatch.setattr(world.path.connections, "take", slow)
    asking = asyncio.create_task(world.post(body=kit.ask()).__aenter__())
    await kit.until(world.path.in_flight)
    world.path.apply(rolled_back(kit))
    go.set()
    async with await asking as answer:
        assert answer.status == 503
    assert world.pods[0].seen == []
    assert world.recorder.all[0].cause is Cause.ABORTED


async def test_an_answer_that_is_whole_is_not_taken_from_its_client(make_world: Any, kit: Any) -> None:
    world = await on_new(make_world, kit)
    text = "y" * 10_000_000

    async def long(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"model": body["model"], "text": text})

    world.pods[0].behave = long
    async with world.post(body=kit.ask()) as answer:  # its head has come, and the sockets are full
        await asyncio.sleep(0.1)
        assert world.path.in_flight()
        world.path.apply(rolled_back(kit))
        assert await answer.json() == {"model": "dsl", "text": text}
