# ruff: noqa: S311 -- simulations
import random

import pytest

from graft_serving.collector import numbers as module
from graft_serving.collector.numbers import CAME_LATE, LONGEST_SECONDS, SILENT_SECONDS, UNDER_WAY_SECONDS, Numbers

NOW = 1_800_000_000.0
LATER = NOW + SILENT_SECONDS + 1


def heard(numbers, lowest, numbered, now=NOW, boot="a", **dropped):
    numbers.heard(boot, lowest, numbered, dropped, now)


def brought(numbers, *found, boot="a", now=NOW):
    taken = [number for number in found if numbers.take(boot, number)]
    for number in taken:
        numbers.settle(boot, number)
    numbers.watch(now)
    return taken


def test_every_number_is_taken_once_in_whatever_order_and_across_restarts():
    chance, numbers = random.Random(3), Numbers()
    heard(numbers, 1, 500)
    sent = [chance.randint(1, 500) for _ in range(3000)]
    taken = []
    for index, number in enumerate(sent):
        taken += brought(numbers, number)
        if index % 250 == 0:
            numbers = Numbers(numbers.state())
    assert sorted(taken) == sorted(set(sent))


def test_an_open_number_is_a_duplicate_now_and_new_after_a_crash():
    numbers = Numbers()
    heard(numbers, 1, 1)
    assert numbers.take("a", 1)
    written = numbers.state()
    assert not numbers.take("a", 1)
    again = Numbers(written)
    assert again.take("a", 1)


def test_what_a_killed_gateway_numbered_and_never_sent_is_lost():
    numbers = Numbers()
    heard(numbers, 1, 10, **{"queue-full": 2})
    brought(numbers, 1, 2, 3, 4)
    assert numbers.lost(LATER) == {"queue-full": 2, "never-came": 4}
    assert Numbers(numbers.state()).lost(LATER) == {"queue-full": 2, "never-came": 4}


UNDER_WAY = {
    "read: what is open or under way is not lost": (Numbers.read, NOW, {}),
    "read of a gateway that is dead: what it never sent is": (Numbers.read, LATER, {"never-came": 4}),
    "gone on with: all of it": (Numbers, NOW, {"never-came": 6}),
    "gone on with when the gateway is dead": (Numbers, LATER, {"never-came": 6}),
}


@pytest.mark.parametrize(("made", "now", "lost"), UNDER_WAY.values(), ids=UNDER_WAY.keys())
def test_whoever_reads_knows_what_is_under_way_and_whoever_goes_on_has_lost_it(made, now, lost):
    numbers = Numbers()
    heard(numbers, 1, 4)
    brought(numbers, 1, 2, 3, 4)
    heard(numbers, 5, 10)
    assert numbers.take("a", 5)
    assert numbers.take("a", 6)
    written = numbers.state()
    assert (written.boots["a"].held, written.boots["a"].least) == (2, 0)
    assert made(written).lost(now) == lost
    assert Numbers.read(made(written).state()).lost(now) == lost, "and writes down what it knows"


def test_what_was_open_in_a_crash_and_is_sent_again_is_not_lost():
    numbers = Numbers()
    heard(numbers, 1, 3)
    brought(numbers, 1)
    assert numbers.take("a", 2)
    assert numbers.take("a", 3)
    again = Numbers(numbers.state())
    heard(again, 2, 3)
    assert brought(again, 2) == [2]
    assert again.lost(LATER) == Numbers.read(again.state()).lost(LATER) == {"never-came": 1}


def test_what_has_long_been_lost_is_lost_for_readers_too():
    numbers, now = Numbers(), NOW
    heard(numbers, 1, 5)
    brought(numbers, 1, 2, 5)
    for number in range(6, 60):
        now += UNDER_WAY_SECONDS / 20
        heard(numbers, number, number + 1, now)  # the higher one is under way
        brought(numbers, number, now=now)
    assert numbers.lost(now) == Numbers.read(numbers.state()).lost(now) == {"never-came": 3}


def test_who_ends_has_lost_what_is_open():
    numbers = Numbers()
    heard(numbers, 1, 2)
    assert numbers.take("a", 1)
    brought(numbers, 2)
    numbers.let_go()
    assert Numbers.read(numbers.state()).lost(LATER) == {"never-came": 1}


def test_of_what_a_gateway_numbered_before_nothing_is_held():
    numbers = Numbers()
    heard(numbers, 990, 1000)
    assert numbers.take("a", 990)
    assert numbers.state().boots["a"].held == 0
    assert Numbers.read(numbers.state()).lost(LATER) == {}


def test_a_long_answer_is_under_way_and_not_lost():
    numbers = Numbers()
    now = NOW
    for first in range(1, 200, 2):  # there is always one under way, now and then none
        now += 10
        heard(numbers, first, first + 1, now)
        brought(numbers, first, now=now)
        if first % 20 == 1:
            brought(numbers, *range(1, first + 2), now=now)
        assert numbers.lost(now) in ({}, {"never-came": 1})
    assert numbers.lost(now).get("never-came", 0) <= 1


def test_what_is_missing_for_long_while_the_gateway_goes_on_is_lost():
    numbers, now = Numbers(), NOW
    heard(numbers, 1, 1, now)
    brought(numbers, 1)
    heard(numbers, 5, 5, now)  # 2, 3 and 4 died with an earlier collector
    brought(numbers, 5)
    for number in range(6, 200):
        now += UNDER_WAY_SECONDS / 50
        heard(numbers, number, number, now)
        brought(numbers, number, now=now)
    assert numbers.lost(now) == {"never-came": 3}


