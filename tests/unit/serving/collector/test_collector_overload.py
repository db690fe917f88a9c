# ruff: noqa: S311 -- simulations
"""Memory is bounded whatever the shadow does, and who is left out has nothing to do with what it does."""

import asyncio
import itertools
import json
import random

import pytest
from collector_world import METRICS, START, Does, FakeGateway, key

from graft_serving.collector.admission import PATIENCE_SECONDS, SMALLEST_SHARE, Admission
from graft_serving.collector.drawing import Purpose, place
from graft_serving.collector.journal import Clock
from graft_serving.collector.store import StoreAwayError

MIB = 1024 * 1024


def test_shares_are_nested_so_that_a_conversation_is_kept_or_left_out_whole():
    admission, now = Admission(7, 1000), 0.0
    admitted = []
    for _ in range(6):
        now += PATIENCE_SECONDS
        admitted.append({name for name in map(str, range(4000)) if admission.admits(name, 900, now)})
    assert admission.share == 2.0**-6
    for wide, narrow in itertools.pairwise(admitted):
        assert narrow < wide
        assert 0.3 < len(narrow) / len(wide) < 0.7


def test_the_share_comes_back_when_there_is_room_again():
    admission, now = Admission(7, 1000), 0.0
    for _ in range(40):
        now += PATIENCE_SECONDS
        admission.admits("x", 900, now)
    assert admission.share == SMALLEST_SHARE
    for _ in range(40):
        now += PATIENCE_SECONDS
        admission.admits("x", 0, now)
    assert admission.share == 1


def test_beyond_the_room_nobody_gets_in():
    admission = Admission(7, 1000)
    assert admission.admits("x", 999, 0.0)
    assert not admission.admits("x", 1000, 0.0)


async def test_at_the_ceiling_small_exchanges_do_not_get_in_where_large_ones_do_not(shadow, session, start):
    world = await start(shadow={"waitingBytes": MIB, "concurrency": 1})
    shadow.up = False
    gateway = FakeGateway()
    kept = [name for name in map(str, range(4000)) if place(7, Purpose.ADMISSION, key(name)) < 0.01]
    for name in kept[:2]:
        await gateway.deliver(session, world.url, [gateway.exchange("x" * 600_000, conversation=name)])
    assert (world.lane.held > MIB, world.journal.lost["overload"]) == (True, 0)
    await gateway.deliver(session, world.url, [gateway.exchange(prompt, conversation=kept[2]) for prompt in ("small", "y" * 600_000)])
    assert world.journal.lost["overload"] == 2


