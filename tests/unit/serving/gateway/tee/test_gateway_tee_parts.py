"""Samples of conversations, frames, and the bounds of the queue, each alone."""

from __future__ import annotations

import asyncio
import gc
import struct
import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from graft_api.routes import Arm
from graft_api.tee import Dropped, Measuring, Tee
from graft_serving.gateway.conversation import arm_index, cumulative_weights, named_key, salt_key, sample_of
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.tee import ExchangeTee
from graft_serving.gateway.tee_frames import JOINED_BYTES, WRITE_BYTES, frame, writes
from graft_serving.gateway.tee_queue import CLOSED, MOST_FRAMES, TeeQueue
from graft_serving.gateway.tee_sender import TeeSender
from graft_serving.gateway.trace import Trace
from graft_serving.gateway.upstream import Connections

KEYS = [named_key("team", str(number)) for number in range(10_000)]


@pytest.mark.parametrize("share", [1, 100, 2500, 5000, 9999, 10_000])
def test_the_share_of_conversations_is_the_one_asked_for(share: int) -> None:
    sample = sample_of(Measuring(domain="dsl", share=share, salt="x"))
    taken = sum(map(sample.holds, KEYS))
    assert stats.binomtest(taken, len(KEYS), share / 10_000).pvalue > 1e-4


def test_a_larger_share_keeps_those_of_the_smaller_one() -> None:
    taken = [{key for key in KEYS if sample_of(Measuring(domain="dsl", share=share, salt="x")).holds(key)} for share in (500, 2000)]
    assert taken[0] < taken[1]


def test_another_salt_is_another_sample() -> None:
    one, other = ([sample_of(Measuring(domain="dsl", share=5000, salt=salt)).holds(key) for key in KEYS] for salt in "xy")
    assert abs(stats.pearsonr(one, other).statistic) < 0.04


def test_the_sample_says_nothing_of_the_arm_also_with_the_same_salt() -> None:
    cumulative = cumulative_weights([Arm(version="a", weight=5000), Arm(version="b", weight=5000)])
    sample = sample_of(Measuring(domain="dsl", share=5000, salt="same"))
    taken = [sample.holds(key) for key in KEYS]
    arms = [arm_index(salt_key("same"), key, cumulative) for key in KEYS]
    assert abs(stats.pearsonr(taken, arms).statistic) < 0.04


def test_a_sample_stays_what_it_was() -> None:
    """Replicas and releases agree: these were computed apart."""
    sample = sample_of(Measuring(domain="dsl", share=3000, salt="s"))
    assert [number for number in range(20) if sample.holds(KEYS[number])] == [1, 4, 7, 10, 11]


sizes = st.sampled_from([0, 1, 12, 700, JOINED_BYTES - 20, JOINED_BYTES, WRITE_BYTES + 1, 3 * WRITE_BYTES])


@given(st.lists(st.tuples(sizes, sizes, st.lists(sizes, max_size=4)), max_size=4))
def test_frames_are_their_bytes_in_short_writes(shapes: list[tuple[int, int, list[int]]]) -> None:
    expected, frames = b"", []
    for number, (head, request, pieces) in enumerate(shapes):
        mark = bytes([97 + number])
        answer = [mark * size for size in pieces]
        frames.append(frame(mark * head, mark * request, answer))
        expected += struct.pack(">III", head, request, sum(pieces)) + mark * (head + request + sum(pieces))
    written = list(writes(frames))
    assert b"".join(piece for pieces in written for piece in pieces) == expected
    assert all(0 < sum(map(len, pieces)) <= WRITE_BYTES for pieces in written)


def test_long_parts_are_not_copied() -> None:
    request, answer = b"x" * JOINED_BYTES, [b"y"] * 3
    parts = frame(b"{}", request, answer)
    assert parts[2] is request
    assert all(part is answer[0] for part in parts[3:])


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def queue_of(most: int, clock: Clock | None = None) -> TeeQueue:
    queue = TeeQueue(clock or Clock())
    queue.bound(most)
    return queue