def test_a_gateway_that_was_there_before_owes_only_what_it_numbers_from_now_on():
    numbers = Numbers()
    heard(numbers, 990, 1000, **{"queue-full": 70})
    assert brought(numbers, 990, 1000, 995) == [990, 1000, 995], "long answers from before are as good as others"
    heard(numbers, 1001, 1003, **{"queue-full": 71})
    brought(numbers, 1001, 1002)
    assert numbers.lost(LATER) == {"queue-full": 1}


def test_requests_that_could_not_be_asked_again_are_told_of_by_their_own_name():
    numbers = Numbers()
    heard(numbers, 1, 3, **{"not-repeatable": 2})
    brought(numbers, 1)
    assert numbers.lost(LATER) == {"not-repeatable": 2}


def test_slow_answers_are_taken_however_many_others_came_meanwhile():
    numbers, slow, rate, seconds = Numbers(), [], 1000, 45
    for second in range(60):
        fresh = range(1 + second * rate, 1 + (second + 1) * rate)
        heard(numbers, fresh[0], fresh[-1], NOW + second)
        slow.append(fresh[::5])
        assert len(brought(numbers, *(set(fresh) - set(slow[-1])), now=NOW + second)) == 0.8 * rate
        if second >= seconds:
            assert brought(numbers, *slow[second - seconds], now=NOW + second) == list(slow[second - seconds])
    assert len(numbers.state().model_dump_json()) < 6000


def test_what_was_settled_among_holes_stays_settled_when_they_are_closed():
    numbers = Numbers()
    heard(numbers, 1, 5000)
    brought(numbers, *range(1, 5001, 2))
    for minute in range(70):
        heard(numbers, 5000, 5000, NOW + 60 * minute)
        numbers.watch(NOW + 60 * minute)
    assert brought(numbers, *range(1, 5001, 2), now=NOW + 4200) == []
    assert brought(Numbers(numbers.state()), *range(1, 5001, 2), now=NOW + 4200) == []


def aged(numbers, minutes, numbered=100):
    for minute in range(minutes):
        heard(numbers, numbered, numbered, NOW + 60 * minute)
        numbers.watch(NOW + 60 * minute)
    return NOW + 60 * (minutes - 1)


def test_what_comes_later_than_any_exchange_is_lost_under_its_own_name():
    numbers = Numbers()
    heard(numbers, 1, 100)
    brought(numbers, *(set(range(1, 101)) - {10, 20}))
    now = aged(numbers, 59)
    assert brought(numbers, 10, now=now) == [10], "it is old, and may still come"
    now = aged(numbers, 70)
    assert brought(numbers, 20, now=now) == []
    assert numbers.lost(now + SILENT_SECONDS + 1) == {CAME_LATE: 1}
    assert Numbers(numbers.state()).lost(now + SILENT_SECONDS + 1) == {CAME_LATE: 1}


def test_a_hole_whose_exchange_is_here_is_never_closed():
    numbers = Numbers()
    heard(numbers, 1, 100)
    assert numbers.take("a", 50)
    brought(numbers, *(set(range(1, 101)) - {50}))
    now = aged(numbers, 200)
    written = numbers.state()
    assert Numbers(written).take("a", 50), "it died while it was open"
    numbers.settle("a", 50)
    assert not numbers.take("a", 50)
    assert numbers.lost(now) == {}


def test_gateways_that_are_silent_for_long_are_forgotten_and_what_they_lost_is_not():
    numbers = Numbers()
    heard(numbers, 1, 10, **{"queue-full": 2})
    brought(numbers, 1, 2, 3)
    heard(numbers, 1, 1, NOW + LONGEST_SECONDS + 1, boot="b")
    brought(numbers, 1, boot="b", now=NOW + LONGEST_SECONDS + 1)
    assert list(numbers.state().boots) == ["b"]
    assert numbers.lost(NOW + LONGEST_SECONDS + 1) == {"never-came": 5, "queue-full": 2}


def test_memory_is_bounded_however_many_gateways_there_are(monkeypatch):
    monkeypatch.setattr(module, "MOST_BOOTS", 4)
    numbers = Numbers()
    heard(numbers, 1, 2000)
    brought(numbers, *range(1, 2000, 2))
    for index in range(20):
        heard(numbers, 1, 3, NOW + index + 1, f"b{index}")
        brought(numbers, 1, boot=f"b{index}")
    assert len(numbers.state().boots) == 4
    assert numbers.lost(LATER + 100) == {"never-came": 1000 + 40}


def test_a_number_that_nobody_can_have_given_out_takes_no_memory():
    numbers = Numbers()
    heard(numbers, 1, 2**60)
    assert brought(numbers, 1, 2**60) == [1]
    assert len(numbers.state().boots["a"].above) < 20


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (1, 3, 2), (2, 3, 1)])
def test_what_is_settled_without_holes_takes_no_room(order):
    numbers = Numbers()
    heard(numbers, 1, 3000)
    brought(numbers, *(number + 3 * block for block in range(1000) for number in order))
    assert numbers.state().boots["a"].floor == 3000
    assert len(numbers.state().boots["a"].above) < 20
