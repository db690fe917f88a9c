"""What is the same whoever reads pairs: when a conversation is closed, and how many metrics share the error of looking for harm."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graft_api.collect import PairLine, SideLine, Sides
from graft_api.comparison import Direction, Kind, Limits, Metric, Role
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.reading import Moment, contrast
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.paired.wire import to_bytes
from graft_evaluation.pairs.contrasts import CONTROL, INSTRUMENT, PRODUCTION, comparison, planned, summed, watched
from graft_evaluation.pairs.stretches import Stretches

ERRORS = Metric(name="errors", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.PRIMARY)
REFUSALS = ERRORS.model_copy(update={"name": "refusals", "role": Role.GUARDRAIL, "margin": 0.01})
LENGTH = ERRORS.model_copy(update={"name": "length", "role": Role.INFORMATIONAL})
FAILURES = ERRORS.model_copy(update={"name": "failures", "role": Role.GUARDRAIL, "margin": 0.01})
LATENCY = Metric(name="latency", kind=Kind.QUANTILE, quantile=0.9, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=0.1)
PLANS = planned((ERRORS, REFUSALS, LENGTH), (FAILURES, LATENCY), 7, control=True)
LAST = 100_000


@pytest.fixture
def sums() -> dict[str, Summary]:
    """One pair of each of 400 conversations, one a second; the candidate is worse."""
    chance, found = np.random.default_rng(3), {name: Summary(plan) for name, plan in PLANS.items()}
    for summary in found.values():
        shape = (len(summary.plan.metrics), 400)
        sides = [(chance.random(shape) < share).astype(float) for share in (0.1, 0.3)]
        seconds = LAST - np.arange(400)[::-1]
        summary.add(Batch(chance.integers(0, 2**64, 400, np.uint64), np.ones(400, bool), seconds, *sides))
    return found


BOTH_NEVER_CAME = {"errors": (None, None), "refusals": (None, 1.0), "length": (1.0, None)}
AS_THE_WORST = {"errors": (1.0, 1.0), "refusals": (1.0, 1.0), "length": (1.0, 1.0)}


def line(number: int, values: dict[str, Sides], **more: Any) -> PairLine:
    side = SideLine(ended="Complete", seconds=1.0)
    return PairLine(
        boot="b", number=number, request_id="", conversation=f"{number:032x}", first_turn=True, at=1, api="chat", stream=False,
        production=side, candidate=side, values={PRODUCTION: values, CONTROL: {"latency": (None, None)}}, **more,
    )  # fmt: skip


def stretched(plan: Plan, lines: list[PairLine]) -> Summary:
    stretches = Stretches(plan)
    stretches.add(lines)
    return stretches.total()


@pytest.mark.parametrize("whole", [summed, stretched], ids=["at once", "by the hour"])
def test_values_that_came_on_neither_side_are_counted_and_are_the_worst(whole: Callable[[Plan, list[PairLine]], Summary]) -> None:
    plan = PLANS[PRODUCTION]
    counted = whole(plan, [line(number, BOTH_NEVER_CAME) for number in range(3)])
    filled = whole(plan, [line(number, AS_THE_WORST) for number in range(3)])

    assert counted.missing.tolist() == [[3, 3], [3, 0], [0, 3]]
    assert filled.missing.tolist() == [[0, 0]] * 3
    filled.missing[...] = counted.missing
    assert to_bytes(counted) == to_bytes(filled), "nothing else changes"


@pytest.mark.parametrize(("cause", "transient"), [("Unreachable", True), ("Status429", True), ("Status422", False), ("Invalid", False)])
def test_what_a_scorer_failed_on_is_told_apart_by_its_cause(cause: str, transient: bool) -> None:
    tallies = summed(PLANS[PRODUCTION], [line(1, {}, broken={PRODUCTION: {"errors": cause}})]).tallies

    assert (tallies.transient_failures["errors"], tallies.scorer_failures["errors"]) == (transient, not transient)


def test_primaries_and_guardrails_of_production_and_control_share_the_error() -> None:
    assert watched(PLANS.values()) == 3, "not quantiles, not what only informs, and not the instrument"


def test_every_contrast_is_read_with_what_is_watched_in_all(sums: dict[str, Summary]) -> None:
    limits = Limits(idle_seconds=10)
    found = comparison(sums, limits, LAST + 10, 1.0)
    assert found.instrument is not None
    for read in (*found.contrasts, found.instrument):
        assert read == contrast(sums[read.name], limits, Moment(LAST + 10, 1.0, 10, watched=3))
    assert {read.name for read in (*found.contrasts, found.instrument)} == {PRODUCTION, CONTROL, INSTRUMENT}


@pytest.mark.parametrize(("idle", "closed"), [(1, 400), (101, 300), (250, 151), (10_000, 0)])
def test_a_conversation_is_closed_when_the_limits_say_so(idle: int, closed: int, sums: dict[str, Summary]) -> None:
    found = comparison(sums, Limits(idle_seconds=idle), LAST + 1, 1.0)
    harm = found.contrasts[0].metrics[0].harm
    assert harm is not None
    assert harm.clusters == closed
