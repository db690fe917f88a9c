"""The harm sequence: against its published formula, silent over a week of looks, and able to stop."""

import math

import numpy as np
import pytest
from scipy import stats

from graft_api.comparison import HARM_ALPHA, Direction, HarmReading, Kind, Metric, Role, Scale
from graft_evaluation.paired.harm import read
from graft_evaluation.paired.sample import Conversations
from graft_evaluation.paired.sequence import MIN_CLOSED, half_width
from graft_evaluation.paired.summary import Plan

HOURS, PER_HOUR = 168, 10
ERRORS = Metric(name="errors", kind=Kind.PROPORTION, direction=Direction.LOWER, role=Role.GUARDRAIL, margin=0.02)
PRIMARY = ERRORS.model_copy(update={"role": Role.PRIMARY, "margin": 0.0})


def table(pairs: np.ndarray, incumbent: np.ndarray, candidate: np.ndarray, apart: np.ndarray, level: int = 0) -> Conversations:
    """Conversations that close one after the other, PER_HOUR an hour."""
    count = len(pairs)
    none = np.zeros(count)
    sums = np.stack([pairs, pairs, incumbent, candidate, apart, none, none], axis=1).astype(np.int64)
    return Conversations(level, np.arange(count, dtype=np.uint64), np.arange(count) // PER_HOUR, sums)


def traffic(seed: int, worse: float) -> Conversations:
    chance = np.random.default_rng(seed)
    pairs = chance.geometric(0.5, HOURS * PER_HOUR)
    only_b, both = chance.binomial(pairs, 0.05), 0
    only_c = chance.binomial(pairs, 0.05 + worse)
    return table(pairs, only_b + both, only_c + both, only_b + only_c)


def one(metric: Metric, conversations: Conversations, now: int) -> HarmReading:
    return read(Plan("production", (metric,), 1), conversations, now, 0, 1)[metric.name]


def first_stop(metric: Metric, conversations: Conversations) -> int | None:
    return next((hour for hour in range(HOURS) if one(metric, conversations, hour).shown), None)


@pytest.mark.parametrize("observations", [100, 500, 10_000])
def test_the_half_width_solves_the_mixture_martingale(observations: int) -> None:
    # The sequence is where the one-sided normal mixture crosses 1 / alpha: Robbins' mixture, integrated here over positive
    # drifts with a half-normal prior. Its published closed form is a little wider, never narrower.
    alpha = 0.005
    tail = -2 * math.log(2 * alpha)
    deviation = math.sqrt((tail + math.log(tail) + 1) / 500)
    drifts = np.linspace(0, 10 * deviation, 20_001)
    prior = 2 * stats.norm.pdf(drifts, scale=deviation)
    total = observations * half_width(observations, alpha)

    evidence = np.trapezoid(np.exp(drifts * total - observations * drifts**2 / 2) * prior, drifts)

    assert evidence == pytest.approx(1 / alpha, rel=0.02) or evidence > 1 / alpha
    assert evidence < 1.1 / alpha


@pytest.mark.parametrize(
    ("metric", "worse"),
    [
        pytest.param(PRIMARY, 0.0, id="no difference, on a primary"),
        pytest.param(ERRORS, 0.0, id="no difference, on a guardrail"),
        pytest.param(ERRORS, 0.02, id="exactly the guardrail's margin"),
    ],
)
def test_no_harm_is_not_stopped_in_a_week_of_hourly_looks(metric: Metric, worse: float) -> None:
    tests = 25

    stopped = sum(first_stop(metric, traffic(seed, worse)) is not None for seed in range(tests))

    assert stopped <= stats.binom(tests, HARM_ALPHA).ppf(1 - 1e-3)


def test_harm_is_stopped_long_before_the_end() -> None:
    stop = first_stop(ERRORS, traffic(1, 0.2))

    assert stop is not None
    assert stop < 40


def test_harm_says_how_bad_it_is_at_least() -> None:
    reading = one(ERRORS, traffic(1, 0.2), HOURS)

    assert reading.shown
    assert reading.clusters == HOURS * PER_HOUR
    assert reading.limit == -0.02
    assert reading.high is not None
    assert -0.2 < reading.high < -0.02


def test_only_closed_conversations_are_read() -> None:
    conversations = traffic(1, 0.2)
    plan = Plan("production", (ERRORS,), 1)

    open_ = read(plan, conversations, now=20, idle_seconds=5, sharing=1)["errors"]

    assert open_.clusters == 16 * PER_HOUR


@pytest.mark.parametrize("closed", [MIN_CLOSED - 1, MIN_CLOSED])
def test_there_is_no_look_before_there_is_enough(closed: int) -> None:
    bad = np.ones(closed)

    reading = one(PRIMARY, table(bad, 0 * bad, bad, bad), now=HOURS)

    assert reading.shown == (closed >= MIN_CLOSED)
    assert (reading.high is None) == (closed < MIN_CLOSED)


def test_a_few_differences_are_no_look() -> None:
    ones = np.ones(500)
    few = (np.arange(500) < 9).astype(float)

    assert one(PRIMARY, table(ones, 0 * few, few, few), now=HOURS).high is None


def test_improvement_is_never_harm() -> None:
    ones = np.ones(500)

    assert not one(PRIMARY, table(ones, ones, 0 * ones, ones), now=HOURS).shown


def test_a_relative_margin_is_a_share_of_the_incumbents_value() -> None:
    chance = np.random.default_rng(3)
    ones, b = np.ones(2000), chance.poisson(100, 2000)
    tokens = Metric(
        name="tokens",
        kind=Kind.MEAN,
        direction=Direction.LOWER,
        role=Role.GUARDRAIL,
        margin=0.1,
        scale=Scale.RELATIVE,
        worst=200.0,
        resolution=1.0,
    )

    within, beyond = (one(tokens, table(ones, b, np.rint(b * by), np.ones(2000)), now=HOURS + 99) for by in (1.08, 1.12))

    assert not within.shown
    assert beyond.shown
    assert beyond.high == pytest.approx(-0.12, abs=0.01)


def test_metrics_and_levels_share_one_error() -> None:
    conversations = traffic(1, 0.2)
    others = tuple(ERRORS.model_copy(update={"name": f"m{index}"}) for index in range(3))
    sums = np.concatenate([conversations.sums, *[conversations.sums[:, 1:]] * 2], axis=1)
    several = Conversations(0, conversations.keys, conversations.last, sums)
    sampled = Conversations(3, conversations.keys, conversations.last, conversations.sums)

    alone = one(ERRORS, conversations, HOURS).high
    shared = read(Plan("production", others, 1), several, HOURS, 0, 3)
    levelled = one(ERRORS, sampled, HOURS).high
    elsewhere = read(Plan("production", (ERRORS,), 1), conversations, HOURS, 0, 3)["errors"].high

    assert alone is not None
    assert all(reading.high is not None and reading.high > alone for reading in shared.values())
    assert levelled is not None
    assert levelled > alone
    assert elsewhere == shared["m0"].high, "it does not matter in which contrast the others are"


def test_an_informational_metric_stops_nothing() -> None:
    informational = ERRORS.model_copy(update={"role": Role.INFORMATIONAL})

    assert read(Plan("production", (informational,), 1), traffic(1, 0.3), HOURS, 0, 1) == {}


def week_of_timeouts(seed: int, share: float, *, longer: bool = False) -> tuple[Plan, Conversations]:
    """
    Tokens of one pair per conversation; as many answers never come on either side, and each weighs 20 times the mean.

    Or they all come of the candidate, whose answers are longer by just as much.
    """
    chance = np.random.default_rng([seed, 9])
    count = HOURS * PER_HOUR
    tokens = Metric(name="m", kind=Kind.MEAN, direction=Direction.LOWER, role=Role.PRIMARY, worst=4096.0, resolution=1.0)
    b, c = (np.where(chance.random(count) < part, 4096, np.rint(chance.normal(200, 20, count))) for part in (share, 0 if longer else share))
    if longer:
        c = c + round(share * (4096 - 200))
    ones, only_b, only_c = np.ones(count), (b == 4096) & (c < 4096), (c == 4096) & (b < 4096)
    sums = np.stack([ones, ones, b, c, np.abs(c - b), only_b, only_c], axis=1).astype(np.int64)
    return Plan("production", (tokens,), 1), Conversations(0, np.arange(count, dtype=np.uint64), np.arange(count) // PER_HOUR, sums)


@pytest.mark.parametrize(
    ("share", "longer"),
    [
        pytest.param(0.005, False, id="on both sides alike"),
        pytest.param(0.002, True, id="the incumbent's, and longer answers of the candidate that make up for them"),
    ],
)
def test_a_mean_with_rare_timeouts_is_not_stopped(share: float, longer: bool) -> None:
    stopped = 0
    for seed in range(40):
        plan, conversations = week_of_timeouts(seed, share, longer=longer)
        stopped += any(read(plan, conversations, hour, 0, 1)["m"].shown for hour in range(0, HOURS, 4))

    assert stopped <= stats.binom(40, HARM_ALPHA).ppf(1 - 1e-3)


def test_a_mean_of_many_timeouts_is_stopped() -> None:
    plan, conversations = week_of_timeouts(1, 0.0)
    sums = conversations.sums.copy()
    late = np.arange(len(sums)) % 5 == 0
    sums[late, 3], sums[late, 4], sums[late, 6] = 4096, 4096 - sums[late, 2], 1

    assert read(plan, Conversations(0, conversations.keys, conversations.last, sums), HOURS, 0, 1)["m"].shown
