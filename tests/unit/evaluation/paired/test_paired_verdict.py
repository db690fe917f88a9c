"""The truth table of the verdict, and what it says."""

import subprocess
import sys
from typing import Any

import pytest

from graft_api.comparison import (
    Clock,
    Comparison,
    Contrast,
    Direction,
    Estimate,
    Exclusion,
    HarmReading,
    Kind,
    Limits,
    Method,
    Metric,
    MetricReading,
    Outcome,
    Role,
    Scale,
)
from graft_evaluation.verdict import assess, verdict

PRIMARY = Metric(name="compile-errors", label="compile error rate", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.PRIMARY)
GUARDRAIL = Metric(name="refusals", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=0.01)
INFORMATIONAL = Metric(name="tokens", unit="tokens", kind=Kind.MEAN, direction=Direction.LOWER, role=Role.INFORMATIONAL, worst=4096.0)
LATENCY = Metric(
    name="latency",
    label="latency p95",
    unit="s",
    kind=Kind.QUANTILE,
    quantile=0.95,
    direction=Direction.LOWER,
    role=Role.GUARDRAIL,
    margin=0.1,
    scale=Scale.RELATIVE,
)
AT_END = Clock(elapsed=168, duration=168, max_duration=336)
BEFORE = Clock(elapsed=24, duration=168, max_duration=336)
AT_DEADLINE = Clock(elapsed=336, duration=168, max_duration=336)
SWITCHED = Clock(elapsed=24, duration=168, max_duration=336, incumbent_switched=True)


def interval(improvement: float, low: float, high: float) -> Estimate:
    return Estimate(
        improvement=improvement, low=low, high=high, incumbent=0.3, candidate=0.3 - improvement, pairs=1000, method=Method.BOOTSTRAP
    )


BETTER, SAME = interval(0.121, 0.098, 0.144), interval(0, -0.005, 0.005)
WORSE, UNSURE = interval(-0.1, -0.12, -0.08), interval(0, -0.1, 0.1)


def reading(metric: Metric, overall: Estimate | None, **more: Any) -> MetricReading:
    return MetricReading(**{"metric": metric, "overall": overall, "clusters": 300, "pairs": 1000} | more)


def contrast(*readings: MetricReading, **more: Any) -> Contrast:
    return Contrast(**{"name": "production", "pairs": 1000, "clusters": 300, "metrics": list(readings)} | more)


GOOD = contrast(reading(PRIMARY, BETTER), reading(GUARDRAIL, SAME))
HARM = HarmReading(clusters=400, high=-0.03, limit=-0.01, shown=True)
HARMED = contrast(reading(PRIMARY, BETTER), reading(GUARDRAIL, SAME, harm=HARM))
FEW = contrast(reading(PRIMARY, None, reason="99 conversations, 100 are needed"), clusters=99)
HEAVY = contrast(reading(PRIMARY, None), largest_cluster_share=0.3)


def excluded(incumbent: int, candidate: int, both: int = 0) -> Contrast:
    sides = (("Incumbent", incumbent), ("Candidate", candidate), ("Both", both))
    return GOOD.model_copy(update={"exclusions": [Exclusion(cause="cancelled", side=side, count=count) for side, count in sides]})


UNCHECKED = Limits(require_instrument=False)


def with_instrument(*readings: MetricReading) -> Comparison:
    return Comparison(contrasts=[GOOD], instrument=contrast(*readings, name="instrument"))


def alone(*readings: MetricReading) -> Comparison:
    return Comparison(contrasts=[contrast(*readings)])