def tee_of(queue: TeeQueue, most: int) -> ExchangeTee:
    tee = ExchangeTee(queue, lambda: 1.7e9)
    tee.apply(Tee(collector="127.0.0.1:1", queue_bytes=most, domains=[]))
    return tee


def exchange(conversation: bytes = b"c" * 16) -> Exchange:
    made = Exchange("chat", "id", Trace("a" * 32, "00-" + "a" * 32 + "-" + "b" * 16 + "-00", None), 1.0, domain="dsl", wanted="v")
    made.conversation, made.version, made.pod, made.status, made.ended = conversation, "v", "p", 200, 1.5
    return made


def test_frames_that_wait_are_nothing_to_the_collector_of_cycles() -> None:
    queue = queue_of(1 << 24)
    tee = tee_of(queue, 1 << 24)
    tracked = []
    for _ in range(2):
        for _ in range(1000):
            one = exchange()
            tee.choose(one, b"x" * 1000, {}, 1, named=False)
            assert one.mirrored is not None
            one.mirrored.keep(b"y" * 500)
            tee.completed(one)
        gc.collect()
        tracked.append(len(gc.get_objects()))
    assert queue.unsettled == 2000
    assert tracked[1] - tracked[0] < 100


def test_frames_leave_in_the_order_in_which_they_came_and_come_back_in_it() -> None:
    queue = queue_of(1 << 20)
    for number in range(10):
        queue.put(bytes([number]) * 100, 0)
    first = queue.batch(250)
    queue.put_back(first)
    assert [frame[0] for frame in queue.batch(10_000).frames] == list(range(10))
    assert len(first.frames) == 2


def test_a_batch_has_one_frame_at_least_and_so_many_at_most() -> None:
    queue = queue_of(1 << 24)
    queue.put(b"x" * 5000, 0)
    assert len(queue.batch(100).frames) == 1
    for _ in range(MOST_FRAMES + 5):
        queue.put(b"x", 0)
    assert len(queue.batch(1 << 20).frames) == MOST_FRAMES


def test_what_waits_for_too_long_is_dropped() -> None:
    clock = Clock()
    queue = queue_of(1 << 20, clock)
    queue.put(b"old", 0)
    clock.now += 60
    queue.put((b"ne", b"w"), 0)
    queue.expire(60)
    assert queue.dropped[Dropped.COLLECTOR_AWAY] == 1
    left = queue.batch(100)
    assert left.frames == [(b"ne", b"w")]
    queue.settle(left)
    assert (queue.held, queue.waiting, queue.unsettled, queue.sent) == (0, 0, 0, 1)


steps = st.one_of(
    st.tuples(st.just("exchange"), st.integers(0, 400_000), st.lists(st.integers(0, 200_000), max_size=3)),
    st.tuples(st.sampled_from(["sent", "refused", "back"]), st.just(0), st.just([])),
    st.tuples(st.just("later"), st.integers(0, 90), st.just([])),
)


@given(st.lists(steps, max_size=30))
def test_every_chosen_exchange_is_somewhere_and_the_bytes_hold(story: list[tuple[str, int, list[int]]]) -> None:
    clock, most = Clock(), 1 << 20
    queue = queue_of(most, clock)
    tee = tee_of(queue, most)
    for what, size, pieces in story:
        if what == "exchange":
            one = exchange()
            tee.choose(one, b"x" * size, {}, 1, named=False)
            for piece in pieces:
                if one.mirrored is not None:
                    one.mirrored.keep(b"y" * piece)
            tee.completed(one)
        elif what == "later":
            clock.now += size
            queue.expire(60)
        else:
            batch = queue.batch(300_000)
            if what == "back":
                queue.put_back(batch)
            else:
                queue.settle(batch, Dropped.REFUSED if what == "refused" else None)
        assert queue.held <= most
        assert queue.numbered == queue.sent + sum(queue.dropped.values()) + queue.unsettled
    clock.now += 60
    queue.expire(60)
    assert (queue.held, queue.waiting, queue.unsettled) == (0, 0, 0)


