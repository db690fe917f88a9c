"""A collector that is away, slow, full or refuses: production does not notice, and what is lost is known."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from graft_api.dataplane import collector_audience
from graft_serving.gateway import tee_sender
from graft_serving.gateway.settings import settings_from
from graft_serving.rotated_file import token_file


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tee_sender, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(tee_sender, "LONGEST_PAUSE", 0.05)


async def ask(world: Any, kit: Any, count: int = 1, **more: Any) -> None:
    for _ in range(count):
        async with world.post(body=kit.ask(**more)) as answer:
            assert answer.status == 200


def answers(*statuses: int, **headers: str) -> Any:
    """One after the other, then 204."""
    left = list(statuses)

    async def answer(_: web.Request, __: Any) -> web.Response:
        return web.Response(status=left.pop(0) if left else 204, headers=headers)

    return answer


async def hang(_: web.Request, __: Any) -> web.Response:
    await asyncio.sleep(60)
    raise AssertionError


async def test_many_exchanges_go_in_one_batch_over_one_connection(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    for total in (20, 40):
        await asyncio.gather(*(ask(world, kit) for _ in range(20)))
        await kit.until(lambda total=total: len(collector.told) == total)
    assert len(collector.batches) <= 6
    assert len({batch.client for batch in collector.batches}) == 1
    assert sorted(collector.numbers) == list(range(1, 41))
    await kit.until(lambda: (world.path.tee.queue.sent, world.path.tee.queue.held) == (40, 0))


@pytest.mark.parametrize("statuses", [(429, 503), (500, 502, 504)])
async def test_a_batch_that_is_refused_for_now_comes_again(measured: Any, collector: Any, kit: Any, statuses: tuple[int, ...]) -> None:
    world = await measured()
    collector.answer = answers(*statuses, **{"Retry-After": "0"})
    await ask(world, kit, 3)
    await kit.until(lambda: world.path.tee.queue.sent == 3)
    assert sorted(told.head.number for batch in collector.batches[len(statuses) :] for told in batch.frames) == [1, 2, 3]
    assert collector.batches[-1].dropped == {}


@pytest.mark.parametrize("status", [400, 401, 404, 413])
async def test_a_batch_that_is_refused_is_dropped_and_told_of(measured: Any, collector: Any, kit: Any, status: int) -> None:
    world = await measured()
    collector.answer = answers(status)
    await ask(world, kit, 2)
    await kit.until(lambda: collector.batches and collector.batches[-1].dropped)
    refused = len(collector.batches[0].frames)
    assert collector.batches[-1].dropped == {"refused": refused}
    await kit.until(lambda: world.path.tee.queue.sent == 2 - refused)
    await kit.until(lambda: not world.path.tee.queue.held)


async def test_nobody_is_told_again_and_again_of_the_same_drops(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    collector.answer = answers(*[400] * 1000)
    await ask(world, kit)
    await kit.until(lambda: len(collector.batches) == 2)
    await asyncio.sleep(0.2)
    assert len(collector.batches) == 2
    assert collector.batches[1].frames == []


async def test_while_the_collector_is_away_exchanges_wait(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    await ask(world, kit)
    await kit.until(lambda: collector.told)
    await collector.stop()
    await ask(world, kit, 5)
    await asyncio.sleep(0.1)
    await collector.start()
    await kit.until(lambda: len(collector.told) == 6)
    assert sorted(collector.numbers) == [1, 2, 3, 4, 5, 6]
    await kit.until(lambda: not world.path.tee.queue.held)


async def test_a_lost_answer_brings_the_same_numbers_again(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()

    async def vanish(request: web.Request, _: Any) -> web.Response:
        collector.answer = None
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    collector.answer = vanish
    await ask(world, kit)
    await kit.until(lambda: len(collector.batches) == 2)
    assert collector.numbers == [1, 1]
    assert collector.told[0] == collector.told[1]
    await kit.until(lambda: not world.path.tee.queue.held)
    assert world.path.tee.queue.sent == 1


async def test_production_does_not_wait_for_a_slow_collector(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    collector.answer = hang
    await ask(world, kit)
    await kit.until(lambda: collector.batches)
    began = time.perf_counter()
    await ask(world, kit, 20)
    await ask(world, kit, 5, stream=True)
    assert time.perf_counter() - began < 1
    queue = world.path.tee.queue
    await kit.until(lambda: queue.unsettled == 26)
    assert (queue.sent, queue.numbered) == (0, 26)
    assert 0 < queue.held < 26 * 4096


async def test_another_address_holds_at_once_also_for_what_is_on_its_way(measured: Any, collector: Any, kit: Any, tee: Any) -> None:
    world = await measured()
    collector.answer = hang
    await ask(world, kit)
    await kit.until(lambda: collector.batches)
    second = type(collector)()
    await second.start()
    world.path.apply(kit.make_routes(2).model_copy(update={"tee": tee(second.address)}))
    await kit.until(lambda: second.told)
    assert second.numbers == [1]
    await second.stop()


async def test_a_collector_that_is_gone_from_the_routes_gets_nothing_more(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    collector.answer = hang
    await ask(world, kit)
    await kit.until(lambda: collector.batches)
    await ask(world, kit)
    go = asyncio.Event()

    async def later(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await go.wait()
        return await world.pods[0].answer(request, body)

    world.pods[0].behave = later
    asking = asyncio.create_task(ask(world, kit))
    await kit.until(world.path.in_flight)
    world.path.apply(kit.make_routes(2))
    go.set()
    await asking
    queue = world.path.tee.queue
    await kit.until(lambda: not queue.held)
    assert (queue.dropped["collector-away"], queue.unsettled, len(collector.batches)) == (3, 0, 1)


async def test_without_a_token_exchanges_wait_for_it(measured: Any, collector: Any, kit: Any, tmp_path: Any) -> None:
    world = await measured()
    world.path.tee.sender._token = token_file(tmp_path / "late").read
    await ask(world, kit)
    await asyncio.sleep(0.1)
    assert collector.batches == []
    (tmp_path / "late").write_text("late\n")
    await kit.until(lambda: collector.told)
    assert collector.batches[0].headers["authorization"] == "Bearer late"


async def test_long_exchanges_pass_whole(measured: Any, collector: Any, kit: Any) -> None:
    """Longer than what is joined, than one write, and together than one batch."""
    world = await measured(queue_bytes=64 << 20)
    text = "".join(chr(97 + number % 26) for number in range(3_000_000))
    seen = []

    async def long(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text=kit.compact({"choices": [], "text": text}), content_type="application/json")

    world.pods[0].behave = long
    bodies = [kit.compact(kit.ask(user=str(number) * 300_000)).encode() for number in range(3)]
    for body in bodies:
        async with world.post(body=body) as answer:
            seen.append(await answer.read())
    await kit.until(lambda: len(collector.told) == 3)
    assert [told.request for told in collector.told] == bodies
    assert [told.answer for told in collector.told] == seen
    assert all(len(batch.frames) == 1 for batch in collector.batches)
    await kit.until(lambda: not world.path.tee.queue.held)


async def test_one_exchange_takes_its_share_at_most(measured: Any, collector: Any, kit: Any) -> None:
    """The share is a quarter of a mebibyte: a long request and a long stream are given up, others not."""
    world = await measured()

    async def pour(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await kit.stream(request, [f'data: {{"model":"{body["model"]}","x":"{"y" * 10_000}"}}\n\n'] * 40)

    await ask(world, kit, user="x" * 300_000)
    world.pods[0].behave = pour
    async with world.post(body=kit.ask(stream=True)) as answer:
        assert len(await answer.read()) > 400_000
    world.pods[0].behave = None
    await ask(world, kit)
    await kit.until(lambda: collector.told)
    assert collector.numbers == [3]
    assert collector.batches[-1].dropped == {"too-large": 2}
    await kit.until(lambda: not world.path.tee.queue.held)


async def test_a_full_queue_drops_what_comes_and_says_so(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    collector.answer = hang
    queue = world.path.tee.queue
    body = kit.compact(kit.ask(user="x" * 100_000)).encode()
    for _ in range(15):
        await ask_raw(world, body)
        assert queue.held <= 1 << 20
    assert 7 <= queue.dropped["queue-full"] <= 10, "beyond three quarters nobody is admitted"
    collector.answer = None
    await collector.stop()
    await collector.start()
    kept = 15 - queue.dropped["queue-full"]
    await kit.until(lambda: queue.sent == kept)
    assert set(collector.numbers) == set(range(1, kept + 1))
    await kit.until(lambda: collector.batches[-1].dropped == {"queue-full": 15 - kept})
    assert collector.batches[-1].numbered == 15


async def ask_raw(world: Any, body: bytes) -> None:
    async with world.post(body=body) as answer:
        assert answer.status == 200


async def test_losses_of_a_killed_gateway_can_be_counted(measured: Any, collector: Any, kit: Any) -> None:
    """Requests that are under way have their numbers: what the last batch told is what must come."""
    world = await measured()

    async def never(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body.get("user") == "lost":
            await asyncio.sleep(60)
        return await world.pods[0].answer(request, body)

    world.pods[0].behave = never
    lost = [asyncio.create_task(ask(world, kit, user="lost")) for _ in range(3)]
    await kit.until(lambda: sum(world.path.in_flight().values()) == 3)
    await ask(world, kit, 2, user="x" * 300_000)
    await ask(world, kit, 2)
    await kit.until(lambda: len(collector.told) == 2)
    last = collector.batches[-1]
    assert last.numbered - len(set(collector.numbers)) - sum(last.dropped.values()) == 3
    for task in lost:
        task.cancel()


async def test_a_drain_waits_for_the_collector(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured(accept_seconds=0.0, grace_seconds=1.0, flush_seconds=1.0)
    await ask(world, kit, 7)
    await world.path.drain()
    assert sorted(collector.numbers) == list(range(1, 8))


async def test_a_drain_does_not_wait_for_ever(measured: Any, collector: Any, kit: Any, caplog: pytest.LogCaptureFixture) -> None:
    world = await measured(accept_seconds=0.0, grace_seconds=1.0, flush_seconds=0.2)
    collector.answer = hang
    await ask(world, kit, 2)
    began = time.perf_counter()
    await world.path.drain()
    assert 0.15 < time.perf_counter() - began < 1
    assert "2 exchanges are lost" in caplog.text
    assert "hi" not in caplog.text.split()


def test_the_token_lies_where_the_operator_mounts_it() -> None:
    assert settings_from({}).collector_token_file == Path("/graft/collector/token")
    assert settings_from({"GRAFT_GATEWAY_COLLECTOR_TOKEN": "/x"}).collector_token_file == Path("/x")
    assert collector_audience("prod") == "graft.dev/collector/prod"


async def test_a_mistake_of_the_sender_does_not_end_the_process(
    measured: Any, collector: Any, kit: Any, caplog: Any, monkeypatch: Any
) -> None:
    world = await measured()
    monkeypatch.setattr(tee_sender, "LONGEST_WISH", 0.01)
    head, calls = world.path.tee.sender._head, []

    def fail_once(batch: Any) -> bytes:
        calls.append(batch)
        return head(batch) if len(calls) > 1 else b"" + 1  # type: ignore[operator]

    monkeypatch.setattr(world.path.tee.sender, "_head", fail_once)
    await ask(world, kit)
    await kit.until(lambda: collector.told)
    assert collector.numbers == [1]
    assert "exchanges could not be sent" in caplog.text


async def test_what_prometheus_sees(measured: Any, collector: Any, kit: Any) -> None:
    world = await measured()
    collector.answer = answers(400)
    await ask(world, kit)
    await kit.until(lambda: world.path.tee.queue.dropped["refused"])
    await ask(world, kit)
    async with world.post(body=kit.ask(), headers={"x-graft-no-mirror": "1"}) as answer:
        assert answer.status == 200
    await kit.until(lambda: world.path.tee.queue.sent)
    samples = {
        (sample.name, sample.labels.get("cause", "")): sample.value
        for metric in world.path.tee.metrics.collect()
        for sample in metric.samples
    }
    assert samples["graft_gateway_tee_chosen_total", ""] == 2
    assert samples["graft_gateway_tee_opted_out_total", ""] == 1
    assert samples["graft_gateway_tee_sent_total", ""] == 1
    assert samples["graft_gateway_tee_dropped_total", "refused"] == 1
    assert samples["graft_gateway_tee_dropped_total", "too-large"] == 0
    assert samples["graft_gateway_tee_queue_bytes", ""] == 0