@pytest.mark.parametrize(
    ("comparison", "clock", "outcome", "says"),
    [
        pytest.param(Comparison(contrasts=[GOOD]), AT_END, Outcome.PASSED, "fell by 12.1", id="everything shown passes at the horizon"),
        pytest.param(Comparison(contrasts=[GOOD]), BEFORE, Outcome.PENDING, "24 of 168 hours", id="there is no early success"),
        pytest.param(alone(reading(PRIMARY, WORSE)), BEFORE, Outcome.PENDING, "read once", id="nor an early failure by the interval"),
        pytest.param(Comparison(contrasts=[HARMED]), BEFORE, Outcome.FAILED, "harm: refusals", id="harm ends a test before the horizon"),
        pytest.param(Comparison(contrasts=[HARMED]), AT_END, Outcome.FAILED, "at least 3.0 points", id="and fails one that would pass"),
        pytest.param(alone(reading(PRIMARY, WORSE)), AT_END, Outcome.FAILED, "rose by 10.0", id="a primary shown to be worse fails"),
        pytest.param(
            alone(reading(PRIMARY, BETTER), reading(GUARDRAIL, WORSE)), AT_END, Outcome.FAILED, "refusals", id="a broken guardrail fails"
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER), reading(GUARDRAIL, UNSURE)),
            AT_END,
            Outcome.INCONCLUSIVE,
            "not shown",
            id="a guardrail not shown to hold is inconclusive",
        ),
        pytest.param(
            alone(reading(PRIMARY, UNSURE), reading(GUARDRAIL, WORSE)), AT_END, Outcome.FAILED, "refusals", id="one failure is a failure"
        ),
        pytest.param(
            alone(reading(PRIMARY, SAME), reading(GUARDRAIL, SAME)),
            AT_END,
            Outcome.INCONCLUSIVE,
            "compile error rate",
            id="A/A passes its guardrails and is inconclusive on its primary",
        ),
        pytest.param(alone(reading(GUARDRAIL, SAME)), AT_END, Outcome.PASSED, "refusals", id="guardrails alone can pass"),
        pytest.param(alone(reading(INFORMATIONAL, BETTER)), AT_END, Outcome.INCONCLUSIVE, "no metric decides", id="nothing decides"),
        pytest.param(
            alone(reading(PRIMARY, BETTER), reading(INFORMATIONAL, WORSE)),
            AT_END,
            Outcome.PASSED,
            "compile error rate",
            id="an informational metric decides nothing",
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, first_turn=WORSE)),
            AT_END,
            Outcome.INCONCLUSIVE,
            "on first turns alone",
            id="first turns that say the opposite contradict a pass",
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, first_turn=UNSURE)), AT_END, Outcome.PASSED, "fell", id="first turns that are unsure do not"
        ),
        pytest.param(
            alone(reading(GUARDRAIL, SAME, first_turn=WORSE)),
            AT_END,
            Outcome.INCONCLUSIVE,
            "on first turns alone",
            id="nor may a guardrail's first turns say the opposite",
        ),
        pytest.param(
            Comparison(contrasts=[FEW]), AT_END, Outcome.PENDING, "extended to at most 14 days", id="too few conversations extend"
        ),
        pytest.param(Comparison(contrasts=[FEW]), AT_DEADLINE, Outcome.INCONCLUSIVE, "99 conversations", id="up to the maximum only"),
        pytest.param(Comparison(contrasts=[HEAVY]), AT_DEADLINE, Outcome.INCONCLUSIVE, "30.0%", id="one big conversation proves nothing"),
        pytest.param(
            Comparison(contrasts=[GOOD, FEW.model_copy(update={"name": "control"})]),
            AT_DEADLINE,
            Outcome.INCONCLUSIVE,
            "control: 99",
            id="every contrast needs enough",
        ),
        pytest.param(
            alone(reading(PRIMARY, None, reason="too little beyond the quantile")),
            AT_DEADLINE,
            Outcome.INCONCLUSIVE,
            "too little beyond",
            id="a deciding metric without an interval is inconclusive",
        ),
        pytest.param(Comparison(contrasts=[excluded(0, 60)]), AT_END, Outcome.INCONCLUSIVE, "5.7%", id="one side excluded more"),
        pytest.param(Comparison(contrasts=[excluded(60, 60, 500)]), AT_END, Outcome.PASSED, "fell", id="both sides excluded alike"),
        pytest.param(
            Comparison(contrasts=[excluded(0, 0, 1001)]),
            AT_END,
            Outcome.INCONCLUSIVE,
            "production: 1001 of 2001 requests (50.0%) were left out, at most 50.0% may be",
            id="more than half was left out, of both sides alike",
        ),
        pytest.param(Comparison(contrasts=[excluded(10, 10, 980)]), AT_END, Outcome.PASSED, "fell", id="just half was left out"),
        pytest.param(
            Comparison(contrasts=[GOOD, excluded(0, 0, 1500).model_copy(update={"name": "control"})]),
            AT_END,
            Outcome.INCONCLUSIVE,
            "control: 1500 of 2500",
            id="of every contrast",
        ),
        pytest.param(Comparison(contrasts=[GOOD], lost_pairs=400), AT_END, Outcome.INCONCLUSIVE, "28.6%", id="too many pairs were lost"),
        pytest.param(Comparison(contrasts=[GOOD], lost_pairs=100), AT_END, Outcome.PASSED, "fell", id="a few pairs were lost"),
        pytest.param(Comparison(contrasts=[GOOD], broken=["judge: 401"]), BEFORE, Outcome.ERROR, "judge: 401", id="a broken scorer"),
        pytest.param(
            Comparison(contrasts=[HARMED], broken=["judge: 401"]), BEFORE, Outcome.ERROR, "judge", id="a broken instrument shows no harm"
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, scorer_failures=60)), AT_END, Outcome.ERROR, "failed on 5.7%", id="a scorer that fails too often"
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, pairs=100, scorer_failures=10)),
            AT_END,
            Outcome.ERROR,
            "failed on 9.1%",
            id="too often of the pairs that it was asked, not of all",
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, transient_failures=600)),
            BEFORE,
            Outcome.PENDING,
            "24 of 168",
            id="a judge that was away may be back",
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, transient_failures=60)),
            AT_END,
            Outcome.ERROR,
            "failed on 5.7%",
            id="at the end it was away too often",
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, scorer_failures=30, transient_failures=30)),
            AT_END,
            Outcome.ERROR,
            "failed on 5.7%",
            id="whoever was at fault for the rest",
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, scorer_failures=60, transient_failures=40)),
            BEFORE,
            Outcome.ERROR,
            "failed on 5.5%",
            id="what its author must change ends a test at once, away or not",
        ),
        pytest.param(
            alone(reading(PRIMARY, BETTER, transient_failures=40)), AT_END, Outcome.PASSED, "fell", id="a judge that was away for a while"
        ),
        pytest.param(
            alone(reading(PRIMARY, None, pairs=0, scorer_failures=100)), BEFORE, Outcome.ERROR, "100.0%", id="a scorer that always fails"
        ),
        pytest.param(
            with_instrument(reading(PRIMARY, SAME, scorer_failures=60)), AT_END, Outcome.ERROR, "failed on", id="a scorer of the instrument"
        ),
        pytest.param(
            alone(reading(PRIMARY, WORSE, first_turn=BETTER)),
            AT_END,
            Outcome.INCONCLUSIVE,
            "fell by 12.1 points [9.8, 14.4], more than the 0.0 it had to: this contradicts",
            id="first turns that say the opposite contradict a failure",
        ),
        pytest.param(
            alone(reading(PRIMARY, WORSE, first_turn=BETTER), reading(GUARDRAIL, WORSE)),
            AT_END,
            Outcome.FAILED,
            "refusals",
            id="but not another metric's",
        ),
        pytest.param(
            Comparison(contrasts=[excluded(0, 30, 9000)]),
            AT_END,
            Outcome.INCONCLUSIVE,
            "2.9%",
            id="what both sides excluded does not hide a difference",
        ),
        pytest.param(alone(reading(PRIMARY, BETTER, scorer_failures=40)), AT_END, Outcome.PASSED, "fell", id="a scorer that fails rarely"),
        pytest.param(
            with_instrument(reading(GUARDRAIL, interval(-0.02, -0.03, -0.01))),
            AT_END,
            Outcome.ERROR,
            "the same model, differ in refusals",
            id="an instrument off by more than half a margin",
        ),
        pytest.param(
            with_instrument(reading(GUARDRAIL, interval(0.02, 0.01, 0.03))), AT_END, Outcome.ERROR, "differ", id="in either direction"
        ),
        pytest.param(
            with_instrument(reading(GUARDRAIL, interval(-0.006, -0.008, -0.004))),
            AT_END,
            Outcome.INCONCLUSIVE,
            "the same model, differ in refusals",
            id="one that seems to be off, and differs, is a doubt",
        ),
        pytest.param(
            with_instrument(reading(GUARDRAIL, interval(-0.006, -0.013, 0.001))),
            AT_END,
            Outcome.PASSED,
            "fell",
            id="unless it may be chance",
        ),
        pytest.param(
            with_instrument(reading(GUARDRAIL, interval(-0.004, -0.008, -0.001))),
            AT_END,
            Outcome.PASSED,
            "fell",
            id="or differs by no more than half a margin",
        ),
        pytest.param(
            with_instrument(reading(PRIMARY, interval(0.09, 0.08, 0.1))),
            AT_END,
            Outcome.ERROR,
            "compile error rate",
            id="an instrument that could have made the claim",
        ),
        pytest.param(
            with_instrument(reading(PRIMARY, interval(0.03, 0.02, 0.04))), AT_END, Outcome.PASSED, "fell", id="one that could not have"
        ),
        pytest.param(Comparison(contrasts=[GOOD]), SWITCHED, Outcome.INCONCLUSIVE, "switched", id="the incumbent was switched"),
        pytest.param(Comparison(contrasts=[HARMED]), SWITCHED, Outcome.FAILED, "harm", id="harm is harm whoever switched"),
    ],
)
def test_the_verdict(comparison: Comparison, clock: Clock, outcome: Outcome, says: str) -> None:
    found = verdict(comparison, UNCHECKED, clock)

    assert found.outcome is outcome
    assert says in found.sentence
    assert found.sentence.startswith(f"{outcome.value}: ")


