"""Requests through a whole gateway to pods that speak as vLLM does."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from aiohttp import web

from graft_api.routes import Arm, DomainLimits, GatewayLimits, GatewaySettings, KeyLimits
from graft_serving.gateway.errors import Cause


async def test_the_answer_names_the_alias_and_says_what_served_it(make_world: Any, kit: Any) -> None:
    world = await make_world()
    async with world.post(body=kit.ask()) as answer:
        told = await answer.json()
    assert told["model"] == "dsl"
    assert told["choices"][0]["message"]["content"] == "Hello"
    assert answer.headers["x-graft-served-by"] == f"{kit.OLD}@e-server-0"
    assert answer.headers["x-graft-revision"] == "1"
    assert world.pods[0].seen[0][2]["model"] == kit.OLD


async def test_the_door_gets_its_token_and_nothing_of_the_clients(make_world: Any, kit: Any) -> None:
    world = await make_world()
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    headers = {"traceparent": parent, "tracestate": "x=1", "x-request-id": "mine", "Cookie": "c=1", "X-data-parallel-rank": "3"}
    async with world.post(body=kit.ask(), headers=headers) as answer:
        assert answer.headers["x-request-id"] == "mine"
    seen = world.pods[0].seen[0][1]
    assert seen.pop("traceparent").startswith("00-" + "a" * 32)
    assert seen["authorization"] == "Bearer door-token"
    assert seen["x-request-id"] == "mine"
    assert sorted(seen) == ["authorization", "content-length", "content-type", "host", "tracestate", "x-request-id"]


@pytest.mark.parametrize("model", ["dsl-aaaaaaaaaaaaaaaa", "/etc/passwd", "..", "../x", "DSL", "dsl "])
async def test_only_an_alias_is_a_model(make_world: Any, kit: Any, model: str) -> None:
    world = await make_world()
    async with world.post(body=kit.ask(model=model)) as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "model_not_found"
    assert world.pods[0].seen == []


async def test_a_stream_passes_without_the_usage_chunk_that_nobody_asked_for(make_world: Any, kit: Any) -> None:
    world = await make_world()
    async with world.post(body=kit.ask(stream=True)) as answer:
        text = await answer.text()
    assert answer.content_type == "text/event-stream"
    assert '"choices":[]' not in text
    assert kit.OLD not in text
    assert text.endswith("data: [DONE]\n\n")
    await kit.until(lambda: world.recorder.all)
    assert (world.recorder.all[0].tokens_in, world.recorder.all[0].tokens_out) == (7, 2)


async def test_a_stream_keeps_the_usage_chunk_that_was_asked_for(make_world: Any, kit: Any) -> None:
    world = await make_world()
    async with world.post(body=kit.ask(stream=True, stream_options={"include_usage": True})) as answer:
        assert '"choices":[],"usage":{"prompt_tokens":7' in await answer.text()


async def test_a_switch_in_the_middle_of_requests_never_mixes(make_world: Any, kit: Any) -> None:
    world = await make_world()
    go = asyncio.Event()

    async def slow(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await go.wait()
        return await world.pods[0].answer(request, body)

    world.pods[0].behave = slow

    async def one() -> str:
        async with world.post(body=kit.ask()) as answer:
            assert (await answer.json())["model"] == "dsl"
            return answer.headers["x-graft-revision"] + answer.headers["x-graft-served-by"]

    before = [asyncio.create_task(one()) for _ in range(5)]
    await kit.until(lambda: world.path.in_flight() == {kit.OLD: 5})
    world.path.apply(kit.make_routes(2, Arm(version=kit.NEW)))
    after = [asyncio.create_task(one()) for _ in range(5)]
    await kit.until(lambda: world.path.in_flight() == {kit.OLD: 5, kit.NEW: 5})
    go.set()
    assert set(await asyncio.gather(*before)) == {f"1{kit.OLD}@e-server-0"}
    assert set(await asyncio.gather(*after)) == {f"2{kit.NEW}@e-server-0"}
    assert world.path.in_flight() == {}


@pytest.mark.parametrize("pause", [0.01, 0.0], ids=["between events", "while much is written"])
async def test_a_client_that_leaves_ends_the_upstream_request(
    make_world: Any, kit: Any, caplog: pytest.LogCaptureFixture, pause: float
) -> None:
    world = await make_world()

    async def endless(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await kit.stream(request, ["data: {}\n\n"] * 100_000, pause=pause)

    world.pods[0].behave = endless
    async with world.post(body=kit.ask(stream=True)) as answer:
        await answer.content.readany()
    await asyncio.wait_for(world.pods[0].cancelled.wait(), 20)
    await kit.until(lambda: not world.path.in_flight() and world.recorder.all)
    assert (world.recorder.all[0].status, world.recorder.all[0].cause) == (499, Cause.CLIENT_GONE)
    assert [record for record in caplog.records if record.name.startswith("aiohttp.server")] == []


async def test_a_client_that_leaves_before_the_answer_ends_the_upstream_request(make_world: Any, kit: Any) -> None:
    world = await make_world()

    async def never(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    world.pods[0].behave = never
    asking = asyncio.create_task(world.post(body=kit.ask()).__aenter__())
    await kit.until(world.path.in_flight)
    asking.cancel()
    await asyncio.wait_for(world.pods[0].cancelled.wait(), 20)
    await kit.until(lambda: not world.path.in_flight())


def not_started(status: int = 503) -> Any:
    async def refuse(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=status, headers={"x-graft-not-started": "1"})

    return refuse


def plainly(status: int) -> Any:
    async def fail(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "boom", "code": status}}, status=status)

    return fail


async def bare_502(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
    return web.Response(status=502, text="<html>nginx</html>", content_type="text/html")


def says(status: int, message: str) -> Any:
    async def fail(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(
            {"error": {"message": message, "type": "InternalServerError", "param": None, "code": status}}, status=status
        )

    return fail


DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


@pytest.mark.parametrize(
    ("behave", "left_alone"),
    [
        pytest.param(says(500, "Cannot connect to host image.test:80"), False, id="a request's own error"),
        pytest.param(says(503, "try again"), False, id="vLLM's own 503"),
        pytest.param(says(500, f"no image at http://x/{DEAD}"), False, id="the words of a dead engine, but a client's"),
        pytest.param(says(500, DEAD), True, id="a dead engine"),
        pytest.param(bare_502, True, id="the door's 502"),
    ],
)
async def test_a_client_cannot_close_a_pod_to_all_others(make_world: Any, kit: Any, behave: Any, left_alone: bool) -> None:
    world = await make_world()
    world.pods[0].behave = behave
    for _ in range(4):
        async with world.post(body=kit.ask()) as answer:
            assert answer.status >= 500
    assert world.path.pods.all()[0].breaker.is_open is left_alone


@pytest.mark.parametrize("behave", [not_started(502), not_started(503), plainly(401), plainly(403)], ids=["502", "503", "401", "403"])
async def test_a_request_that_was_not_started_goes_to_another_pod_once(make_world: Any, kit: Any, behave: Any) -> None:
    world = await make_world(pods=2)
    world.pods[0].behave = behave
    for turn in range(8):
        async with world.post(body=kit.ask(), headers={"x-conversation-id": str(turn)}) as answer:
            assert answer.status == 200
            assert answer.headers["x-graft-served-by"].endswith("@e-server-1")
    assert len(world.pods[1].seen) == 8
    assert 0 < len(world.pods[0].seen) <= 3  # then its circuit is open


async def test_nobody_is_asked_a_third_time(make_world: Any, kit: Any) -> None:
    world = await make_world(pods=3)
    for pod in world.pods:
        pod.behave = not_started()
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
    assert sum(len(pod.seen) for pod in world.pods) == 2


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_what_may_have_been_started_is_never_asked_again(make_world: Any, kit: Any, status: int) -> None:
    world = await make_world(pods=2)
    for pod in world.pods:
        pod.behave = plainly(status)
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == status
    assert sum(len(pod.seen) for pod in world.pods) == 1


async def test_a_connection_that_breaks_after_the_request_was_sent_is_not_asked_again(make_world: Any, kit: Any) -> None:
    world = await make_world(pods=2)

    async def drop(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    for pod in world.pods:
        pod.behave = drop
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 502
    assert sum(len(pod.seen) for pod in world.pods) == 1


async def test_an_unreachable_pod_costs_nothing_but_a_retry(make_world: Any, kit: Any) -> None:
    world = await make_world(pods=1)
    world.path.pods.update("gone", f"127.0.0.1:{kit.unused_port()}", True, {kit.OLD})
    for turn in range(6):
        async with world.post(body=kit.ask(), headers={"x-conversation-id": str(turn)}) as answer:
            assert answer.status == 200
    assert {exchange.retried for exchange in world.recorder.all} <= {None, Cause.UNREACHABLE}
    assert Cause.UNREACHABLE in {exchange.retried for exchange in world.recorder.all}


async def test_a_version_that_vllm_lost_falls_back_to_the_base_model(make_world: Any, kit: Any) -> None:
    world = await make_world()
    world.pods[0].served = frozenset()  # its agent has announced it, though
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200
        assert answer.headers["x-graft-served-by"] == "base@e-server-0"
        assert (await answer.json())["model"] == "dsl"
    assert world.recorder.all[0].retried is Cause.VERSION_MISSING
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200
    assert [body["model"] for _, _, body in world.pods[0].seen] == [kit.OLD, "base", "base"]


async def test_only_a_model_that_is_missing_takes_the_version_from_its_pod(make_world: Any, kit: Any) -> None:
    world = await make_world()

    async def no_such_image(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": f"{body['model']}: the image does not exist", "code": 404}}, status=404)

    world.pods[0].behave = no_such_image
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["message"] == "dsl: the image does not exist"
    assert len(world.pods[0].seen) == 1
    assert world.path.reach()[kit.OLD] == 1
    world.pods[0].behave = None
    async with world.post(body=kit.ask()) as answer:
        assert answer.headers["x-graft-served-by"] == f"{kit.OLD}@e-server-0"


async def test_the_time_to_the_first_byte_is_that_of_the_answer(make_world: Any, kit: Any) -> None:
    world = await make_world()

    async def lost(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == "base":
            await asyncio.sleep(0.1)
            return await world.pods[0].answer(request, body)
        error = {"message": f"The model `{body['model']}` does not exist.", "type": "not_found_error"}
        return web.json_response({"type": "error", "error": error}, status=404)

    world.pods[0].behave = lost
    async with world.post("/v1/messages", body=kit.ask(max_tokens=1)) as answer:
        assert answer.headers["x-graft-served-by"] == "base@e-server-0"
    assert world.recorder.all[0].first_byte_seconds >= 0.1


async def test_a_pod_without_even_the_base_model_is_not_asked_for_it_twice(make_world: Any, kit: Any) -> None:
    world = await make_world(pods=2)

    async def unknown(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "The model `base` does not exist."}}, status=404)

    world.pods[0].behave = unknown
    for turn in range(6):
        async with world.post(body=kit.ask(model="base"), headers={"x-conversation-id": str(turn)}) as answer:
            assert answer.status == 200


async def test_a_version_on_no_pod_is_served_by_the_base_model(make_world: Any, kit: Any) -> None:
    world = await make_world()
    world.announce(world.pods[0], versions=frozenset())
    async with world.post(body=kit.ask()) as answer:
        assert answer.headers["x-graft-served-by"] == "base@e-server-0"
        assert (await answer.json())["model"] == "dsl"


async def test_or_refused_where_the_domain_says_so(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(fallback="Error"))
    world.announce(world.pods[0], versions=frozenset())
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 503
        assert "Retry-After" in answer.headers
    assert world.pods[0].seen == []


async def test_vllms_own_errors_pass_with_the_alias_in_them(make_world: Any, kit: Any) -> None:
    world = await make_world()

    async def too_long(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": f"{body['model']}: maximum context length is 8", "code": 400}}, status=400)

    world.pods[0].behave = too_long
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["message"] == "dsl: maximum context length is 8"


async def test_a_page_of_the_doors_nginx_is_not_passed_on(make_world: Any, kit: Any) -> None:
    world = await make_world()

    async def page(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=504, text="<html>nginx</html>", content_type="text/html")

    world.pods[0].behave = page
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 502
        assert (await answer.json())["error"]["code"] == "broken"


LIMITS = GatewaySettings(limits=GatewayLimits(max_body_bytes=2048, first_byte_seconds=1, idle_seconds=1))


async def test_a_pod_that_never_begins_to_answer_is_given_up(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(gateway=LIMITS))

    async def never(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    world.pods[0].behave = never
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 504
    await asyncio.wait_for(world.pods[0].cancelled.wait(), 20)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_stream_that_stops_in_the_middle_says_so(make_world: Any, kit: Any, path: str) -> None:
    world = await make_world(routes=kit.make_routes(gateway=LIMITS))

    async def stall(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await kit.stream(request, ["data: {}\n\n"], pause=60)

    world.pods[0].behave = stall
    body = {"model": "dsl", "input": "hi", "messages": [], "stream": True}
    async with world.post(path, body=body) as answer:
        text = await answer.text()
    assert "the model server has stopped" in text
    assert text.startswith("data: {}\n\n")
    assert world.recorder.all[0].cause is Cause.IDLE_TIMEOUT


async def slow_client(world: Any, kit: Any, asked: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask, and read nothing but what the sockets hold."""
    body = kit.compact(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {kit.KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", world.path.server.port, limit=1024)
    writer.write(head.encode() + body)
    await kit.until(world.path.in_flight)
    return reader, writer


async def test_a_client_that_stops_reading_is_given_up(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(gateway=LIMITS))

    async def flood(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await kit.stream(request, ["data: " + "x" * 60_000 + "\n\n"] * 2000)

    world.pods[0].behave = flood
    _, writer = await slow_client(world, kit, kit.ask(stream=True))
    await asyncio.wait_for(world.pods[0].cancelled.wait(), 20)
    await kit.until(lambda: not world.path.in_flight() and world.recorder.all)
    assert (world.recorder.all[0].status, world.recorder.all[0].cause) == (499, Cause.CLIENT_GONE)
    writer.close()


async def test_a_client_of_http_1_0_gets_the_stream_as_it_is(make_world: Any, kit: Any) -> None:
    world = await make_world()
    body = kit.compact(kit.ask(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.0\r\nx-api-key: {kit.KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", world.path.server.port)
    writer.write(head.encode() + body)
    answer = await asyncio.wait_for(reader.read(), 20)
    sent, _, events = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in sent.lower()
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")
    writer.close()


async def test_all_requests_together_take_so_many_bytes(make_world: Any, kit: Any) -> None:
    world = await make_world(memory_bytes=3000)
    go = asyncio.Event()

    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await go.wait()
        return await world.pods[0].answer(request, body)

    async def pieces(body: bytes) -> Any:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]
            await asyncio.sleep(0)

    world.pods[0].behave = wait
    long = kit.compact(kit.ask(user="x" * 2000)).encode()
    first = asyncio.create_task(world.post(body=long).__aenter__())
    await kit.until(world.path.in_flight)
    for body in (long, pieces(long)):
        async with world.session.post(world.url + "/v1/chat/completions", data=body, headers={"x-api-key": kit.KEY}) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert (await answer.json())["error"]["code"] == "overloaded"
    go.set()
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200
    async with await first as answer:
        assert answer.status == 200
    async with world.post(body=long) as answer:
        assert answer.status == 200


async def test_bytes_of_requests_that_failed_are_given_back(make_world: Any, kit: Any) -> None:
    world = await make_world(memory_bytes=1_000_000, routes=kit.make_routes(gateway=LIMITS))

    async def endless() -> Any:
        while True:
            yield b"x" * 100

    for body in (b"{", kit.compact(kit.ask(model="nobody")).encode(), endless()):
        async with world.session.post(world.url + "/v1/chat/completions", data=body, headers={"x-api-key": kit.KEY}) as answer:
            assert answer.status in (400, 404, 413)
    _, writer = await asyncio.open_connection("127.0.0.1", world.path.server.port)
    writer.write(f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {kit.KEY}\r\ncontent-length: 900\r\n\r\n{{".encode())
    await kit.until(lambda: world.path.bodies.held)
    writer.close()
    await kit.until(lambda: not world.path.bodies.held)


async def test_a_body_beyond_the_limit_is_refused(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(gateway=LIMITS))

    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 100

    for body in (b"x" * 4000, pieces()):
        async with world.session.post(world.url + "/v1/completions", data=body, headers={"x-api-key": kit.KEY}) as answer:
            assert answer.status == 413


async def test_a_domain_may_do_so_much_at_a_time(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(limits=DomainLimits(concurrent=1)))
    go = asyncio.Event()

    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await go.wait()
        return await world.pods[0].answer(request, body)

    world.pods[0].behave = wait
    first = asyncio.create_task(world.post(body=kit.ask()).__aenter__())
    await kit.until(world.path.in_flight)
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 429
    go.set()
    async with await first as answer:
        assert answer.status == 200
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200


async def test_a_key_may_ask_so_often(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(gateway=GatewaySettings(per_key=KeyLimits(requests_per_minute=12))))
    statuses = []
    for _ in range(4):
        async with world.post(body=kit.ask()) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 200, 429, 429]
    assert int(answer.headers["Retry-After"]) in (4, 5)


async def test_what_a_parsed_body_takes_counts_beside_its_bytes(make_world: Any, kit: Any) -> None:
    world = await make_world(memory_bytes=30_000)
    for body, status in ((kit.ask(user="x" * 20_000), 200), (kit.ask(extra=[[]] * 300), 503), (kit.ask(), 200)):
        async with world.post(body=kit.compact(body).encode()) as answer:
            assert answer.status == status


async def test_a_long_answer_counts_as_under_way_until_its_client_has_it(make_world: Any, kit: Any) -> None:
    world = await make_world()
    text = "y" * 20_000_000

    async def long(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"model": body["model"], "text": text})

    world.pods[0].behave = long
    reader, writer = await slow_client(world, kit, kit.ask())
    await asyncio.sleep(0.1)
    assert world.path.in_flight()
    sent = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: (\d+)", sent)[1])
    got = await reader.readexactly(length)
    assert json.loads(got) == {"model": "dsl", "text": text}
    await kit.until(lambda: not world.path.in_flight())
    writer.close()


async def test_a_client_that_does_not_take_a_long_answer_is_given_up(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(gateway=LIMITS))

    async def long(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"model": body["model"], "text": "y" * 20_000_000})

    world.pods[0].behave = long
    _, writer = await slow_client(world, kit, kit.ask())
    await kit.until(lambda: not world.path.in_flight() and world.recorder.all)
    assert (world.recorder.all[0].status, world.recorder.all[0].cause) == (499, Cause.CLIENT_GONE)
    writer.close()
