"""From pairs to the verdict, on traffic whose truth is known."""

import numpy as np
import pytest

from graft_api.comparison import Clock, Comparison, Contrast, Direction, Kind, Limits, Metric, Outcome, Role, Scale
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.reading import Moment, contrast
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.paired.wire import from_bytes, to_bytes
from graft_evaluation.verdict import verdict

ERRORS = Metric(name="compile-errors", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.PRIMARY)
SCORE = Metric(name="score", kind=Kind.MEAN, direction=Direction.HIGHER, role=Role.GUARDRAIL, margin=0.05, worst=0.0, best=1.0)
LATENCY = Metric(
    name="latency",
    kind=Kind.QUANTILE,
    quantile=0.9,
    direction=Direction.LOWER,
    role=Role.GUARDRAIL,
    margin=0.15,
    scale=Scale.RELATIVE,
)
AT_END = Clock(elapsed=168, duration=168, max_duration=336)
END = 168 * 3600


def pairs(seed: int, conversations: int, incumbent: tuple[float, ...], candidate: tuple[float, ...]) -> Batch:
    """Conversations of one to many turns over a week; each side's share of errors, mean score and median latency."""
    chance = np.random.default_rng(seed)
    conversation = np.repeat(np.arange(conversations), chance.geometric(1 / 3, conversations))
    count = len(conversation)
    begins = np.sort(chance.integers(0, END - 7200, conversations))
    sides = []
    for errors, score, seconds in (incumbent, candidate):
        values = (
            chance.random(count) < errors,
            chance.beta(10 * score, 10 * (1 - score), count),
            chance.lognormal(0, 0.4, count) * seconds,
        )
        sides.append(np.stack(values).astype(float))
    first = np.concatenate([[True], conversation[1:] != conversation[:-1]])
    keys = chance.integers(0, 2**64, conversations, np.uint64)[conversation]
    return Batch(keys, first, begins[conversation], sides[0], sides[1])


def read(metrics: tuple[Metric, ...], batch: Batch, name: str = "production") -> Contrast:
    summary = Summary(Plan(name, metrics, 7))
    summary.add(batch)
    return contrast(summary, Limits(), Moment(now=END, hours=168.0))


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        pytest.param((0.20, 0.6, 1.0), Outcome.PASSED, id="a better candidate passes"),
        pytest.param((0.40, 0.6, 1.0), Outcome.FAILED, id="a worse one fails"),
        pytest.param((0.20, 0.5, 1.0), Outcome.FAILED, id="one that breaks a guardrail fails"),
        pytest.param((0.20, 0.6, 1.4), Outcome.FAILED, id="one that is too slow fails"),
    ],
)
def test_a_week_of_traffic_gets_the_verdict_it_deserves(candidate: tuple[float, ...], outcome: Outcome) -> None:
    found = read((ERRORS, SCORE, LATENCY), pairs(3, 800, (0.30, 0.6, 1.0), candidate))

    judged = verdict(Comparison(contrasts=[found]), Limits(), AT_END)

    assert judged.outcome is outcome


def test_an_equal_candidate_passes_its_guardrails_and_is_inconclusive_on_its_primary() -> None:
    outcomes = []
    for seed in range(10):
        batch = pairs(seed, 400, (0.30, 0.6, 1.0), (0.30, 0.6, 1.0))
        both = Batch(batch.clusters, batch.first_turn, batch.seconds, batch.incumbent[:2], batch.candidate[:2])
        judged = verdict(Comparison(contrasts=[read((ERRORS, SCORE), both)]), Limits(), AT_END)
        outcomes.append([metric.outcome for metric in judged.metrics])

    assert {guardrail for _, guardrail in outcomes} == {Outcome.PASSED}
    # Each way is wrong in 2.5 % of A/A tests: of ten, more than three decided ones have a chance of 1 in 1,000.
    assert sum(primary is Outcome.INCONCLUSIVE for primary, _ in outcomes) >= 7


def test_a_harmful_candidate_fails_before_the_horizon() -> None:
    found = read((ERRORS, SCORE, LATENCY), pairs(3, 800, (0.30, 0.6, 1.0), (0.6, 0.6, 1.0)))

    judged = verdict(Comparison(contrasts=[found]), Limits(), Clock(elapsed=48, duration=168, max_duration=336))

    assert judged.outcome is Outcome.FAILED
    assert "harm: compile errors got worse by at least" in judged.sentence


def test_a_shadow_on_slower_hardware_does_not_fail_a_good_candidate() -> None:
    # The candidate answers from a shadow that is half as fast; the control share asks both there, in random order.
    informational = LATENCY.model_copy(update={"role": Role.INFORMATIONAL})
    production = read((ERRORS, SCORE, informational), pairs(3, 800, (0.30, 0.6, 1.0), (0.20, 0.6, 2.0)))
    control = pairs(4, 500, (0.30, 0.6, 2.0), (0.20, 0.6, 2.0))
    alone = Batch(control.clusters, control.first_turn, control.seconds, control.incumbent[2:], control.candidate[2:])

    judged = verdict(Comparison(contrasts=[production, read((LATENCY,), alone, "control")]), Limits(), AT_END)

    assert judged.outcome is Outcome.PASSED
    assert [(one.contrast, one.outcome) for one in judged.metrics if one.name == "latency"] == [
        ("production", Outcome.INFORMATIONAL),
        ("control", Outcome.PASSED),
    ]


def test_hourly_summaries_give_the_verdict_of_the_whole() -> None:
    whole = pairs(5, 400, (0.30, 0.6, 1.0), (0.22, 0.6, 1.0))
    metrics = (ERRORS, SCORE, LATENCY)
    total = Summary(Plan("production", metrics, 7))
    for hour in (6, 2, 5, 0, 3, 1, 4):
        here = np.flatnonzero(whole.seconds // (24 * 3600) == hour)
        part = Summary(total.plan)
        part.add(
            Batch(whole.clusters[here], whole.first_turn[here], whole.seconds[here], whole.incumbent[:, here], whole.candidate[:, here])
        )
        total.merge(from_bytes(to_bytes(part)))

    assert contrast(total, Limits(), Moment(now=END, hours=168.0)) == read(metrics, whole)


def test_what_was_left_out_is_reported_by_cause_and_side() -> None:
    summary = Summary(Plan("production", (ERRORS,), 7))
    summary.exclude("client-cancelled", "Both", 3)
    summary.exclude("server-side-tools", "Incumbent", 2)
    summary.fail("compile-errors", 4)

    found = contrast(summary, Limits(), Moment(now=END, hours=1.0))

    assert [(one.cause, one.side, one.count) for one in found.exclusions] == [
        ("client-cancelled", "Both", 3),
        ("server-side-tools", "Incumbent", 2),
    ]
    assert found.metrics[0].scorer_failures == 4
    assert found.metrics[0].reason == "0 conversations, 100 are needed"


def test_the_forecast_stands_beside_the_estimate() -> None:
    found = read((SCORE,), Batch(*_one_metric(pairs(6, 300, (0.3, 0.6, 1.0), (0.3, 0.6, 1.0)), 1)))

    assert found.metrics[0].hours_to_detect is not None
    assert 0 < found.metrics[0].hours_to_detect < 168


def _one_metric(batch: Batch, index: int) -> tuple[np.ndarray, ...]:
    here = slice(index, index + 1)
    return batch.clusters, batch.first_turn, batch.seconds, batch.incumbent[here], batch.candidate[here]
