"""What follows from counts: the interval against an independent implementation, and each way of not knowing."""

import random

import pytest
from statsmodels.stats.proportion import proportion_confint

from graft_api.collect import OBSERVED_HOURS, ObservedCounts, ObservedReading
from graft_api.criteria import Criterion
from graft_api.schema import parse
from graft_operator.tuningpolicy.reading import Measured, judge, of_collector, wilson

AT = 1_795_000_000
PROMQL = {"bad": "b[$window]", "total": "t[$window]", "present": "up"}


def criterion(**more):
    base = {"name": "errors", "promql": PROMQL, "window": "168h", "above": "0.03"}
    return parse(Criterion, {key: value for key, value in (base | more).items() if value is not None})


def observed(score="compile", **more):
    return criterion(promql=None, observed={"score": score, "metric": more.pop("metric", "error_rate")}, **more)


def reading(answers=1000, wrong=50, broken=0, *, at=AT, covered=1.0, domain="dsl", left_out=0):
    many = len(OBSERVED_HOURS)
    counts = ObservedCounts(domain=domain, score="compile", answers=[answers] * many, wrong=[wrong] * many, broken=[broken] * many)
    return ObservedReading(at=at, covered=[covered] * many, counts=[counts], left_out=left_out)


def test_the_interval_is_the_one_of_statsmodels():
    chance = random.Random(3)  # noqa: S311 - of a test
    cases = [(0, 10), (10, 10), (1, 1), (3, 100), (5, 7_000_000), *((chance.uniform(0, n), n) for n in (2.5, 40, 999.5, 80_000))]
    for events, total in cases:
        assert wilson(events, total) == pytest.approx(proportion_confint(events, total, method="wilson"), abs=1e-12)


@pytest.mark.parametrize(
    ("bound", "events", "result"),
    [
        ({"above": "0.03"}, 345, "Met"),
        ({"above": "0.03"}, 330, "NotMet"),
        ({"above": "0.03"}, 100, "NotMet"),
        ({"above": None, "below": "0.95"}, 9_450, "Met"),
        ({"above": None, "below": "0.95"}, 9_460, "NotMet"),
        ({"above": None, "below": "0.95"}, 9_990, "NotMet"),
    ],
    ids=["lower end above", "estimate above, lower end not", "far below", "upper end below", "estimate below, upper end not", "far above"],
)
def test_the_nearer_end_of_the_interval_is_held_against_the_threshold(bound, events, result):
    low, high = proportion_confint(events, 10_000, method="wilson")
    expected = low > 0.03 if bound["above"] else high < 0.95
    status = judge(criterion(**bound), Measured(events=events, total=10_000, coverage=1.0))
    assert (status.result, expected) == (result, result == "Met")
    assert (status.low, status.high) == pytest.approx((low, high))


def test_a_plain_number_is_held_as_it_is_and_says_that_it_has_no_interval():
    plain = criterion(promql={"query": "q[$window]", "bound": "None", "present": "up"}, above="2.5")
    status = judge(plain, Measured(value=2.6, coverage=0.95))
    assert (status.result, status.low, status.samples) == ("Met", None, None)
    assert status.sentence == "2.6 over 168h, a plain number without an interval: it is above 2.5"
    assert judge(plain, Measured(value=2.5, coverage=0.95)).result == "NotMet"
    assert judge(plain, Measured(value=9.0, coverage=0.95, total=3)).result == "Unknown"


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (Measured(events=900, total=1000), "data of 0 % of the 168h"),
        (Measured(events=900, total=1000, coverage=0.8999), "data of 90 % of the 168h, at least 90 % are needed"),
        (Measured(events=499, total=499, coverage=1), "499 samples over 168h, minSamples is 500"),
        (Measured(total=0.0, coverage=1), "0 samples over 168h"),
        (Measured(coverage=1), "no samples over 168h"),
        (Measured(events=900, total=1000, coverage=1, trouble="it is away"), "it is away"),
    ],
    ids=["coverage unknown", "a gap", "too few", "none", "no counts", "trouble"],
)
def test_whatever_is_missing_makes_it_unknown(measured, words):
    status = judge(criterion(), measured)
    assert status.result == "Unknown"
    assert words in status.sentence


def test_at_the_bounds_it_is_known():
    assert judge(criterion(), Measured(events=500, total=500, coverage=0.9)).result == "Met"


class TestOfTheCollector:
    @pytest.mark.parametrize(("metric", "events"), [("error_rate", 50), ("accuracy", 950)])
    def test_wrong_or_right_answers_of_the_window_are_counted(self, metric, events):
        many = list(range(1000, 1007))
        counts = ObservedCounts(domain="dsl", score="compile", answers=many, wrong=[50] * 7, broken=[0] * 7)
        told = ObservedReading(at=AT, covered=[0.1, 0.2, 0.3, 0.4, 0.95, 0.6, 0.7], counts=[counts])
        measured = of_collector(observed(metric=metric), "dsl", told, AT + 60)
        assert (measured.events, measured.total, measured.coverage) == (events + (4 if metric == "accuracy" else 0), 1004, 0.95)
        assert not measured.trouble

    @pytest.mark.parametrize(
        ("told", "words"),
        [
            (None, "tells of no observations"),
            (reading(at=AT - 7300), "2.0 hours away from now"),
            (reading(at=AT + 7300), "2.0 hours away from now"),
            (reading(domain="other"), "has no score compile of domain dsl"),
            (reading(domain="other", left_out=3), "3 scores had no room"),
            (reading(answers=899, broken=101), "the scorer failed on 101 of 1,000 answers"),
        ],
        ids=["nothing", "stale", "from the future", "not observed", "left out", "a broken scorer"],
    )
    def test_what_cannot_be_read_is_a_fault(self, told, words):
        measured = of_collector(observed(), "dsl", told, AT)
        assert words in measured.trouble
        assert measured.fault

    def test_minutes_between_the_clocks_and_a_tenth_of_broken_answers_do_no_harm(self):
        measured = of_collector(observed(), "dsl", reading(answers=900, broken=100, at=AT - 600), AT)
        assert (measured.total, measured.trouble) == (900, "")

    def test_a_collector_that_looked_too_little_is_no_fault(self):
        measured = of_collector(observed(), "dsl", reading(covered=0.3), AT)
        assert not measured.fault
        assert judge(observed(), measured).result == "Unknown"
