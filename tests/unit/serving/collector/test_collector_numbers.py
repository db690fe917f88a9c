# ruff: noqa: S311 -- simulations
import random

import pytest

from graft_serving.collector import numbers as module
from graft_serving.collector.numbers import SILENT_SECONDS, UNDER_WAY_SECONDS, Numbers

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


def test_memory_is_bounded_however_many_holes_and_gateways_there_are(monkeypatch):
    monkeypatch.setattr(module, "MOST_RANGES", 8)
    monkeypatch.setattr(module, "MOST_BOOTS", 4)
    numbers = Numbers()
    heard(numbers, 1, 2000)
    brought(numbers, *range(1, 2000, 2))
    assert len(numbers.state().boots["a"].ranges) == 8
    assert numbers.lost(LATER) == {"never-came": 1000}, "closing a hole does not hide it"
    for index in range(20):
        heard(numbers, 1, 3, NOW + index + 1, f"b{index}")
        brought(numbers, 1, boot=f"b{index}")
    state = numbers.state()
    assert len(state.boots) == 4
    assert numbers.lost(LATER + 100) == {"never-came": 1000 + 40}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (1, 3, 2), (2, 3, 1)])
def test_neighbours_become_one_range(order):
    numbers = Numbers()
    heard(numbers, 1, 3)
    brought(numbers, *order)
    assert numbers.state().boots["a"].ranges == [(1, 3)]
