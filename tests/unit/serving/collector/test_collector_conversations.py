"""Conversations of a watch: opened, closed, weighted, and never more than there is room for."""

import numpy as np
import pytest

from graft_api.watch import Moments, WatchCount, WatchedMetric
from graft_evaluation.watch import read
from graft_serving.collector.conversations import BOTH_VERSIONS, CLOSED_EARLY, MOST_REVISIONS, TOO_LATE, Arm, Conversations

IDLE = 60.0
ONE = (1, 1)
"""Epoch and revision."""


@pytest.fixture
def known():
    return Conversations(["errors", "seconds"], IDLE, 1000)


def key(number):
    return number.to_bytes(16, "big")


def request(known, number, arm, values, now=0.0, revision=ONE):
    """One request with its values, by place."""
    conversation = known.touch(key(number), arm, revision, now)
    if conversation is not None:
        for place, value in values.items():
            known.add(conversation, place, value)
        known.done(conversation)
    return conversation


def test_sums_are_those_of_numpy_over_weighted_conversations():
    chance = np.random.default_rng(1)
    known = Conversations(["errors", "seconds"], IDLE, 10_000)
    arms = {number: Arm.NEW if chance.random() < 0.9 else Arm.HELD_BACK for number in range(1500)}
    revisions = {number: (1, int(chance.integers(1, 4))) for number in arms}
    table = {arm: {revision: {} for revision in range(1, 4)} for arm in Arm}
    for _ in range(6000):
        number = int(chance.integers(1500))
        values = {0: float(chance.random() < 0.1), 1: float(chance.lognormal())} if chance.random() < 0.9 else {}
        request(known, number, arms[number], values, revision=revisions[number])
        table[arms[number]][revisions[number][1]].setdefault(number, []).append(values)
    known.close_idle(IDLE)

    for place, sums in enumerate(known.sums()):
        for arm, found in zip(Arm, (sums.new, sums.held_back), strict=True):
            n, y, crossed = [], [], []
            for revision, conversations in table[arm].items():
                weight = len(table[arm.other][revision]) / (len(conversations) + len(table[arm.other][revision]))
                valued = [[values[place] for values in requests if values] for requests in conversations.values()]
                n += [weight * len(values) for values in valued if values]
                y += [weight * sum(values) for values in valued if values]
                crossed += [(1 - weight) / weight for values in valued if values]
            n, y, crossed = np.array(n), np.array(y), np.array(crossed)
            assert found.clusters == len(n)
            expected = (n.sum(), y.sum(), (n**2).sum(), (n * y).sum(), (y**2).sum())
            assert (found.values, found.total, found.values_squared, found.product, found.total_squared) == pytest.approx(expected)
            expected = ((n**2 * crossed).sum(), (n * y * crossed).sum(), (y**2 * crossed).sum())
            assert (found.crossed_values_squared, found.crossed_product, found.crossed_total_squared) == pytest.approx(expected)


def test_only_what_was_quiet_for_long_enough_is_counted(known):
    request(known, 1, Arm.NEW, {0: 1.0}, now=0.0)
    request(known, 2, Arm.HELD_BACK, {0: 0.0}, now=10.0)
    request(known, 1, Arm.NEW, {0: 0.0}, now=30.0)
    assert known.close_idle(69.9) == 0
    assert known.close_idle(70.0) == 1
    assert (known.closed, known.open) == ([0, 1], 1)
    assert known.close_idle(90.0) == 1
    new = known.sums()[0].new
    assert (new.clusters, new.values, new.total) == (1, pytest.approx(1.0), pytest.approx(0.5)), "half of two values, one of them 1"


def test_a_conversation_whose_score_is_not_known_yet_is_not_closed(known):
    waiting = known.touch(key(1), Arm.NEW, ONE, 0.0)
    request(known, 2, Arm.HELD_BACK, {0: 0.0}, now=0.0)
    assert known.close_idle(IDLE) == 1
    known.add(waiting, 0, 1.0)
    known.done(waiting)
    assert known.close_idle(2 * IDLE) == 1
    assert known.sums()[0].new.total == pytest.approx(0.5)