@pytest.mark.parametrize(
    ("comparison", "limits", "outcome"),
    [
        pytest.param(Comparison(contrasts=[GOOD]), Limits(), Outcome.INCONCLUSIVE, id="without an instrument nothing passes"),
        pytest.param(Comparison(contrasts=[GOOD]), UNCHECKED, Outcome.PASSED, id="unless that was asked for"),
        pytest.param(alone(reading(PRIMARY, WORSE)), Limits(), Outcome.FAILED, id="but it fails"),
        pytest.param(with_instrument(reading(PRIMARY, SAME)), Limits(), Outcome.INCONCLUSIVE, id="every metric is checked"),
        pytest.param(with_instrument(reading(PRIMARY, SAME), reading(GUARDRAIL, SAME)), Limits(), Outcome.PASSED, id="all were"),
        pytest.param(
            Comparison(
                contrasts=[GOOD, contrast(reading(LATENCY, interval(0.0, -0.01, 0.01)), name="control")],
                instrument=contrast(reading(PRIMARY, SAME), reading(GUARDRAIL, SAME), name="instrument"),
            ),
            Limits(),
            Outcome.PASSED,
            id="but those of the control share, where both sides are measured alike",
        ),
    ],
)
def test_a_pass_needs_an_instrument_that_was_held_against_itself(comparison: Comparison, limits: Limits, outcome: Outcome) -> None:
    assert verdict(comparison, limits, AT_END).outcome is outcome


