"""What a user is promised of a verdict, in simulated weeks: from both sides' answers through summaries to the verdict itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from graft_api.comparison import Clock, Direction, Kind, Limits, Metric, Outcome, Role, Scale, Verdict
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.pairs.contrasts import CONTROL, INSTRUMENT, PRODUCTION, comparison, planned
from graft_evaluation.verdict import verdict

ERRORS = Metric(name="errors", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.PRIMARY)
SCORE = Metric(name="score", kind=Kind.MEAN, direction=Direction.HIGHER, role=Role.GUARDRAIL, margin=0.05, worst=0.0, best=1.0)
LATENCY = Metric(
    name="latency", kind=Kind.QUANTILE, quantile=0.95, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=0.4, scale=Scale.RELATIVE
)
WEEK = 168
NOW = WEEK * 3600
SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])
CONTROL_SHARE = 0.4


@dataclass(frozen=True)
class Side:
    """One version on one machine."""

    errors: float = 0.25
    score: float = 0.6
    seconds: float = 1.0
    """Median of an easy prompt; a hard one takes three times as long."""
    gives_up: bool = False
    """Whether it times out on every hard prompt."""
    lost: float = 0.0
    """Share of all answers that its machine is too slow for."""


@dataclass(frozen=True)
class Traffic:
    """A week's requests: what both sides are asked."""

    conversation: NDArray[np.intp]
    hard: NDArray[np.bool_]
    chance: np.random.Generator

    def answers(self, side: Side) -> NDArray[np.float64]:
        """Return errors, scores and seconds, shape [3, pairs]; NaN where no answer came."""
        count = len(self.hard)
        values = np.stack(
            [
                self.chance.random(count) < np.where(self.hard, 2 * side.errors, side.errors),
                self.chance.beta(10 * side.score, 10 * (1 - side.score), count),
                self.chance.lognormal(0, 0.4, count) * np.where(self.hard, 3, 1) * side.seconds,
            ]
        ).astype(float)
        values[:, (self.hard & side.gives_up) | (self.chance.random(count) < side.lost)] = np.nan
        return values


def traffic(seed: int, conversations: int = 1000) -> Traffic:
    chance = np.random.default_rng([seed, 41])
    conversation = np.repeat(np.arange(conversations), chance.geometric(1 / 3, conversations))
    return Traffic(conversation, chance.random(len(conversation)) < 0.1, chance)


def judged(
    seed: int, production: Side, incumbent: Side, candidate: Side, plans: dict[str, Plan], *, dropping: bool = False, elapsed: int = WEEK
) -> Verdict:
    """Return the verdict of a week; `incumbent` and `candidate` are asked on the shadow, a share of the requests of both."""
    asked = traffic(seed)
    answers = [asked.answers(side) for side in (production, incumbent, candidate)]
    if dropping:
        answers[0] = np.where(np.isnan(answers[2]), np.nan, answers[0])
        answers[1] = np.where(np.isnan(answers[2]), np.nan, answers[1])
    control = np.flatnonzero(asked.chance.random(len(asked.hard)) < CONTROL_SHARE)
    everything = np.arange(len(asked.hard))
    sides = {PRODUCTION: (0, 2, everything), CONTROL: (1, 2, control), INSTRUMENT: (0, 1, control)}
    sums = {name: summed(plan, asked, answers[sides[name][0]], answers[sides[name][1]], sides[name][2]) for name, plan in plans.items()}
    found = comparison(sums, Limits(), now=NOW, hours=float(WEEK))
    return verdict(found, Limits(), Clock(elapsed=elapsed, duration=WEEK, max_duration=2 * WEEK))


def summed(plan: Plan, asked: Traffic, left: NDArray[np.float64], right: NDArray[np.float64], here: NDArray[np.intp]) -> Summary:
    summary = Summary(plan)
    rows = [[ERRORS.name, SCORE.name, LATENCY.name].index(metric.name) for metric in plan.metrics]
    conversation = asked.conversation[here]
    first = np.concatenate([[True], asked.conversation[1:] != asked.conversation[:-1]])[here]
    values = (side[rows][:, here] for side in (left, right))
    summary.add(Batch(conversation.astype(np.uint64), first, conversation * 600, *values))
    return summary


def as_designed(seed: int) -> dict[str, Plan]:
    return planned((ERRORS, SCORE), (LATENCY,), seed, control=True)


def outcomes(found: Verdict) -> dict[str, Outcome]:
    return {metric.name: metric.outcome for metric in found.metrics}


@SEEDS
def test_a_a_passes_its_guardrails_and_decides_nothing(seed: int) -> None:
    found = judged(seed, Side(), Side(), Side(), as_designed(seed))

    # Of forty A/A tests one passes on its primary and one fails; these three are among the others.
    assert outcomes(found) == {"errors": Outcome.INCONCLUSIVE, "score": Outcome.PASSED, "latency": Outcome.PASSED}
    assert found.outcome is Outcome.INCONCLUSIVE


BETTER_ON_EASY = Side(errors=0.2, gives_up=True)
"""A tenth of all answers never comes: more than what it gains on the others."""


@SEEDS
def test_a_candidate_that_times_out_on_hard_prompts_fails_and_would_pass_without_them(seed: int) -> None:
    counted = judged(seed, Side(), Side(), BETTER_ON_EASY, as_designed(seed))
    dropped = judged(seed, Side(), Side(), BETTER_ON_EASY, as_designed(seed), dropping=True)

    assert dropped.outcome is Outcome.PASSED, "what is prevented"
    assert counted.outcome is Outcome.FAILED
    assert Outcome.PASSED not in outcomes(counted).values()
    assert all(metric.reading.missing_candidate > 0 for metric in counted.metrics)


GOOD, SLOW = Side(errors=0.15), 2.5
"""A better candidate, and how many times as long anything takes on the shadow."""
ON_SHADOW = replace(Side(), seconds=SLOW), replace(GOOD, seconds=SLOW)


@SEEDS
def test_a_slower_shadow_does_not_fail_a_good_candidate(seed: int) -> None:
    assert judged(seed, Side(), *ON_SHADOW, as_designed(seed)).outcome is Outcome.PASSED


def test_it_would_if_latency_were_read_from_production() -> None:
    naive = {PRODUCTION: Plan(PRODUCTION, (ERRORS, SCORE, LATENCY), 7)}

    assert judged(1, Side(), *ON_SHADOW, naive).outcome is Outcome.FAILED


def test_a_slower_shadow_hides_no_slower_candidate() -> None:
    incumbent, candidate = ON_SHADOW

    found = judged(1, Side(), incumbent, replace(candidate, seconds=2 * SLOW), as_designed(1))

    assert outcomes(found)["latency"] is Outcome.FAILED
    assert found.outcome is Outcome.FAILED


@pytest.mark.parametrize("elapsed", [24, WEEK])
def test_a_shadow_that_is_too_slow_to_answer_is_an_error_and_no_harm(elapsed: int) -> None:
    shadowed = replace(Side(), lost=0.2), replace(GOOD, lost=0.2)

    found = judged(1, Side(), *shadowed, as_designed(1), elapsed=elapsed)

    assert found.outcome is Outcome.ERROR
    assert "the same model" in found.sentence


def test_harm_is_harm_on_a_slower_shadow() -> None:
    found = judged(1, Side(), replace(Side(), seconds=SLOW), Side(errors=0.45, seconds=SLOW), as_designed(1), elapsed=24)

    assert found.outcome is Outcome.FAILED
    assert "harm: errors" in found.sentence