def test_a_shadow_that_is_slow_on_hard_prompts_does_not_choose_easy_ones():
    """Long conversations are the hard ones, and come in bursts: what is admitted is as hard as what is offered."""
    chance, admission, now, queue = random.Random(5), Admission(7, 40), 0.0, []
    offered, admitted = [], []
    for index in range(40_000):
        now += 0.5
        burst = (index // 200) % 2 == 0
        conversation = chance.randrange(3000)
        hard = conversation % 3 == 0 and (burst or conversation % 2 == 0)
        queue = [until for until in queue if until > now]
        offered.append(hard)
        if admission.admits(key(str(conversation)), len(queue), now):
            admitted.append(hard)
            queue.append(max(queue, default=now) + (3.0 if hard else 0.3))
    assert 0.05 < len(admitted) / len(offered) < 0.95, "it is overloaded, and goes on"
    share = sum(offered) / len(offered)
    assert abs(sum(admitted) / len(admitted) - share) < 0.03


@pytest.mark.parametrize("first", [Purpose.ADMISSION, Purpose.SHARE])
@pytest.mark.parametrize("second", [Purpose.CONTROL, Purpose.SHARE, Purpose.ADMISSION])
def test_admission_share_and_control_share_are_drawn_apart(first, second):
    chosen = [name for name in map(str, range(20_000)) if place(7, first, name) < 0.25]
    of_these = sum(place(7, second, name) < 0.2 for name in chosen)
    assert of_these / len(chosen) == pytest.approx(0.8 if first is second else 0.2, abs=0.02)
    assert len(chosen) == pytest.approx(5000, rel=0.1)


async def test_conversations_outside_the_share_are_as_if_they_had_never_come(shadow, session, start):
    world = await start(share="0.25", controlShare="0", metrics=[METRICS[0]])
    gateway = FakeGateway()
    batch = [gateway.exchange("q", conversation=f"c{i // 2}") for i in range(400)]
    batch += [gateway.exchange("q", conversation=f"c{i}", status=502) for i in range(200)]
    gateway.numbered += 100  # which never come
    await gateway.deliver(session, world.url, batch)
    await world.idle()
    await world.commit()
    chosen = {i for i in range(200) if place(7, Purpose.SHARE, key(f"c{i}")) < 0.25}
    assert 30 < len(chosen) < 70
    summary = world.journal.chain.total.sums["production"].summary
    assert summary.pairs.sum() == len(shadow.asked) == 2 * len(chosen)
    assert dict(summary.tallies.exclusions) == {("production-failed", "Incumbent"): len(chosen)}
    assert not world.journal.lost
    assert world.journal.numbers.state().boots["gateway-a"].settled == 600
    world.reporter._read_at = float("-inf")
    await world.commit()
    lost = world.reporter.picture(1).comparison.lost_pairs
    assert lost == -(-100 * 3 * len(chosen) // 600), "of those that never came the share is this test's"


@pytest.mark.parametrize("dead", [True, False], ids=["dead", "slow"])
async def test_with_a_dead_or_slow_shadow_memory_stays_bounded_and_everything_is_counted(dead, shadow, session, start):
    now = [0.0]
    world = await start(clock=Clock(lambda: START + now[0], lambda: now[0]), shadow={"waitingBytes": MIB, "concurrency": 2})
    shadow.up = not dead
    shadow.does = lambda version, prompt: Does(seconds=0.9)
    gateway, most = FakeGateway(), 0
    for step in range(30):
        now[0] += PATIENCE_SECONDS
        await gateway.deliver(session, world.url, [gateway.exchange("x" * 20_000, conversation=f"c{step}-{i}") for i in range(10)])
        most = max(most, world.lane.held)
    assert MIB / 2 < most <= MIB + 30_000
    lost = world.journal.lost["overload"]
    assert lost + world.lane.waiting + world.lane._asking == 300
    assert world.lane.admitted_share < 0.01
    assert len(shadow.asked) <= 2


async def test_when_there_is_no_room_gateways_are_told_to_come_back(shadow, session, start):
    world = await start(room=200_000)
    shadow.up = False
    gateway = FakeGateway()
    big = [gateway.exchange("x" * 100_000)]
    assert await gateway.send(session, world.url, big) == 204
    more = [gateway.exchange("y" * 100_000)]
    assert await gateway.send(session, world.url, more) == 429
    shadow.up = True
    await world.idle()
    assert await gateway.send(session, world.url, more) == 204
    assert await gateway.send(session, world.url, [gateway.exchange("z" * 200_000)]) == 413
    await world.idle()
    assert world.intake.held == 0


async def test_a_store_that_is_away_stops_the_workers_and_not_the_memory(shadow, session, start):
    world = await start(segments={"seconds": 3600, "bytes": 65_536}, content="Full", shadow={"waitingBytes": MIB})
    held = asyncio.Event()

    def never(_):
        held.set()
        raise StoreAwayError("away")

    world.journal.chain.commit = never
    gateway = FakeGateway()
    for _ in range(10):
        await gateway.deliver(session, world.url, [gateway.exchange("x" * 20_000) for _ in range(10)])
        await asyncio.sleep(0.02)
    await held.wait()
    assert world.lane.held <= MIB + 30_000
    assert world.journal.open.size < 65_536 + 9 * 30_000
    assert world.journal.lost["overload"] > 0
    assert world.journal.store_away


async def test_an_answer_without_end_is_cut_off(shadow, session, start, tmp_path):
    world = await start(shadow={"answerBytes": 65_536}, controlShare="1")
    shadow.does = lambda version, prompt: Does("yes " * 20_000)
    gateway = FakeGateway()
    await gateway.deliver(session, world.url, [gateway.exchange("q", stream=True)])
    await world.idle()
    await world.commit()
    assert world.journal.chain.total.sums["production"].summary.missing[0].tolist() == [0, 1]


BROKEN = {
    "half a frame": b"\x00\x00",
    "a frame beyond its batch": b"\x00\x00\x00\x05\x00\x00\xff\xff\x00\x00\x00\x00{}",
    "a head that is none": b"\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00{}",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_no_batch_is_refused_as_a_whole(body, session, start):
    world = await start()
    gateway = FakeGateway()
    async with session.post(world.url + "/v1/exchanges", data=body, headers=gateway.headers()) as response:
        assert response.status == 400
    assert not world.journal.numbers.state().boots


HEADERS = {
    "no boot": {"x-graft-boot": ""},
    "a number that is none": {"x-graft-numbered": "many"},
    "drops that are no object": {"x-graft-dropped": "[1]"},
    "drops that are no counts": {"x-graft-dropped": json.dumps({"queue-full": "x"})},
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS.keys())
async def test_headers_that_say_nothing_are_refused(headers, session, start):
    world = await start()
    async with session.post(world.url + "/v1/exchanges", data=b"", headers=FakeGateway().headers() | headers) as response:
        assert response.status == 400