@pytest.mark.parametrize(
    ("metric", "estimate", "outcome"),
    [
        pytest.param(PRIMARY, interval(0.02, 0.0, 0.04), Outcome.INCONCLUSIVE, id="a primary that touches its margin"),
        pytest.param(PRIMARY, interval(0.02, 1e-9, 0.04), Outcome.PASSED, id="a primary just beyond its margin"),
        pytest.param(PRIMARY, interval(-0.02, -0.04, 0.0), Outcome.INCONCLUSIVE, id="a primary whose other end touches it"),
        pytest.param(PRIMARY, interval(-0.02, -0.04, -1e-9), Outcome.FAILED, id="a primary wholly short of its margin"),
        pytest.param(GUARDRAIL, interval(-0.005, -0.01, 0.0), Outcome.INCONCLUSIVE, id="a guardrail that touches its margin"),
        pytest.param(GUARDRAIL, interval(-0.005, -0.0099, -0.001), Outcome.PASSED, id="a guardrail worse, but within its margin"),
        pytest.param(GUARDRAIL, interval(-0.02, -0.03, -0.01), Outcome.INCONCLUSIVE, id="a guardrail whose other end touches it"),
        pytest.param(GUARDRAIL, interval(-0.02, -0.03, -0.0101), Outcome.FAILED, id="a guardrail wholly beyond its margin"),
        pytest.param(INFORMATIONAL, WORSE, Outcome.INFORMATIONAL, id="an informational metric"),
        pytest.param(PRIMARY, None, Outcome.INCONCLUSIVE, id="no interval"),
    ],
)
def test_what_an_interval_says(metric: Metric, estimate: Estimate | None, outcome: Outcome) -> None:
    assert assess(metric, estimate) is outcome


