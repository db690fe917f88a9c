"""Which pod is chosen, and when a pod is left alone."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from graft_serving.gateway.breaker import FAILURES_TO_OPEN, Breaker
from graft_serving.gateway.conversation import named_key
from graft_serving.gateway.pods import Pod, Pods
from graft_serving.gateway.retries import RetryBudget

LEAST, AFFINE = "LeastOutstanding", "PrefixAffine"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fleet(balancing: str, count: int = 3, clock: Clock | None = None) -> Pods:
    pods = Pods(clock or Clock(), Random(1))  # noqa: S311
    pods.balance(balancing)
    for number in range(count):
        pods.update(f"p{number}", f"10.0.0.{number}:8000", True, {"v"})
    return pods


def picked(pods: Pods, version: str = "v", name: str = "c", avoid: Pod | None = None) -> Pod:
    pod = pods.pick(version, named_key("", name), avoid)
    assert pod is not None
    return pod


def test_only_pods_that_have_the_version_and_serve() -> None:
    pods = fleet(LEAST)
    pods.update("p0", "10.0.0.0:8000", False, {"v"})
    pods.update("p1", "10.0.0.1:8000", True, set())
    assert {picked(pods).name for _ in range(50)} == {"p2"}
    assert {picked(pods, "base").name for _ in range(50)} == {"p1", "p2"}
    assert pods.reach() == {"v": 1, "base": 2}
    pods.remove("p2")
    assert pods.pick("v", b"k" * 16) is None


def test_the_pod_with_least_under_way() -> None:
    pods = fleet(LEAST)
    for _ in range(30):
        picked(pods).started("v", 0.0)
    assert [sum(pod.outstanding.values()) for pod in pods.all()] == [10, 10, 10]


def test_ties_are_broken_by_chance() -> None:
    counts = Counter(picked(fleet_of_ties).name for fleet_of_ties in [fleet(LEAST)] for _ in range(900))
    assert all(230 < count < 370 for count in counts.values())


def test_a_conversation_stays_on_its_pod() -> None:
    pods = fleet(AFFINE, 5)
    for name in map(str, range(50)):
        assert len({picked(pods, name=name).name for _ in range(5)}) == 1


def test_conversations_spread_over_the_pods() -> None:
    pods = fleet(AFFINE, 4)
    counts = Counter(picked(pods, name=str(number)).name for number in range(4000))
    assert all(870 < count < 1130 for count in counts.values())


def test_a_lost_pod_moves_only_its_own_conversations() -> None:
    pods = fleet(AFFINE, 4)
    before = {name: picked(pods, name=name).name for name in map(str, range(400))}
    pods.remove("p2")
    for name, pod in before.items():
        if pod != "p2":
            assert picked(pods, name=name).name == pod


def test_a_pod_with_clearly_more_to_do_is_passed_over() -> None:
    pods = fleet(AFFINE)
    own = picked(pods)
    for _ in range(40):
        own.started("v", 0.0)
    assert picked(pods) is not own
    for pod in pods.all():
        while sum(pod.outstanding.values()) < 40:
            pod.started("v", 0.0)
    assert picked(pods) is own


def test_a_version_that_a_pod_lost_is_not_asked_of_it_until_its_agent_has_spoken() -> None:
    pods = fleet(LEAST, 1)
    pods.missing(picked(pods), "v")
    assert pods.pick("v", b"k" * 16) is None
    assert picked(pods, "base").name == "p0"
    pods.update("p0", "10.0.0.0:8000", True, {"v"})
    assert picked(pods).name == "p0"


def test_a_pod_of_the_same_name_at_another_address_is_another_pod() -> None:
    closed = []
    pods = Pods(Clock(), Random(1), removed=closed.append)  # noqa: S311
    pods.update("p0", "10.0.0.1:8000", True, {"v"})
    old = picked(pods)
    old.started("v", 0.0)
    pods.update("p0", "10.0.0.2:8000", True, {"v"})
    assert picked(pods) is not old
    assert closed == ["10.0.0.1:8000"]
    old.finished("v")


def test_a_pod_that_keeps_failing_is_left_alone_and_tried_once_per_pause() -> None:
    clock = Clock()
    pods = fleet(LEAST, 1, clock)
    pod = picked(pods)
    for _ in range(FAILURES_TO_OPEN):
        pod.started("v", 0.0)
        pod.breaker.failed(clock())
        pod.finished("v")
    assert pods.pick("v", b"k" * 16) is None
    assert pods.pick("v", b"k" * 16, open_too=True) is pod
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        clock.now += pause - 0.01
        assert pods.pick("v", b"k" * 16) is None
        clock.now += 0.02
        trial = picked(pods)
        trial.started("v", clock())
        assert pods.pick("v", b"k" * 16) is None, "one trial at a time"
        trial.breaker.failed(clock())
        trial.finished("v")
    clock.now += 30.1
    picked(pods).started("v", clock())
    pod.breaker.succeeded()
    assert picked(pods) is pod


@pytest.mark.parametrize("between", ["succeeded", "nothing"])
def test_only_failures_in_a_row_count(between: str) -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(0.0)
    if between == "succeeded":
        breaker.succeeded()
    breaker.failed(0.0)
    assert breaker.is_open is (between == "nothing")


def test_a_trial_of_which_nothing_came_is_followed_by_another_one() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(0.0)
    breaker.started(2.0)
    assert not breaker.allows(2.9)
    assert breaker.allows(3.0)


def test_old_requests_that_fail_late_do_not_lengthen_the_pause() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN + 5):
        breaker.failed(0.0)
    assert breaker.allows(1.0)


def test_retries_are_a_tenth_of_requests() -> None:
    budget = RetryBudget()
    retries = 0
    for _ in range(1000):
        budget.earn()
        retries += budget.spend()
    assert 100 <= retries <= 110