def test_who_goes_over_to_the_other_version_is_counted_up_to_there(known):
    request(known, 1, Arm.HELD_BACK, {0: 0.0})
    request(known, 2, Arm.NEW, {0: 0.0})
    assert request(known, 1, Arm.NEW, {0: 1.0}, revision=(1, 2)) is None
    assert request(known, 1, Arm.HELD_BACK, {0: 1.0}) is None
    known.close_idle(IDLE)
    sums = known.sums()[0]
    assert (sums.held_back.clusters, sums.held_back.total, sums.new.total) == (1, 0.0, 0.0)
    assert known.left_out == {BOTH_VERSIONS: 2}
    assert request(known, 1, Arm.NEW, {0: 1.0}, now=IDLE) is not None, "later it is another conversation"


def test_memory_is_bounded_and_the_quietest_are_closed_first():
    known = Conversations(["errors"], IDLE, 10)
    for number in range(25):
        request(known, number, Arm(number % 2), {0: 1.0}, now=float(number))
        request(known, 0, Arm.NEW, {0: 1.0}, now=float(number))
    assert (known.open, known.left_out) == (10, {CLOSED_EARLY: 15})
    assert sum(known.closed) == 15
    known.close_all()
    sums = known.sums()[0]
    assert (sums.new.clusters, sums.held_back.clusters) == (13, 12), "nothing is lost by it"
    assert known.sums()[0].new.values == pytest.approx(12 / 25 * (12 + 26)), "the one that was always there is one"


def test_a_value_that_comes_after_its_conversation_was_closed_is_known_to_be_left_out():
    known = Conversations(["errors"], IDLE, 1)
    waiting = known.touch(key(1), Arm.NEW, ONE, 0.0)
    request(known, 2, Arm.HELD_BACK, {0: 0.0})
    known.add(waiting, 0, 1.0)
    known.done(waiting)
    assert known.left_out == {CLOSED_EARLY: 1, TOO_LATE: 1}


def test_many_revisions_take_no_more_room_and_lose_nothing_that_is_closed():
    known, total = Conversations(["errors"], IDLE, 1000), 0.0
    for revision in range(1, 4 * MOST_REVISIONS):
        for number, arm in ((1, Arm.NEW), (2, Arm.NEW), (3, Arm.HELD_BACK)):
            request(known, 10 * revision + number, arm, {0: 1.0}, now=float(revision), revision=(1, revision))
        known.close_all()
        total += 2 * (1 / 3)
    assert len(known._revisions) == MOST_REVISIONS
    sums = known.sums()[0]
    assert (sums.new.clusters, sums.held_back.clusters) == (2 * (4 * MOST_REVISIONS - 1), 4 * MOST_REVISIONS - 1)
    assert (sums.new.values, sums.held_back.values) == pytest.approx((total, total))


def test_a_revision_that_only_one_version_had_says_nothing(known):
    request(known, 1, Arm.HELD_BACK, {0: 1.0})
    known.close_all()
    assert known.sums()[0].held_back == Moments()


def test_an_outage_after_a_step_of_the_ramp_takes_nothing_out():
    known, chance = Conversations(["errors"], IDLE, 100_000), np.random.default_rng(2)
    metric, number = WatchedMetric(name="errors", margin=0.01), 0
    for revision, new, errors in ((1, 0.1, 0.01), (2, 0.95, 0.5)):
        for _ in range(8000):
            number += 1
            arm = Arm.NEW if chance.random() < new else Arm.HELD_BACK
            request(known, number, arm, {0: float(chance.random() < errors)}, revision=(1, revision))
    known.close_all()
    (reading,) = read([metric], WatchCount(metrics=known.sums()))
    assert reading.new == pytest.approx(reading.held_back, abs=0.05)
    assert not reading.breached
    assert reading.clusters_new > 7000