def test_the_charge_covers_what_python_takes() -> None:
    """Of exchanges like those of a chat, with a list of small pieces, under way and waiting."""
    queue = queue_of(1 << 30)
    tee = tee_of(queue, 1 << 30)
    random = Random(1)  # noqa: S311 - sizes
    tracemalloc.start()
    under_way = []
    for number in range(1000):
        one = exchange()
        tee.choose(one, b"%d" % number + b"x" * random.randrange(2000), {}, 1, named=False)
        for _ in range(random.randrange(60)):
            assert one.mirrored is not None
            one.mirrored.keep(bytes(random.randrange(1, 90)))
        if number % 2:
            tee.completed(one)
        else:
            under_way.append(one.mirrored)
    del one
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < queue.held * 1.1


def test_a_queue_that_fills_drops_long_answers_no_more_than_short_ones() -> None:
    """A collector that takes a third of what comes; exchanges overlap, long ones have 40 times the bytes."""
    most = 4 << 20
    queue = queue_of(most)
    tee = tee_of(queue, most)
    under_way: list[tuple[Exchange, int]] = []
    came, kept = {1: 0, 40: 0}, {1: 0, 40: 0}
    random = Random(2)  # noqa: S311 - a simulation
    for number in range(20_000):
        one, pieces = exchange(number.to_bytes(16, "big")), random.choice([1, 40])
        tee.choose(one, b"q" * 1000, {}, 1, named=False)
        came[pieces] += 1
        under_way.append((one, pieces))
        if len(under_way) > 50:
            ended, length = under_way.pop(random.randrange(len(under_way)))
            for _ in range(length):
                if ended.mirrored is not None:
                    ended.mirrored.keep(b"a" * 500)
            kept[length] += ended.mirrored is not None and not ended.mirrored.given_up
            tee.completed(ended)
        if number % 100 == 0:
            queue.settle(queue.batch(450_000))
    shares = {length: kept[length] / came[length] for length in came}
    assert 0.1 < shares[40] < 0.9
    assert shares[40] == pytest.approx(shares[1], abs=0.02)


def test_whoever_is_kept_in_a_fuller_queue_is_kept_in_an_emptier_one() -> None:
    queue = queue_of(1 << 20)
    admitted = []
    for fullness in (0.5, 0.6, 0.7, 0.75):
        queue.held = int(fullness * (1 << 20)) + 1
        admitted.append({number for number in range(2000) if queue.admits(number.to_bytes(16, "big"))})
    assert [len(each) for each in admitted] == pytest.approx([2000, 1200, 400, 0], abs=80)
    assert admitted[0] >= admitted[1] >= admitted[2] >= admitted[3]


async def test_fifty_thousand_requests_and_a_dead_collector_take_no_more_than_the_queue() -> None:
    most = 4 << 20
    queue = queue_of(most)
    tee = tee_of(queue, most)
    sender = TeeSender(queue, Connections(1.0), lambda: "token", "boot", Random(1))  # noqa: S311 - pauses
    sender.point("127.0.0.1:1")
    running = asyncio.create_task(sender.run())
    request, answer = b"q" * 1200, b"a" * 700
    highest = 0
    for number in range(50_000):
        one = exchange(number.to_bytes(16, "big"))
        tee.choose(one, request + b"", {}, 1, named=False)
        if one.mirrored is not None:
            one.mirrored.keep(answer)
        tee.completed(one)
        highest = max(highest, queue.held)
        if number % 1000 == 0:
            await asyncio.sleep(0)
    running.cancel()
    assert CLOSED * most - 20_000 < highest <= CLOSED * most + 4000
    assert queue.dropped[Dropped.QUEUE_FULL] == 50_000 - queue.unsettled
    assert queue.unsettled > 1000
