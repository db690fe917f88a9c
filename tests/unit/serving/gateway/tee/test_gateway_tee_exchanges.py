"""What the collector is told of requests through a whole gateway: which, and what of them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import pytest
from aiohttp import web

from graft_api.routes import DomainLimits, GatewaySettings
from graft_api.tee import OPT_OUT_HEADER, Measuring

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
}
NAMES = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/responses": "responses", "/v1/messages": "messages"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", BODIES)
async def test_every_api_is_told_as_the_client_saw_it(measured: Any, collector: Any, kit: Any, path: str, stream: bool) -> None:
    world = await measured()
    # Spaces and a field that the gateway changes on the way up: the client's own bytes are told.
    raw = (kit.compact({"model": "dsl", "stream": stream, "temperature": 0.5} | BODIES[path]) + "  ").encode()
    began = time.time()
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    async with world.post(path, raw, headers={"x-request-id": "mine", "traceparent": trace}) as answer:
        seen = await answer.read()
    await kit.until(lambda: collector.told)
    (told,) = collector.told
    assert (told.request, told.answer) == (raw, seen)
    head = told.head
    assert (head.number, head.request_id, head.api, head.domain) == (1, "mine", NAMES[path], "dsl")
    assert (head.wanted, head.version, head.pod) == (kit.OLD, kit.OLD, "e-server-0")
    assert (head.epoch, head.revision, head.stream, head.status, head.cause) == (1, 1, stream, 200, None)
    assert (head.tokens_in, head.tokens_out) == (7, 2)
    assert head.traceparent.startswith("00-" + "a" * 32)
    assert head.first_byte_seconds is not None
    assert 0 < head.first_byte_seconds <= head.seconds < 1
    assert abs(head.started - began) < 0.5
    assert not head.named
    assert head.conversation == world.recorder.all[0].conversation.hex()
    assert world.recorder.all[0].mirrored is None


async def test_who_asks_is_proven_and_no_key_of_a_client_is_told(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200
    await kit.until(lambda: collector.batches)
    (batch,) = collector.batches
    assert batch.headers["authorization"] == "Bearer door-token"
    assert batch.headers["x-graft-boot"] == "boot"
    assert (batch.numbered, batch.dropped) == (1, {})
    assert kit.KEY not in repr(batch)


async def test_the_name_of_a_conversation_makes_its_key(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    for content in ("hi", "something else"):
        messages = [{"role": "user", "content": content}]
        async with world.post(body=kit.ask(messages=messages), headers={"x-conversation-id": "c"}) as answer:
            assert answer.status == 200
    await kit.until(lambda: len(collector.told) == 2)
    assert all(told.head.named for told in collector.told)
    assert len({told.head.conversation for told in collector.told}) == 1


async def test_an_error_of_vllms_is_told(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()

    async def fail(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no", "type": "x", "param": None, "code": 500}}, status=500)

    world.pods[0].behave = fail
    async with world.post(body=kit.ask()) as answer:
        seen = await answer.read()
    await kit.until(lambda: collector.told)
    head = collector.told[0].head
    assert (head.status, head.cause, head.version, collector.told[0].answer) == (500, "upstream-error", kit.OLD, seen)


async def test_an_answer_that_no_pod_gave_is_told(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    world.path.pods.remove("e-server-0")
    async with world.post(body=kit.ask()) as answer:
        seen = await answer.read()
    await kit.until(lambda: collector.told)
    head = collector.told[0].head
    assert (head.status, head.cause, head.version, head.pod) == (503, "no-pod", None, None)
    assert collector.told[0].answer == seen


async def test_a_stream_that_breaks_is_told_with_its_end(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()

    async def cut(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = await kit.stream(request, ['data: {"choices":[]}\n\n'])
        assert request.transport is not None
        request.transport.abort()
        return response

    world.pods[0].behave = cut
    async with world.post(body=kit.ask(stream=True)) as answer:
        seen = await answer.read()
    await kit.until(lambda: collector.told)
    assert collector.told[0].head.cause == "broken"
    assert b'"code":"broken"' in seen
    assert collector.told[0].answer == seen


async def test_a_request_that_a_second_pod_answered_is_told_once(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured(pods=2)

    async def refuse(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=503, text="<html>", headers={"x-graft-not-started": "1"})

    world.pods[0].behave = refuse
    for number in range(6):
        messages = [{"role": "user", "content": str(number)}]
        async with world.post(body=kit.ask(messages=messages)) as answer:
            assert answer.status == 200
    assert any(exchange.retried for exchange in world.recorder.all)
    await kit.until(lambda: len(collector.told) >= 6)
    assert sorted(collector.numbers) == [1, 2, 3, 4, 5, 6]
    assert {told.head.pod for told in collector.told} == {"e-server-1"}
    assert all(told.answer.count(b"chatcmpl-1") == 1 for told in collector.told)


async def test_a_client_that_leaves_is_told_with_what_it_got(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()

    async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await kit.stream(request, [f'data: {{"model":"{body["model"]}","choices":[{n}]}}\n\n' for n in range(1000)], 0.01)

    world.pods[0].behave = endless
    async with world.post(body=kit.ask(stream=True)) as answer:
        first = await answer.content.readuntil(b"\n\n")
    await kit.until(lambda: collector.told)
    told = collector.told[0]
    assert (told.head.status, told.head.cause) == (499, "client-gone")
    assert told.answer.startswith(first)
    assert told.answer.endswith(b"\n\n")
    await kit.until(lambda: not world.path.tee.queue.held)


async def test_a_client_that_leaves_before_its_answer_is_told(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()

    async def hang(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(30)
        raise AssertionError

    world.pods[0].behave = hang
    asking = asyncio.create_task(world.post(body=kit.ask()).__aenter__())
    await kit.until(world.path.in_flight)
    asking.cancel()
    await kit.until(lambda: collector.told)
    assert (collector.told[0].head.status, collector.told[0].answer) == (499, b"")


async def test_who_opts_out_is_not_told_and_uses_no_number(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    for headers in ({OPT_OUT_HEADER: "1"}, {OPT_OUT_HEADER: ""}, {}):
        async with world.post(body=kit.ask(), headers=headers) as answer:
            assert answer.status == 200
    await kit.until(lambda: collector.told)
    assert (collector.numbers, collector.batches[-1].numbered) == ([1], 1)
    assert world.path.tee.exchanges.opted_out == 2
    await kit.until(lambda: not world.path.tee.queue.held)


async def test_requests_that_are_refused_before_they_are_routed_are_not_chosen(measured: Any, collector: Any, kit: Any, tee: Any) -> None:
    world = await measured()
    routes = kit.make_routes(2, limits=DomainLimits(requests_per_minute=6))
    world.path.apply(routes.model_copy(update={"tee": tee(collector.address)}))
    statuses = []
    for body in (kit.ask(model="nobody"), kit.ask(), kit.ask()):
        async with world.post(body=body) as answer:
            statuses.append(answer.status)
    assert statuses == [404, 200, 429]
    await kit.until(lambda: collector.told)
    assert collector.batches[-1].numbered == 1


SERVERS_TOOLS = [
    ("/v1/chat/completions", {"web_search_options": {"search_context_size": "low"}}),
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "browser_search"}]}),
    ("/v1/responses", {"tools": [{"type": "web_search_preview"}]}),
    ("/v1/responses", {"tools": [{"type": "mcp", "server_label": "x", "server_url": "http://x"}]}),
    ("/v1/responses", {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
    ("/v1/messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    ("/v1/messages", {"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]}),
    ("/v1/messages", {"container": "c_1"}),
]
CLIENTS_TOOLS = [
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("/v1/responses", {"tools": [{"type": "function", "name": "f", "parameters": {}}], "input": [{"role": "user", "content": "hi"}]}),
    ("/v1/messages", {"tools": [{"name": "f", "input_schema": {}}, {"type": "custom", "name": "g", "input_schema": {}}]}),
    ("/v1/completions", {"prompt": "x"}),
    ("/v1/chat/completions", {"tools": [], "mcp_servers": []}),
]


@pytest.mark.parametrize(("path", "more"), SERVERS_TOOLS)
async def test_what_would_act_twice_is_served_and_not_told(
    measured: Any, collector: Any, kit: Any, path: str, more: dict[str, Any]
) -> None:
    world = await measured()
    async with world.post(path, {"model": "dsl"} | BODIES[path] | more) as answer:
        assert answer.status == 200
    await kit.until(lambda: collector.batches)
    assert (collector.told, collector.batches[0].numbered) == ([], 1)
    assert collector.batches[0].dropped == {"not-repeatable": 1}
    await kit.until(lambda: not world.path.tee.queue.held)


@pytest.mark.parametrize(("path", "more"), CLIENTS_TOOLS)
async def test_tools_of_the_client_are_told(measured: Any, collector: Any, kit: Any, path: str, more: dict[str, Any]) -> None:
    world = await measured()
    async with world.post(path, {"model": "dsl"} | BODIES[path] | more) as answer:
        assert answer.status == 200
    await kit.until(lambda: collector.told)


async def test_a_share_of_conversations_takes_part_and_stays(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured(share=3000)
    for _ in range(2):
        for number in range(60):
            async with world.post(body=kit.ask(), headers={"x-conversation-id": str(number)}) as answer:
                assert answer.status == 200
    key = hashlib.blake2b(b"s", digest_size=32).digest()
    chosen = 0
    for exchange in world.recorder.all:
        digest = hashlib.blake2b(exchange.conversation, digest_size=8, key=key, person=b"graft-measuring").digest()
        chosen += int.from_bytes(digest, "big") / 2**64 < 0.3
    assert 0 < chosen < 120
    await kit.until(lambda: len(collector.told) == chosen)
    counts = [sum(each.head.conversation == told.head.conversation for each in collector.told) for told in collector.told]
    assert set(counts) == {2}


async def test_other_domains_and_other_times_are_not_measured(measured: Any, collector: Any, kit: Any, tee: Any) -> None:
    world = await measured()
    other = tee(collector.address).model_copy(update={"domains": [Measuring(domain="base", share=10_000, salt="s")]})
    world.path.apply(kit.make_routes(2, gateway=GatewaySettings()).model_copy(update={"tee": other}))
    for model in ("dsl", "base"):
        async with world.post(body=kit.ask(model=model)) as answer:
            assert answer.status == 200
    await kit.until(lambda: collector.told)
    assert [told.head.domain for told in collector.told] == ["base"]
    world.path.apply(kit.make_routes(3))
    async with world.post(body=kit.ask(model="base")) as answer:
        assert answer.status == 200
    assert world.path.tee.queue.numbered == 1
