# ruff: noqa: S311 -- jitter, nothing secret
import asyncio
from datetime import timedelta
from random import Random

import pytest

from graft_operator.engine.queue import Backoff, Key, QueueClosed

ONE, TWO = Key("team", "one"), Key("team", "two")


async def test_a_key_added_twice_while_it_waits_is_handed_out_once(queue):
    queue.add(ONE)
    queue.add(ONE)
    assert await queue.get() == ONE
    assert len(queue) == 0


async def test_a_key_added_while_it_is_worked_on_comes_again_only_after_done(queue):
    queue.add(ONE)
    key = await queue.get()
    queue.add(ONE)
    assert len(queue) == 0
    queue.done(key)
    assert await queue.get() == ONE


async def test_other_keys_do_not_wait_for_one_that_is_worked_on(queue):
    queue.add(ONE)
    await queue.get()
    queue.add(ONE)
    queue.add(TWO)
    assert await queue.get() == TWO


@pytest.mark.parametrize("waits", [False, True])
async def test_what_is_urgent_goes_before_all_that_waits(queue, waits):
    queue.add(ONE)
    if waits:
        queue.add(TWO)
    queue.add_first(TWO)
    assert [await queue.get(), await queue.get()] == [TWO, ONE]
    assert len(queue) == 0


async def test_what_is_urgent_and_worked_on_comes_again_only_after_done(queue):
    queue.add(ONE)
    key = await queue.get()
    queue.add_first(ONE)
    assert len(queue) == 0
    queue.done(key)
    assert await queue.get() == ONE


async def test_a_waiting_worker_gets_the_key_that_is_added_later(queue, clock, background):
    worker = background(queue.get())
    await clock.settle()
    queue.add(ONE)
    await clock.settle()
    assert worker.result() == ONE


async def test_many_waiting_workers_share_the_keys(queue, clock, background):
    workers = [background(queue.get()) for _ in range(3)]
    await clock.settle()
    queue.add(ONE)
    queue.add(TWO)
    await clock.settle()
    assert {worker.result() for worker in workers if worker.done()} == {ONE, TWO}
    assert sum(worker.done() for worker in workers) == 2


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        pytest.param([10], 10, id="a deadline comes due"),
        pytest.param([10, 30], 10, id="a later deadline does not postpone an earlier one"),
        pytest.param([30, 10], 10, id="an earlier deadline replaces a later one"),
        pytest.param([0], 0, id="a deadline of now is due at once"),
        pytest.param([-5], 0, id="a deadline that has passed is due at once"),
    ],
)
async def test_deadlines(queue, clock, background, delays, expected):
    background(queue.run())
    for delay in delays:
        queue.add_after(ONE, timedelta(seconds=delay))
    if expected:
        await clock.advance(expected - 0.1)
        assert len(queue) == 0
        await clock.advance(0.1)
    await clock.settle()
    assert len(queue) == 1


async def test_a_replaced_deadline_does_not_come_due_a_second_time(queue, clock, background):
    background(queue.run())
    queue.add_after(ONE, timedelta(seconds=30))
    queue.add_after(ONE, timedelta(seconds=10))
    await clock.advance(10)
    queue.done(await queue.get())
    await clock.advance(60)
    assert len(queue) == 0


async def test_deadlines_of_many_keys_come_due_in_order(queue, clock, background):
    background(queue.run())
    keys = [Key("team", str(number)) for number in range(5)]
    for number, key in reversed(list(enumerate(keys))):
        queue.add_after(key, timedelta(seconds=number))
    await clock.advance(10)
    assert [await queue.get() for _ in keys] == keys


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [
        pytest.param(0, 0.375, id="the first failure waits half a second less jitter"),
        pytest.param(1, 0.75, id="the second twice as long"),
        pytest.param(4, 6, id="and so on"),
        pytest.param(20, 225, id="up to five minutes"),
        pytest.param(10_000, 225, id="also after a very long outage"),
    ],
)
def test_backoff(random, failures, seconds):
    assert Backoff().delay(failures, random) == timedelta(seconds=seconds)


def test_jitter_spreads_a_backoff_over_its_upper_half():
    delays = [Backoff(first=timedelta(seconds=8)).delay(0, Random(seed)).total_seconds() for seed in range(200)]
    assert min(delays) >= 4
    assert max(delays) <= 8
    assert max(delays) - min(delays) > 3


async def test_failures_back_off_until_forgotten(queue, clock):
    assert [queue.add_backoff(ONE).total_seconds() for _ in range(3)] == [0.375, 0.75, 1.5]
    queue.forget(ONE)
    assert queue.add_backoff(ONE).total_seconds() == 0.375


async def test_a_backoff_waits_at_least_as_long_as_the_server_asked_for(queue):
    assert queue.add_backoff(ONE, at_least=timedelta(seconds=9)) == timedelta(seconds=9)


async def test_an_event_cuts_a_backoff_short(queue):
    queue.add_backoff(ONE)
    queue.add(ONE)
    assert await queue.get() == ONE


async def test_closing_wakes_waiting_workers_and_hands_out_nothing_more(queue, clock, background):
    worker = background(queue.get())
    await clock.settle()
    queue.add(ONE)
    queue.close()
    await clock.settle()
    with pytest.raises(QueueClosed):
        worker.result()
    queue.add(TWO)
    with pytest.raises(QueueClosed):
        await queue.get()


async def test_drained_waits_for_what_is_worked_on(queue, clock, background):
    queue.add(ONE)
    key = await queue.get()
    queue.close()
    drained = background(queue.drained())
    await clock.settle()
    assert not drained.done()
    queue.done(key)
    await asyncio.wait_for(drained, 20)


async def test_an_idle_queue_is_drained(queue):
    await asyncio.wait_for(queue.drained(), 20)
