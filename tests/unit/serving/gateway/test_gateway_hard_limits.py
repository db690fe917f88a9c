"""When a version is beyond its hard limit: the truth table, the window, and what an outage looks like to it."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from random import Random
from typing import Any

import pytest

from graft_api.routes import HardLimits, TripWire
from graft_serving.gateway.anew import Anew, Tally
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.hard_limits import Bounds, Breach, Metric, back, bounds_of, breach, passed
from graft_serving.gateway.table import Alias
from graft_serving.gateway.trace import continue_trace
from graft_serving.gateway.trip_wires import LOOK_SECONDS, Wire
from graft_serving.gateway.window import Window

TRACE = continue_trace(None, None, Random(1))  # noqa: S311


def counted(requests: int, errors: int = 0, slow: int = 0) -> Window:
    window = Window(30, 0.0)
    for number in range(requests):
        window.add(0.0, error=number < errors, slow=number < slow)
    return window


def since(
    watched: tuple[int, ...] = (0,), others: tuple[int, ...] = (0,), elsewhere: tuple[int, ...] = (0,), conversations: int = 0
) -> Anew:
    """What was counted since the limit was passed: requests, errors, slow."""
    return Anew(0.0, Tally(*watched), Tally(*others), Tally(*elsewhere), {number.to_bytes(2) for number in range(conversations)})


def bounds(**limits: Any) -> Bounds:
    """Of a route that holds back one of twenty."""
    return bounds_of(HardLimits(**limits), 0.05)


BEYOND = pytest.mark.parametrize(
    ("watched", "others", "limits", "expected"),
    [
        pytest.param((19, 19), (100, 0), {}, None, id="too few requests on the new version"),
        pytest.param((20, 20), (100, 0), {}, ("errors", 1.0, 0.0), id="just enough"),
        pytest.param((20, 2), (1000, 0), {}, None, id="just at the limit"),
        pytest.param((30, 3), (1000, 0), {}, None, id="just at the limit, in a decimal that floats have not"),
        pytest.param((1000, 101), (1000, 0), {}, ("errors", 0.101, 0.0), id="one beyond the limit"),
        pytest.param((100, 100), (20, 20), {}, None, id="an outage: both are bad"),
        pytest.param((100, 90), (20, 10), {}, None, id="the others are better, but beyond the limit, too"),
        pytest.param((200, 150), (20, 2), {}, ("errors", 0.75, 0.1), id="the others are just at the limit"),
        pytest.param((40, 40), (2, 2), {}, None, id="an outage with little traffic: the few others are bad, too"),
        pytest.param((100, 100), (5, 5), {}, None, id="just enough others"),
        pytest.param((100, 100), (24, 24), {"min_requests": 100}, None, id="less than a quarter of minRequests, all bad"),
        pytest.param((100, 100), (25, 25), {"min_requests": 100}, None, id="a quarter of minRequests"),
        pytest.param((100, 100), (25, 0), {"min_requests": 100}, ("errors", 1.0, 0.0), id="a quarter of minRequests, all well"),
        pytest.param((20, 3), (5, 0), {}, None, id="a difference as chance makes it"),
        pytest.param((100, 60), (5, 0), {}, None, id="a difference as chance makes it when an outage begins"),
        pytest.param((20, 20), (5, 0), {}, ("errors", 1.0, 0.0), id="a difference that chance does not make"),
        pytest.param((20, 20), (100, 0), {"error_share": None}, None, id="without a limit for errors"),
        pytest.param((20, 20), (100, 0), {"error_share": "1"}, None, id="nothing is beyond all"),
        pytest.param((20, 0, 15), (20, 0, 0), {}, ("latency", 0.75, 0.0), id="slow"),
        pytest.param((20, 0, 10), (20, 0, 0), {}, None, id="half of them slow, which is the limit"),
        pytest.param((20, 0, 20), (20, 0, 11), {}, None, id="the others are slow, too"),
        pytest.param((20, 20, 20), (20, 0, 20), {}, ("errors", 1.0, 0.0), id="slow like the others, and wrong"),
        pytest.param((20, 0, 20), (20, 20, 0), {}, ("latency", 1.0, 0.0), id="slow, while the others are wrong"),
        pytest.param((100, 100), (4, 0), {}, None, id="too few others, and nothing was counted since"),
        pytest.param((100, 100), (0, 0), {}, None, id="nothing is held back, and nothing was counted since"),
    ],
)


@BEYOND
def test_the_truth_table_of_a_window(watched: tuple[int, ...], others: tuple[int, ...], limits: dict[str, Any], expected: Any) -> None:
    found = breach(counted(*watched), counted(*others), {}, bounds(**limits))
    assert (found and (found.metric, found.value, found.held_back)) == expected


SINCE = pytest.mark.parametrize(
    ("anew", "expected"),
    [
        pytest.param(since(), None, id="nothing has ended since"),
        pytest.param(since((20, 20), (1, 0), conversations=20), None, id="one was held back since, and went well: that may be"),
        pytest.param(since((37, 37), (1, 0)), ("errors", 1.0, 0.0), id="one of so many: that is no chance"),
        pytest.param(since((7, 7), (2, 0)), ("errors", 1.0, 0.0), id="two of less"),
        pytest.param(since((20, 20), (1, 1), conversations=20), None, id="one was held back since, and failed"),
        pytest.param(since((900, 900), (1, 1), conversations=200), None, id="and none since, for as long as it takes"),
        pytest.param(since((90, 90), (10, 1)), ("errors", 1.0, 0.1), id="of ten one failed, which is the limit"),
        pytest.param(since((90, 45), (9, 4)), None, id="both fail now and then"),
        pytest.param(since((90, 9), (9, 0)), None, id="the version is within its limit since"),
        pytest.param(since((134, 134), conversations=134), None, id="none was held back, which may be"),
        pytest.param(since((135, 135), conversations=135), ("errors", 1.0, None), id="none was held back, which is no chance any more"),
        pytest.param(since((999, 999), conversations=1), None, id="one conversation that is tried again and again"),
        pytest.param(since((1000, 1000), conversations=1), ("errors", 1.0, None), id="for too long"),
        pytest.param(since((135, 135), (0,), (50, 50), conversations=135), None, id="other domains fail, too"),
        pytest.param(since((135, 135), (0,), (210, 180), conversations=135), None, id="other domains fail next to as often"),
        pytest.param(since((135, 135), (0,), (50, 4), conversations=135), ("errors", 1.0, None), id="other domains are well"),
        pytest.param(since((135, 135), (0,), (50, 20), conversations=135), ("errors", 1.0, None), id="one of them fails by itself"),
        pytest.param(since((135, 135), (0,), (1, 1), conversations=135), None, id="the one request of another domain fails"),
    ],
)


@SINCE
def test_the_truth_table_where_too_few_were_held_back(anew: Anew, expected: Any) -> None:
    found = breach(counted(40, 40), counted(4, 0), {"errors": anew}, bounds())
    assert (found and (found.metric, found.value, found.held_back)) == expected


@pytest.mark.parametrize(
    ("anew", "trips"),
    [
        pytest.param(since((300, 60), (15, 0)), False, id="not more than the window has"),
        pytest.param(since((570, 114), (30, 0)), False, id="what would do where the window has next to none"),
        pytest.param(since((684, 137), (36, 0)), True, id="as much as it takes of a window"),
        pytest.param(since((684, 137), (36, 4)), False, id="and what was held back is beyond the limit, too"),
        pytest.param(since((500, 100), conversations=500), False, id="none was held back since"),
    ],
)
def test_what_a_window_is_too_short_for_is_counted_on(anew: Anew, trips: bool) -> None:
    """One of five fails, at ten requests a second of which one of twenty is held back: 15 of these are in a window, and it takes 32."""
    assert (breach(counted(285, 57), counted(15), {"errors": anew}, bounds()) is not None) is trips


def test_one_that_was_held_back_within_the_window_and_failed_speaks_for_the_version() -> None:
    assert breach(counted(40, 40), counted(2, 1), {"errors": since((7, 7), (2, 0))}, bounds()) is None


def test_each_limit_has_its_own_count() -> None:
    anew: dict[Metric, Anew] = {"errors": since((20, 20, 20), (1, 0, 1)), "latency": since((7, 0, 7), (2, 0, 0))}
    found = breach(counted(40, 40, 40), counted(4, 0), anew, bounds())
    assert (found and found.metric) == "latency"


@pytest.mark.parametrize(("held_back", "conversations"), [(0.05, 135), (0.5, 10), (0.9, 3), (0.01, 688), (0.0, 0), (1.0, 0)], ids=str)
def test_how_many_conversations_of_which_none_is_held_back_are_no_chance(held_back: float, conversations: int) -> None:
    assert ceil(replace(bounds(), held_back=held_back).conversations_alone) == conversations


def test_where_the_route_holds_nothing_back_the_limit_decides() -> None:
    assert breach(counted(40, 40), counted(0), {"errors": since()}, replace(bounds(), held_back=0.0))


@pytest.mark.parametrize(
    ("watched", "metrics"),
    [
        pytest.param((19, 19, 0), [], id="too few requests"),
        pytest.param((20, 3, 0), [], id="as chance makes it"),
        pytest.param((20, 8, 0), ["errors"], id="as chance does not make it"),
        pytest.param((20, 8, 20), ["errors", "latency"], id="both"),
    ],
)
def test_which_limits_are_passed(watched: tuple[int, ...], metrics: list[Metric]) -> None:
    assert passed(counted(*watched), bounds()) == metrics


@pytest.mark.parametrize(("watched", "expected"), [((20, 2), True), ((20, 3), False), ((0, 0), True)], ids=["at it", "beyond it", "nobody"])
def test_when_a_limit_is_not_passed_any_more(watched: tuple[int, ...], expected: bool) -> None:
    assert back(counted(*watched), bounds(), "errors") is expected


def test_what_is_found_says_the_bound_and_how_many_requests() -> None:
    found = breach(counted(40, 20), counted(100), {}, bounds(error_share="0.25"))
    assert found == Breach(metric="errors", value=0.5, bound=0.25, held_back=0.0, requests=40)


def test_without_a_limit_of_seconds_nothing_is_slow() -> None:
    assert bounds().latency_seconds == float("inf")


@pytest.mark.parametrize(
    ("counted_at", "looked_at", "left"),
    [
        pytest.param([0.5], 0.5, 1, id="now"),
        pytest.param([0.5], 10.4, 1, id="within the window"),
        pytest.param([0.5], 10.9, 1, id="within the second that the window begins in"),
        pytest.param([0.5], 11.0, 0, id="too old"),
        pytest.param([0.0, 0.999], 10.999, 2, id="a second is kept whole"),
        pytest.param([0.0, 1.0], 11.0, 1, id="and goes as a whole"),
        pytest.param([0.5, 5.5, 9.5], 12.0, 2, id="one after the other"),
        pytest.param([0.5, 5.5], 5000.0, 0, id="after a long silence"),
        pytest.param([0.5, 300.5], 300.5, 1, id="counting forgets, too"),
    ],
)
def test_the_window_slides(counted_at: list[float], looked_at: float, left: int) -> None:
    window = Window(10, 0.0)
    for moment in counted_at:
        window.add(moment, error=True, slow=True)
    window.turn(looked_at)
    assert (window.requests, window.errors, window.slow) == (left, left, left)


def test_the_window_counts_as_a_list_of_all_requests_would() -> None:
    chance, window, seen, now = Random(3), Window(5, 100.25), [], 100.25  # noqa: S311
    for _ in range(5000):
        now += chance.choice((0.0, 0.01, 0.4, 1.0, 3.7))
        error, slow = chance.random() < 0.3, chance.random() < 0.2
        window.add(now, error=error, slow=slow)
        seen = [one for one in seen if int(now) - int(one[0]) <= 5] + [(now, error, slow)]
        assert (window.requests, window.errors, window.slow) == (len(seen), sum(one[1] for one in seen), sum(one[2] for one in seen))


NEW, OLD = "dsl-aaaaaaaaaaaaaaaa", "dsl-bbbbbbbbbbbbbbbb"
WELL = 31
"""Seconds before the failures begin."""


def first_trip(seed: int, fails: dict[str, float], *, rate: float, seconds: float, after: float = 0.0) -> float | None:
    """
    Return how many seconds after the failures began one gateway trips; None: it does not.

    They last for `seconds`, and `after` these all is well again. Requests come by chance, `rate` a second, each of a conversation of its
    own, and one of twenty is held back.
    """
    chance, now, number, looked = Random(seed), 0.0, 0, 0.0  # noqa: S311
    wire = Wire(Alias("dsl", b"", (NEW, OLD), (9500, 10_000), "Error", None), TripWire(version=NEW, limits=HardLimits()), 0.0)
    while (now := now + chance.expovariate(rate)) < WELL + seconds + after:
        number += 1
        arm = OLD if chance.random() < 0.05 else NEW
        bad = WELL <= now < WELL + seconds and chance.random() < fails[arm]
        ended = Exchange(
            "chat", "r", TRACE, now, "", "dsl", arm, arm, ended=now, conversation=number.to_bytes(4), status=500 if bad else 200
        )
        metrics = wire.count(ended, error=bad)
        if (metrics or now - looked >= LOOK_SECONDS) and wire.breach(now, metrics):
            return now - WELL
        looked = now if now - looked >= LOOK_SECONDS else looked
    return None


def trips(seeds: range, fails: float, held_back: float, **world: float) -> list[float]:
    found = [first_trip(seed, {NEW: fails, OLD: held_back}, **world) for seed in seeds]
    return sorted(trip for trip in found if trip is not None)


@pytest.mark.parametrize("block", range(10))
def test_an_outage_with_a_request_a_second_trips_nothing(block: int) -> None:
    """2,000 outages of a minute and what follows, where every fifth window has nothing held back. By the limit alone nearly all trip."""
    assert trips(range(200 * block, 200 * (block + 1)), 1.0, 1.0, rate=1, seconds=60, after=30) == []


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("rate", [1, 4, 20])
def test_an_outage_trips_next_to_nothing(share: float, rate: int) -> None:
    assert len(trips(range(25), share, share, rate=rate, seconds=60)) <= 1


@pytest.mark.parametrize("rate", [1, 4], ids=["too few others", "some others"])
def test_errors_now_and_then_trip_nothing_however_long_it_takes(rate: int) -> None:
    assert trips(range(8), 0.03, 0.03, rate=rate, seconds=1800) == []


@pytest.mark.parametrize(
    ("rate", "share", "median", "longest"),
    [
        pytest.param(1, 1.0, 60, 200, id="all fail, a request a second"),
        pytest.param(4, 1.0, 30, 60, id="all fail, some requests"),
        pytest.param(20, 1.0, 10, 15, id="all fail, many requests"),
        pytest.param(20, 0.5, 20, 30, id="half of them fail"),
    ],
)
def test_a_bad_version_is_taken_out_in_time(rate: int, share: float, median: float, longest: float) -> None:
    found = trips(range(40), share, 0.0, rate=rate, seconds=longest)
    assert len(found) == 40
    assert found[20] <= median
