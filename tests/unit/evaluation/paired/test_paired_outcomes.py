"""An answer that never came counts as the worst, on either side, and never leaves the test."""

import math

import numpy as np
import pytest

from graft_api.comparison import Direction, Estimate, Kind, Limits, Metric, Role
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.outcomes import Answer, clipped, counted, value, worst
from graft_evaluation.paired.reading import Moment, contrast
from graft_evaluation.paired.summary import Plan, Summary

ERRORS = Metric(name="errors", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.PRIMARY)
VALID = Metric(name="valid", kind=Kind.PROPORTION, direction=Direction.HIGHER, role=Role.PRIMARY)
SCORE = Metric(name="score", kind=Kind.MEAN, direction=Direction.HIGHER, role=Role.PRIMARY, worst=-1.0, best=1.0)
LATENCY = Metric(name="latency", kind=Kind.QUANTILE, quantile=0.95, direction=Direction.LOWER, role=Role.GUARDRAIL)
RATE = Metric(name="rate", kind=Kind.QUANTILE, quantile=0.5, direction=Direction.HIGHER, role=Role.GUARDRAIL)
LIMITED = LATENCY.model_copy(update={"worst": 60.0})


@pytest.mark.parametrize(
    ("metric", "expected"), [(ERRORS, 1.0), (VALID, 0.0), (SCORE, -1.0), (LATENCY, math.inf), (RATE, 0.0), (LIMITED, 60.0)]
)
def test_the_worst_is_on_the_bad_side(metric: Metric, expected: float) -> None:
    assert worst(metric) == expected


@pytest.mark.parametrize(
    ("metric", "answer", "measured", "expected"),
    [
        pytest.param(ERRORS, Answer.COMPLETE, 0.0, 0.0, id="a complete answer counts as what was measured"),
        pytest.param(ERRORS, Answer.TIMEOUT, 0.0, 1.0, id="a timeout is an error whatever the scorer saw"),
        pytest.param(ERRORS, Answer.ERROR, None, 1.0, id="a server error is an error"),
        pytest.param(ERRORS, Answer.LENGTH, 0.0, 1.0, id="an answer that was cut off is not one"),
        pytest.param(SCORE, Answer.EMPTY, 0.9, -1.0, id="an empty answer scores the worst"),
        pytest.param(SCORE, Answer.COMPLETE, None, -1.0, id="a score that is missing on one side is the worst"),
        pytest.param(SCORE, Answer.COMPLETE, math.nan, -1.0, id="so is one that is not a number"),
        pytest.param(LATENCY, Answer.EMPTY, 0.01, math.inf, id="an empty answer that came fast is not fast"),
        pytest.param(LATENCY, Answer.LENGTH, 3.5, 3.5, id="an answer that was cut off took as long as it took"),
        pytest.param(LATENCY, Answer.TIMEOUT, 30.0, math.inf, id="a timeout is slower than anything"),
    ],
)
def test_what_an_answer_counts_as(metric: Metric, answer: Answer, measured: float | None, expected: float) -> None:
    assert value(metric, answer, measured) == expected


@pytest.mark.parametrize(
    ("metric", "measured", "expected"),
    [
        pytest.param(SCORE, -7.0, -1.0, id="no score is worse than none"),
        pytest.param(SCORE, 7.0, 1.0, id="nor better than the best"),
        pytest.param(SCORE, 1e300, -1.0, id="what cannot be summed is the worst, not left out"),
        pytest.param(SCORE, math.inf, -1.0, id="whichever way"),
        pytest.param(SCORE, -math.inf, -1.0, id="or the other"),
        pytest.param(LIMITED, 70.0, 60.0, id="a slow answer is not slower than none"),
        pytest.param(LIMITED, math.inf, 60.0, id="however slow"),
        pytest.param(LATENCY, math.inf, math.inf, id="a quantile knows infinity"),
        pytest.param(LATENCY, -1.0, math.inf, id="but nothing negative"),
        pytest.param(RATE, -1.0, 0.0, id="where more is better, too"),
        pytest.param(RATE, 5.0, 5.0, id="a quantity is what it is"),
    ],
)
def test_what_a_measured_value_counts_as(metric: Metric, measured: float, expected: float) -> None:
    assert counted(metric, measured) == expected
    assert value(metric, Answer.COMPLETE, measured) == expected


def test_a_proportion_of_halves_is_the_scorers_fault() -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        counted(ERRORS, 0.5)


def test_clipping_leaves_what_did_not_come_alone() -> None:
    assert clipped(SCORE, np.array([np.nan, 0.5, -3.0])).tolist()[1:] == [0.5, -1.0]
    assert math.isnan(clipped(SCORE, np.array([np.nan]))[0])


@pytest.mark.parametrize("metric", [SCORE, LIMITED], ids=["mean", "quantile"])
def test_a_timeout_never_beats_a_complete_answer(metric: Metric) -> None:
    terrible = -50.0 if metric is SCORE else 500.0
    summary = Summary(Plan("production", (metric,), 1))
    sides = np.array([[terrible, terrible]]), np.array([[worst(metric), np.nan]])
    summary.add(Batch(np.arange(2, dtype=np.uint64), np.ones(2, bool), np.arange(2), *sides))

    assert summary.sums[..., 3].sum() == 0, "nothing is apart"
    assert (summary.bins[:, :, 0] == summary.bins[:, :, 1]).all()


def measured(*, dropping: bool) -> Estimate:
    """The candidate is as good as the incumbent, but times out on the tenth of the prompts that is hard."""
    chance = np.random.default_rng(5)
    hard = chance.random(3000) < 0.1
    wrong, again = (np.where(hard, chance.random(3000) < 0.8, chance.random(3000) < 0.1).astype(float) for _ in range(2))
    candidate = [value(ERRORS, Answer.TIMEOUT if h else Answer.COMPLETE, w) for h, w in zip(hard, again, strict=True)]
    # What the rule prevents: its timeouts leave the candidate's side, as if they had never been asked.
    candidate = np.where(hard, 0.0, candidate) if dropping else np.array(candidate)
    keys = np.arange(3000, dtype=np.uint64) // np.uint64(2)
    summary = Summary(Plan("production", (ERRORS,), 1))
    summary.add(Batch(keys, np.arange(3000) % 2 == 0, np.arange(3000), wrong[None], candidate[None]))
    found = contrast(summary, Limits(), Moment(now=0, hours=1.0)).metrics[0].overall
    assert found is not None
    return found


def test_a_candidate_that_times_out_on_hard_prompts_does_not_look_better() -> None:
    assert measured(dropping=True).low > 0.04, "without the rule it would pass"
    assert measured(dropping=False).high < 0, "with it, it fails"


def test_a_value_that_is_missing_on_one_side_is_counted_as_the_worst_and_reported() -> None:
    nan = np.nan
    summary = Summary(Plan("production", (ERRORS,), 1))
    sides = np.array([[0.0, nan, 0.0, nan]]), np.array([[0.0, 0.0, nan, nan]])
    summary.add(Batch(np.arange(4, dtype=np.uint64), np.ones(4, bool), np.arange(4), *sides))

    assert summary.missing.tolist() == [[1, 1]]
    assert summary.sums[0].sum(axis=(0, 1)).tolist() == [3, 1, 1, 2], "three pairs; one not sampled"
