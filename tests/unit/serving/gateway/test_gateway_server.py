"""The clients' port: paths, keys, strange bytes, what is logged and measured, and the end of the process."""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from graft_serving.gateway.access import AccessLog, access_line
from graft_serving.gateway.exchange import Exchange


async def raw(world: Any, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.path.server.port)
    writer.write(sent)
    told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.close()
    return told


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("GET", "/metrics", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1/%63hat/completions", 404),
        ("POST", "//v1/chat/completions", 404),
        ("POST", "/v1/messages/count_tokens", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/..", 404),
    ],
)
async def test_paths(make_world: Any, kit: Any, method: str, path: str, status: int) -> None:
    world = await make_world()
    told = await raw(world, f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {kit.KEY}\r\ncontent-length: 0\r\n\r\n".encode())
    assert told.startswith(f"HTTP/1.1 {status} ".encode())
    assert world.pods[0].seen == []


@pytest.mark.parametrize(
    ("version", "asked", "told"),
    [
        ("1.1", "", None),
        ("1.1", "close", "close"),
        ("1.0", "", "close"),
        ("1.0", "keep-alive", "keep-alive"),
    ],
)
async def test_an_answer_leaves_the_connection_as_the_client_wants_it(
    make_world: Any, kit: Any, version: str, asked: str, told: str | None
) -> None:
    world = await make_world()
    body = json.dumps(kit.ask()).encode()
    wish = f"connection: {asked}\r\n" if asked else ""
    head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: x\r\nx-api-key: {kit.KEY}\r\n{wish}content-length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", world.path.server.port)
    requests = 1 if told == "close" else 2
    writer.write((head.encode() + body) * requests)  # the second while the first is under way
    for _ in range(requests):
        status, *lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert status == f"HTTP/{version} 200 OK"
        assert headers.get("connection") == told
        assert abs(time.time() - parsedate_to_datetime(headers["date"]).timestamp()) < 60
        assert len(headers) == len(lines), "a header twice"
        answer = json.loads(await reader.readexactly(int(headers["content-length"])))
        assert answer["model"] == "dsl"
    if told == "close":
        assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


@pytest.mark.parametrize("key", [None, "wrong"])
async def test_without_a_key_nothing_is_told(make_world: Any, kit: Any, key: str | None) -> None:
    world = await make_world()
    headers = {"x-api-key": key} if key else {}
    async with world.session.post(world.url + "/v1/chat/completions", json=kit.ask(), headers=headers) as answer:
        assert answer.status == 401
    async with world.session.get(world.url + "/v1/models", headers=headers) as answer:
        assert answer.status == 401
    assert world.pods[0].seen == []


async def test_before_the_first_routes_clients_are_sent_away(make_world: Any, kit: Any) -> None:
    world = await make_world()
    world.path.relay.table = None
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"


async def test_every_answer_says_the_revision(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(7))
    key = {"x-api-key": kit.KEY}
    for path, headers in (("/v1/models", key), ("/v1/models/dsl", key), ("/v1/models/no", key), ("/v1/models", {}), ("/nowhere", {})):
        async with world.session.get(world.url + path, headers=headers) as answer:
            assert answer.headers["x-graft-revision"] == "7"
            assert answer.headers["x-request-id"]
    for body in (kit.ask(), kit.ask(model="no"), b"{"):
        async with world.post(body=body) as answer:
            assert answer.headers["x-graft-revision"] == "7"
    async with world.session.post(world.url + "/v1/messages", json=kit.ask()) as answer:
        assert (answer.status, answer.headers["x-graft-revision"]) == (401, "7")


async def test_without_a_token_for_the_doors_nothing_is_sent(make_world: Any, kit: Any, tmp_path: Any) -> None:
    world = await make_world()
    (tmp_path / "token").unlink()
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 503
    assert world.pods[0].seen == []
    (tmp_path / "token").write_text("another")
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200
    assert world.pods[0].seen[0][1]["authorization"] == "Bearer another"


async def test_strange_bodies_are_the_clients_error(make_world: Any, kit: Any) -> None:
    world = await make_world()
    chance = random.Random(7)  # noqa: S311
    good = json.dumps(kit.ask(stream=False, metadata={"a": "b"})).encode()
    for _ in range(150):
        body = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        async with world.post(body=bytes(body)) as answer:
            assert answer.status in (200, 400, 404)


async def test_a_client_that_waits_for_100_continue(make_world: Any, kit: Any) -> None:
    world = await make_world()
    body = json.dumps(kit.ask()).encode()
    key = f"x-api-key: {kit.KEY}"
    lines = ("POST /v1/chat/completions HTTP/1.1", "host: x", key, f"content-length: {len(body)}", "expect: 100-continue")
    head = "".join(f"{line}\r\n" for line in (*lines, ""))
    reader, writer = await asyncio.open_connection("127.0.0.1", world.path.server.port)
    writer.write(head.encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 200 OK")
    writer.close()


async def test_the_access_log_has_no_content(make_world: Any, kit: Any) -> None:
    world = await make_world()
    secret = "strictly-confidential"
    async with world.post(body=kit.ask(messages=[{"role": "user", "content": secret}]), headers={"x-conversation-id": secret}):
        pass
    line = json.loads(json.dumps(access_line(world.recorder.all[0], 0.0), default=str))
    assert (line["owner"], line["domain"], line["version"], line["status"], line["tokensIn"]) == ("team-a", "dsl", kit.OLD, 200, 7)
    assert secret not in json.dumps(line)
    assert kit.KEY not in json.dumps(line)


async def test_the_access_log_writes_what_is_left_at_the_end(make_world: Any, kit: Any) -> None:
    world = await make_world()
    async with world.post(body=kit.ask()):
        pass
    out, dropped = io.BytesIO(), [0]
    log = AccessLog(out, lambda: 0.0, dropped.append)
    log.completed(world.recorder.all[0])
    running = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert json.loads(out.getvalue())["status"] == 200


async def test_metrics_by_domain_and_version(make_world: Any, kit: Any) -> None:
    world = await make_world()
    async with world.post(body=kit.ask()):
        pass
    async with world.post(body=kit.ask(stream=True)) as answer:
        await answer.read()
    async with world.post(body=kit.ask(model="nothing")):
        pass
    await kit.until(lambda: len(world.recorder.all) == 3)
    registry = CollectorRegistry()
    registry.register(world.path.metrics)
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    own = (("domain", "dsl"), ("version", kit.OLD))
    assert samples["graft_gateway_requests_total", (("api", "chat"), ("code", "200"), *own)] == 2
    assert samples["graft_gateway_tokens_total", (("direction", "out"), *own)] == 4
    assert samples["graft_gateway_first_byte_seconds_count", own] == 2
    assert samples["graft_gateway_request_seconds_bucket", (("domain", "dsl"), ("le", "+Inf"), ("version", kit.OLD))] == 2
    assert samples["graft_gateway_in_flight", own] == 0
    assert samples["graft_gateway_refused_total", (("api", "chat"), ("cause", "unknown-model"), ("code", "404"), ("domain", ""))] == 1
    assert samples["graft_gateway_routes_revision", (("epoch", "1"),)] == 1


async def test_what_may_be_counted_begins_with_nothing(make_world: Any) -> None:
    """Prometheus does not see a counter grow that appears as 1."""
    world, registry = await make_world(), CollectorRegistry()
    registry.register(world.path.metrics)
    samples = {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    for domain, alias in world.path.relay.table.aliases.items():
        for name in ("fallbacks", "trips"):
            assert samples[f"graft_gateway_{name}_total", (domain,)] == 0
        for version in alias.versions:
            assert samples["graft_gateway_troubles_total", tuple(sorted(("upstream-error", domain, version)))] == 0
            assert samples["graft_gateway_retries_total", tuple(sorted(("unreachable", domain, version)))] == 0


async def test_series_of_versions_that_are_gone_are_forgotten(make_world: Any, kit: Any) -> None:
    world = await make_world()
    async with world.post(body=kit.ask()):
        pass
    world.path.metrics.keep(frozenset({kit.NEW, "base"}), {"dsl": [kit.NEW]})
    registry = CollectorRegistry()
    registry.register(world.path.metrics)
    assert kit.OLD not in generate_latest(registry).decode()


async def test_fallbacks_never_fall_when_versions_are_forgotten(make_world: Any, kit: Any) -> None:
    world = await make_world()
    registry = CollectorRegistry()
    registry.register(world.path.metrics)
    world.announce(world.pods[0], versions=frozenset())
    for _ in range(2):
        async with world.post(body=kit.ask()):
            pass
    assert 'graft_gateway_fallbacks_total{domain="dsl"} 2.0' in generate_latest(registry).decode()
    world.path.metrics.keep(frozenset({kit.NEW}), {"dsl": [kit.NEW]})
    assert 'graft_gateway_fallbacks_total{domain="dsl"} 2.0' in generate_latest(registry).decode()


async def test_draining_finishes_what_is_under_way_and_sends_clients_elsewhere(make_world: Any, kit: Any) -> None:
    world = await make_world(accept_seconds=0.3, grace_seconds=5.0)
    go = asyncio.Event()

    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await go.wait()
        return await world.pods[0].answer(request, body)

    world.pods[0].behave = wait
    first = asyncio.create_task(world.post(body=kit.ask()).__aenter__())
    await kit.until(world.path.in_flight)
    draining = asyncio.create_task(world.path.drain())
    await kit.until(lambda: world.path.server.draining)
    async with world.session.get(world.url + "/v1/models", headers={"x-api-key": kit.KEY}) as answer:
        assert answer.status == 200
        assert answer.headers["Connection"] == "close"
    await asyncio.sleep(0.4)
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection("127.0.0.1", world.path.server.port)
    assert not draining.done()
    go.set()
    async with await first as answer:
        assert answer.status == 200
        assert answer.headers["Connection"] == "close"
    await asyncio.wait_for(draining, 20)


async def test_a_drain_does_not_wait_for_ever(make_world: Any, kit: Any) -> None:
    world = await make_world(accept_seconds=0.0, grace_seconds=0.2)

    async def never(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    world.pods[0].behave = never
    first = asyncio.create_task(world.post(body=kit.ask()).__aenter__())
    await kit.until(world.path.in_flight)
    await asyncio.wait_for(world.path.drain(), 20)
    await asyncio.gather(first, return_exceptions=True)
    assert world.path.in_flight() == {}


async def test_a_domain_that_nobody_serves_is_counted_as_that_domain(make_world: Any, kit: Any) -> None:
    world = await make_world(routes=kit.make_routes(fallback="Error"))
    for pod in world.pods:
        world.path.pods.update(pod.name, pod.address, serving=True, versions=())
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 503
    registry = CollectorRegistry()
    registry.register(world.path.metrics)
    assert 'graft_gateway_refused_total{api="chat",cause="no-pod",code="503",domain="dsl"} 1.0' in generate_latest(registry).decode()


async def test_an_observer_that_fails_costs_no_answer(make_world: Any, kit: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def completed(self, exchange: Exchange) -> None:
            raise ValueError

    world = await make_world()
    world.path.server._observers = (Broken(), *world.path.server._observers)
    async with world.post(body=kit.ask()) as answer:
        assert answer.status == 200
    assert world.recorder.all[0].status == 200
    assert "could not be told to Broken" in caplog.text
