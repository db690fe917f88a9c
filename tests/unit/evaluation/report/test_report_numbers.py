"""The numbers of the drawings, against numpy and against the pairs themselves."""

import math

import numpy as np
import pytest
from simulated_pairs import METRICS, START, simulated

from graft_api.comparison import Clock, Direction, Kind, Metric, Role
from graft_evaluation.pairs.question import question
from graft_evaluation.pairs.recorded import Place
from graft_evaluation.pairs.recording import recording, worsening
from graft_evaluation.pairs.values import MOST_BINS, Values
from graft_evaluation.report.build import histogram, report
from graft_evaluation.report.document import Report
from graft_evaluation.verdict import verdict

LATENCY = Metric(name="latency", kind=Kind.QUANTILE, quantile=0.9, direction=Direction.LOWER, role=Role.GUARDRAIL)
ERRORS = Metric(name="errors", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.PRIMARY)
SCORE = Metric(name="score", kind=Kind.MEAN, direction=Direction.HIGHER, role=Role.GUARDRAIL, worst=0.0)


def counted(metric, incumbent, candidate, parts=1):
    values = Values(metric)
    for some in zip(np.array_split(incumbent, parts), np.array_split(candidate, parts), strict=True):
        values.add(*some)
    return histogram(values)


def made(tmp_path, lines):
    (tmp_path / "metrics.yaml").write_text(METRICS)
    read = recording(question(tmp_path, None), ((Place(tmp_path, number), line) for number, line in enumerate(lines)))
    compared = read.comparison()
    return report(read, compared, verdict(compared, read.question.limits, Clock(elapsed=168, duration=168, max_duration=168)))


def test_a_week_is_drawn_by_the_day_and_every_pair_is_in_one(tmp_path):
    lines = simulated(400, 0.15)
    found = made(tmp_path, lines)
    periods = found.plots[0].periods
    assert all(period.seconds == 86_400 and period.start % 86_400 == 0 for period in periods)
    assert sum(period.pairs for period in periods) == len(lines)
    for period in periods:
        here = [line.values["production"]["compile-errors"] for line in lines if 0 <= line.at - period.start < 86_400]
        incumbent, candidate = (np.mean([1 if pair[side] is None else pair[side] for pair in here]) for side in (0, 1))
        assert period.improvement == pytest.approx(incumbent - candidate)
        assert period.low < period.improvement < period.high


def test_a_day_is_drawn_by_the_hour_and_thin_hours_have_no_interval(tmp_path):
    periods = made(tmp_path, simulated(100, 0.15, hours=24)).plots[0].periods
    assert {period.seconds for period in periods} == {3600}
    assert len(periods) > 20
    assert all((period.low is not None) == (period.clusters >= 20) for period in periods)


def test_latency_is_counted_in_logarithmic_bins_and_absences_beside_them():
    chance = np.random.default_rng(5)
    incumbent, candidate = chance.lognormal(0, 1, (2, 1000))
    candidate[:7], incumbent[7:10], candidate[7:10] = np.inf, np.nan, np.nan
    found = counted(LATENCY, incumbent, candidate)
    steps = np.diff(np.log(found.edges))
    assert found.logarithmic
    assert MOST_BINS / 2 < len(steps) <= MOST_BINS
    assert steps == pytest.approx(np.full(len(steps), steps[0]))
    assert (sum(found.incumbent), sum(found.candidate)) == (997, 990)
    assert (found.never_incumbent, found.never_candidate) == (0, 7)
    inner = found.edges[12]
    assert sum(found.incumbent[12:]) == (incumbent[~np.isnan(incumbent)] >= inner).sum()


@pytest.mark.parametrize("metric", [LATENCY, SCORE], ids=["logarithms", "values"])
def test_values_that_come_in_any_order_are_counted_as_all_at_once(metric):
    chance = np.random.default_rng(6)
    sides = np.sort(chance.lognormal(0, 2, (2, 500)))
    sides[0, :5] = 0.0
    whole = counted(metric, *sides)
    assert counted(metric, *sides, parts=60) == whole
    assert counted(metric, *sides[:, ::-1], parts=60) == whole
    for side, counts in zip(sides, (whole.incumbent, whole.candidate), strict=True):
        held = np.clip(side, whole.edges[0], None)
        assert counts == np.histogram(held, whole.edges)[0].tolist()


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        pytest.param(LATENCY, [0.0, 0.0], id="no time at all"),
        pytest.param(LATENCY, [2.0, 2.0], id="always the same time"),
        pytest.param(LATENCY, [0.0, 3.0], id="zeros have no logarithm"),
        pytest.param(LATENCY, [np.inf, np.inf], id="none came"),
        pytest.param(SCORE, [0.5, 0.5], id="always the same score"),
        pytest.param(SCORE, [], id="no pairs"),
    ],
)
def test_a_histogram_of_little_loses_nothing(metric, values):
    values = np.array(values, float)
    found = counted(metric, values, values)
    assert sum(found.incumbent) + found.never_incumbent == len(values)
    assert len(found.edges) == len(found.incumbent) + 1
    assert np.all(np.diff(found.edges) > 0)


def test_ones_and_zeros_are_counted_apart():
    found = counted(ERRORS, np.array([0.0, 1, 1, 0]), np.array([0.0, 0, 1, np.nan]))
    assert (found.incumbent, found.candidate, found.never_candidate) == ([2, 2], [2, 1], 1)


@pytest.mark.parametrize(
    ("metric", "sides", "by"),
    [
        pytest.param(ERRORS, (0.0, 1.0), 1.0, id="right became wrong"),
        pytest.param(ERRORS, (1.0, 0.0), -1.0, id="wrong became right"),
        pytest.param(ERRORS, (0.0, None), 1.0, id="never came is wrong"),
        pytest.param(SCORE, (0.7, 0.2), pytest.approx(0.5), id="a score fell"),
        pytest.param(LATENCY, (1.0, None), math.inf, id="never came took for ever"),
        pytest.param(LATENCY, (None, None), 0.0, id="both never came"),
    ],
)
def test_how_much_worse(metric, sides, by):
    assert worsening(metric, sides) == by


def test_the_worst_pairs_are_the_worst(tmp_path):
    lines = simulated(200, 0.3)
    for number, fall in ((50, 0.9), (7, 0.8), (120, 0.7), (3, 0.65), (90, 0.6)):
        line = lines[number]
        values = {**line.values, "production": {**line.values["production"], "score": (1.0, 1.0 - fall)}}
        lines[number] = line.model_copy(update={"values": values})
    worst = [pair for pair in made(tmp_path, lines).worst if pair.metric == "score"]
    assert [pair.request_id for pair in worst] == [f"request-{number}" for number in (50, 7, 120, 3, 90)]
    assert worst[0].incumbent.text.startswith("rule r50 ")


def test_the_document_survives_json(tmp_path):
    found = made(tmp_path, simulated(100, 0.15))
    text = found.model_dump_json(by_alias=True, exclude_none=True)
    assert Report.model_validate_json(text) == found
    assert found.first >= START