@pytest.mark.parametrize(
    ("metric", "estimate", "sentence"),
    [
        (PRIMARY, BETTER, "compile error rate fell by 12.1 points [9.8, 14.4], more than the 0.0 it had to"),
        (PRIMARY, WORSE, "compile error rate rose by 10.0 points [8.0, 12.0], where it had to fall by more than 0.0"),
        (GUARDRAIL, interval(-0.002, -0.006, 0.002), "refusals rose by 0.2 points [-0.2, 0.6], within the 1.0 points allowed"),
        (GUARDRAIL, SAME, "refusals did not change: 0.0 points [-0.5, 0.5]; it may get worse by 1.0 points at most"),
        (LATENCY, interval(-0.03, -0.05, -0.01), "latency p95 rose by 3.0 % [1.0, 5.0], within the 10.0 % allowed"),
        (LATENCY, interval(-0.2, -0.3, -0.15), "latency p95 rose by 20.0 % [15.0, 30.0], more than the 10.0 % allowed"),
        (INFORMATIONAL, interval(12.34, 10.2, 14.5), "tokens fell by 12.34 tokens [10.2, 14.5]"),
        (
            PRIMARY.model_copy(update={"margin": 0.02}),
            interval(0.03, 0.01, 0.05),
            "compile error rate fell by 3.0 points [1.0, 5.0]; it had to fall by more than 2.0, which is not shown",
        ),
    ],
)
def test_a_sentence_has_the_number_and_the_bound(metric: Metric, estimate: Estimate, sentence: str) -> None:
    found = verdict(alone(reading(metric, estimate)), Limits(), AT_END)

    assert [one.sentence for one in found.metrics] == [sentence]


def test_every_number_is_there() -> None:
    found = verdict(Comparison(contrasts=[excluded(3, 4, 5)]), Limits(), AT_END)

    assert [(one.contrast, one.role, one.clusters, one.pairs) for one in found.metrics] == [
        ("production", Role.PRIMARY, 300, 1000),
        ("production", Role.GUARDRAIL, 300, 1000),
    ]
    assert [(one.side, one.count) for one in found.exclusions] == [("Incumbent", 3), ("Candidate", 4), ("Both", 5)]
    assert {one.contrast for one in found.exclusions} == {"production"}
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_every_exclusion_names_its_contrast() -> None:
    left_out = excluded(1, 0).exclusions[:1]
    names = ("production", "control", "instrument")
    production, control, instrument = (contrast(reading(PRIMARY, BETTER), name=name, exclusions=left_out) for name in names)
    compared = Comparison(contrasts=[production, control], instrument=instrument)

    assert [one.contrast for one in verdict(compared, Limits(), AT_END).exclusions] == list(names)
    assert [one.contrast for one in verdict(compared, Limits(), BEFORE).exclusions] == list(names)
    assert production.exclusions[0].contrast is None


def test_a_pending_test_shows_no_interval() -> None:
    assert verdict(Comparison(contrasts=[GOOD]), Limits(), BEFORE).metrics == []


def test_the_operator_reads_verdicts_where_there_is_no_numpy() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(('numpy', 'scipy', 'zstandard', 'orjson', 'yaml')))"
    script = f"{absent}; import graft_evaluation.verdict, graft_evaluation.paired.sentences; print(graft_evaluation.verdict.verdict)"

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.startswith("<function verdict")


OFF = reading(GUARDRAIL, interval(-0.02, -0.03, -0.01))
"""Of the instrument: beyond half of the guardrail's margin."""


