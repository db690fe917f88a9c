"""From pairs to the verdict, on traffic whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
UNCHECKED = Limits(require_instrument=False)


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

    judged = verdict(Comparison(contrasts=[found]), UNCHECKED, AT_END)

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

    judged = verdict(Comparison(contrasts=[production, read((LATENCY,), alone, "control")]), UNCHECKED, AT_END)

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


@pytest.mark.parametrize(
    "score",
    [
        pytest.param(SCORE, id="absolute"),
        pytest.param(SCORE.model_copy(update={"scale": Scale.RELATIVE}), id="relative"),
        pytest.param(SCORE.model_copy(update={"scale": Scale.RELATIVE, "best": None}), id="relative, of a mean with one end"),
    ],
)
def test_an_a_a_test_at_temperature_0_agrees_with_itself(score: Metric) -> None:
    batch = pairs(3, 400, (0.30, 0.6, 1.0), (0.30, 0.6, 1.0))
    same = Batch(batch.clusters, batch.first_turn, batch.seconds, batch.incumbent, batch.incumbent)
    metrics = (ERRORS, score, LATENCY)

    judged = verdict(Comparison(contrasts=[read(metrics, same)], instrument=read(metrics, same, "instrument")), Limits(), AT_END)

    assert [metric.outcome for metric in judged.metrics] == [Outcome.INCONCLUSIVE, Outcome.PASSED, Outcome.PASSED]
    assert judged.outcome is Outcome.INCONCLUSIVE
    assert "compile errors did not change" in judged.sentence


def test_harm_is_shared_by_all_contrasts() -> None:
    summary = Summary(Plan("production", (ERRORS, SCORE, LATENCY), 7))
    summary.add(pairs(3, 800, (0.30, 0.6, 1.0), (0.35, 0.6, 1.0)))
    highs = []
    for watched in (2, 5, 8, None):
        harm = contrast(summary, Limits(), Moment(now=END, hours=168.0, watched=watched)).metrics[0].harm
        assert harm is not None
        highs.append(harm.high)

    assert highs[0] < highs[1] < highs[2]
    assert highs[3] == highs[2], "not told how many, as many as there can be: two metrics in four contrasts"


KINDS = (
    Metric(name="p", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.PRIMARY),
    Metric(name="m", kind=Kind.MEAN, direction=Direction.LOWER, role=Role.PRIMARY, worst=1000.0),
    Metric(name="mb", kind=Kind.MEAN, direction=Direction.HIGHER, role=Role.PRIMARY, worst=0.0, best=1.0, resolution=0.7),
    Metric(name="q", kind=Kind.QUANTILE, quantile=0.9, direction=Direction.LOWER, role=Role.PRIMARY),
    Metric(name="qw", kind=Kind.QUANTILE, quantile=0.5, direction=Direction.HIGHER, role=Role.PRIMARY, worst=0.0),
)
VALUES = {
    "p": st.sampled_from([0.0, 1.0, math.nan]),
    "m": st.sampled_from([0.0, -3.0, 5.0, 1000.0, 1e9, -60_000.0, math.nan]),
    "mb": st.sampled_from([0.0, 0.5, 1.0, 7.0, math.nan]),
    "q": st.sampled_from([0.0, 1.0, 1e300, math.inf, math.nan]),
    "qw": st.sampled_from([0.0, 1e-9, 1.0, math.inf, math.nan]),
}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_legal_data_breaks_a_reading(data: st.DataObject) -> None:
    metrics = tuple(metric.model_copy(update={"scale": data.draw(st.sampled_from(list(Scale)))}) for metric in KINDS)
    count, groups = data.draw(st.integers(1, 400)), data.draw(st.sampled_from([1, 2, 30, 400]))
    chance = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    few = [data.draw(st.lists(VALUES[metric.name], min_size=1, max_size=3)) for metric in metrics]
    sides = [np.stack([chance.choice(values, count) for values in few]) for _ in range(2)]
    summary = Summary(Plan("production", metrics, 7, buckets=data.draw(st.sampled_from([2, 64]))))
    keys = chance.integers(0, groups, count).astype(np.uint64)
    summary.add(Batch(keys, chance.random(count) < data.draw(st.sampled_from([0.0, 0.1, 1.0])), np.arange(count), *sides))

    found = contrast(summary, Limits(min_clusters=20, max_cluster_share=1.0), Moment(now=END, hours=1.0), replicates=20)

    for reading in found.metrics:
        assert (reading.overall is None) == (reading.reason is not None)
        assert reading.overall is None or reading.overall.low <= reading.overall.improvement <= reading.overall.high