@pytest.mark.parametrize(
    ("instrument", "outcome", "says"),
    [
        pytest.param(
            reading(GUARDRAIL, SAME), Outcome.FAILED, "harm: refusals", id="the same model twice is the same: it is the candidate"
        ),
        pytest.param(reading(GUARDRAIL, None), Outcome.FAILED, "harm: refusals", id="nor is an instrument that says nothing to blame"),
        pytest.param(OFF, Outcome.ERROR, "the same model, differ in refusals", id="the same model twice differs: the shadow does the harm"),
        pytest.param(
            reading(GUARDRAIL, None, harm=HARM),
            Outcome.ERROR,
            "the same model: harm: refusals",
            id="the same model twice shows the same harm",
        ),
        pytest.param(reading(PRIMARY, WORSE), Outcome.FAILED, "harm: refusals", id="another metric's instrument does not count"),
    ],
)
def test_harm_is_the_candidates_only_where_the_instrument_shows_none(instrument: MetricReading, outcome: Outcome, says: str) -> None:
    comparison = Comparison(contrasts=[HARMED], instrument=contrast(instrument, name="instrument"))
    found = verdict(comparison, Limits(), BEFORE)
    assert found.outcome is outcome
    assert says in found.sentence
    assert any("harm: refusals got worse" in reason for reason in found.reasons), "it is said in any case"


THIN = interval(0.02, 0.006, 0.034)
BY_SHARE = PRIMARY.model_copy(update={"scale": Scale.RELATIVE, "margin": 0.01})
SCORE = Metric(name="score", kind=Kind.MEAN, direction=Direction.HIGHER, role=Role.GUARDRAIL, margin=0.01, worst=0.0, best=1.0)


@pytest.mark.parametrize(
    ("found", "twice", "passes"),
    [
        pytest.param(reading(PRIMARY, THIN), None, True, id="no answer broke it"),
        pytest.param(reading(PRIMARY, THIN, scorer_failures=20), None, False, id="two in a hundred are more than the pass has to spare"),
        pytest.param(reading(PRIMARY, BETTER, scorer_failures=20), None, True, id="and less than a clear pass has"),
        pytest.param(reading(PRIMARY, THIN, transient_failures=20), None, False, id="whoever was at fault"),
        pytest.param(
            reading(PRIMARY, THIN, scorer_failures=20),
            reading(PRIMARY, SAME, scorer_failures=20),
            True,
            id="the same model breaks it as often",
        ),
        pytest.param(
            reading(PRIMARY, THIN, scorer_failures=40), reading(PRIMARY, SAME, scorer_failures=20), False, id="half as often is no excuse"
        ),
        pytest.param(
            reading(BY_SHARE, interval(0.05, 0.02, 0.08), scorer_failures=5), None, False, id="as a share of the incumbent's value"
        ),
        pytest.param(reading(SCORE, SAME, scorer_failures=30), None, False, id="a mean that should be high"),
        pytest.param(reading(SCORE, SAME, scorer_failures=10), None, True, id="a mean within its margin all the same"),
    ],
)
def test_what_breaks_its_scorer_makes_no_candidate_better(found: MetricReading, twice: MetricReading | None, passes: bool) -> None:
    instrument = contrast(twice, name="instrument") if twice else None
    judged = verdict(Comparison(contrasts=[contrast(found)], instrument=instrument), UNCHECKED, AT_END)
    assert judged.outcome is (Outcome.PASSED if passes else Outcome.INCONCLUSIVE)
    assert passes or f"the scorer of {found.metric.called()} failed on" in judged.sentence


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"kind": Kind.QUANTILE}, "quantile belongs", id="a quantile without its q"),
        pytest.param({"kind": Kind.MEAN}, "never came", id="a mean without its worst"),
        pytest.param({"kind": Kind.MEAN, "worst": 0.0, "best": 1.0}, "better than worst", id="lower is better, and best is above worst"),
        pytest.param({"kind": Kind.PROPORTION, "worst": 0.5}, "bad end", id="half an event"),
        pytest.param({"kind": Kind.PROPORTION, "worst": 0.0}, "bad end", id="a proportion whose worst is its best"),
        pytest.param({"kind": Kind.QUANTILE, "quantile": 0.5, "worst": -1.0}, "not negative", id="a quantile whose worst is negative"),
        pytest.param({"kind": Kind.MEAN, "worst": 1e5}, "coarser resolution", id="a mean whose worst cannot be summed"),
        pytest.param({"kind": Kind.MEAN, "worst": 1.0, "best": -1e5}, "coarser resolution", id="nor its best"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Metric(name="m", direction=Direction.LOWER, role=Role.PRIMARY, **fields)
