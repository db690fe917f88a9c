"""Intervals against scipy and statsmodels on fixed data, and in short simulations against the truth."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from graft_api.comparison import Direction, Estimate, Kind, Limits, Method, Metric, Role, Scale
from graft_evaluation.intervals import tango
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.forecast import hours_to_detect
from graft_evaluation.paired.hashing import poisson_weights
from graft_evaluation.paired.reading import Moment, contrast
from graft_evaluation.paired.resampling import Spread, TooLittleError, of_bins, of_sums
from graft_evaluation.paired.summary import Plan, Summary

HIGHER, LOWER = Direction.HIGHER, Direction.LOWER
PROPORTION = Metric(name="errors", kind=Kind.PROPORTION, direction=LOWER, role=Role.PRIMARY)
MEAN = Metric(name="score", kind=Kind.MEAN, direction=HIGHER, role=Role.PRIMARY, worst=-10.0)
MEDIAN = Metric(name="latency", kind=Kind.QUANTILE, quantile=0.5, direction=LOWER, role=Role.PRIMARY)
WEIGHTS = poisson_weights(7, 1000, 1024)


def batch(conversation: np.ndarray, b: np.ndarray, c: np.ndarray) -> Batch:
    keys = conversation.astype(np.uint64)
    first = np.concatenate([[True], conversation[1:] != conversation[:-1]])
    return Batch(keys, first, np.arange(len(keys)), b[None].astype(float), c[None].astype(float))


def estimate(metric: Metric, conversation: np.ndarray, b: np.ndarray, c: np.ndarray, seed: int = 7) -> Estimate:
    summary = Summary(Plan("production", (metric,), seed))
    summary.add(batch(conversation, b, c))
    if metric.kind is Kind.QUANTILE:
        return of_bins(metric, summary.bins[0].sum(axis=0, dtype=np.uint32), WEIGHTS)
    return of_sums(metric, summary.sums[0].sum(axis=0), WEIGHTS, summary.alone[0].sum(axis=0))


def sides(pairs: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    common = chance.normal(0, 1, pairs)
    return common + chance.normal(0, 1, pairs), common + chance.normal(0.1, 1, pairs)


def test_a_mean_is_the_paired_t_interval() -> None:
    b, c = sides(800)
    reference = stats.ttest_rel(c, b).confidence_interval(0.95)

    found = estimate(MEAN, np.arange(800), b, c)

    # Percentiles of 1,000 replicates end within a tenth of a standard error or two.
    tolerance = 0.25 * (reference.high - reference.low) / 4
    assert found.improvement == pytest.approx((c - b).mean(), abs=1e-5)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=tolerance)
    assert found.method is Method.BOOTSTRAP


def test_clusters_widen_as_a_t_interval_on_cluster_sums() -> None:
    chance = np.random.default_rng(4)
    conversation = np.repeat(np.arange(400), 5)
    b, c = chance.normal(0, 1, 2000), chance.normal(0, 1, 2000) + np.repeat(chance.normal(0, 1, 400), 5)
    reference = stats.ttest_1samp((c - b).reshape(400, 5).mean(axis=1), 0).confidence_interval(0.95)

    found = estimate(MEAN, conversation, b, c)

    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.25 * (reference.high - reference.low) / 4)


def test_a_quantile_is_numpys_and_its_interval_scipys() -> None:
    chance = np.random.default_rng(5)
    b, c = chance.lognormal(0, 0.5, 1500), chance.lognormal(0.1, 0.5, 1500)

    def difference(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        return np.quantile(one, 0.5, axis=axis) - np.quantile(other, 0.5, axis=axis)

    reference = stats.bootstrap((b, c), difference, paired=True, n_resamples=999, method="percentile", rng=1).confidence_interval
    found = estimate(MEDIAN, np.arange(1500), b, c)

    assert found.incumbent == pytest.approx(np.median(b), rel=0.02)
    assert found.candidate == pytest.approx(np.median(c), rel=0.02)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.02)


@pytest.mark.parametrize(("only_b", "only_c"), [(12, 2), (30, 12), (9, 9), (15, 5), (14, 6)])
def test_few_discordant_pairs_get_tangos_interval_which_is_mcnemars_test(only_b: int, only_c: int) -> None:
    b, c = np.zeros(4000), np.zeros(4000)
    b[:only_b] = 1
    c[only_b : only_b + only_c] = 1

    found = estimate(PROPORTION, np.arange(4000), b, c)

    reference = tango(only_b, only_c, 4000)
    # Buckets are fewer than pairs, which costs t instead of z and a little of the design effect; nothing else.
    assert found.method is Method.SCORE
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=0.15, abs=2e-4)
    rejected = mcnemar([[0, only_b], [only_c, 0]], exact=False, correction=False).pvalue < 0.04
    assert not rejected or found.low > 0 or found.high < 0


def test_events_of_one_conversation_count_as_one() -> None:
    conversation = np.repeat(np.arange(1000), 4)
    b, c = np.zeros(4000), np.zeros(4000)
    c[: 4 * 5] = 1

    found = estimate(PROPORTION, conversation, b, c)

    assert found.improvement == -0.005
    reference = tango(5, 0, 1000)
    assert (found.low, found.high) == pytest.approx((-reference.high, -reference.low), rel=0.1)


def test_many_discordant_pairs_get_the_bootstrap_which_agrees_with_the_score() -> None:
    chance = np.random.default_rng(6)
    b, c = chance.random(3000) < 0.4, chance.random(3000) < 0.3

    found = estimate(PROPORTION, np.arange(3000), b, c)

    reference = tango(int((b & ~c).sum()), int((~b & c).sum()), 3000)
    assert found.method is Method.BOOTSTRAP
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.25 * (reference.high - reference.low) / 4)


def test_a_relative_change_is_the_share_of_the_incumbents_value() -> None:
    chance = np.random.default_rng(7)
    b = chance.gamma(4, 50, 1000)
    relative = MEAN.model_copy(update={"scale": Scale.RELATIVE, "direction": LOWER, "worst": 4096.0})

    found = estimate(relative, np.arange(1000), b, 0.9 * b)

    assert (found.improvement, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-6)


def test_the_relative_interval_is_the_set_of_margins_that_the_linear_contrast_does_not_reject() -> None:
    b, c = (np.exp(side / 2) for side in sides(600))
    relative = MEAN.model_copy(update={"scale": Scale.RELATIVE})
    found = estimate(relative, np.arange(600), b, c)

    for margin, beyond in ((found.low - 0.01, True), (found.low + 0.01, False)):
        # candidate - (1 + margin) incumbent, as an absolute metric of its own
        linear = estimate(MEAN, np.arange(600), (1 + margin) * b, c)
        assert (linear.low > 0) == beyond


def test_lower_is_better_turns_everything_round() -> None:
    b, c = sides(500)

    ways = ({"direction": HIGHER, "worst": -10.0}, {"direction": LOWER, "worst": 10.0})
    higher, lower = (estimate(MEAN.model_copy(update=way), np.arange(500), b, c) for way in ways)

    assert (lower.improvement, lower.low, lower.high) == (-higher.improvement, -higher.high, -higher.low)
    assert (lower.incumbent, lower.candidate) == (higher.incumbent, higher.candidate)


@pytest.mark.parametrize(
    ("metric", "per_unit"),
    [
        pytest.param(MEAN.model_copy(update={"worst": 0.0, "best": 1.0}), 1.0, id="a bounded mean: its range"),
        pytest.param(MEAN.model_copy(update={"worst": 0.0, "best": 1.0, "scale": Scale.RELATIVE}), 1 / 0.7, id="relative"),
        pytest.param(MEAN, 10.7, id="a mean with one end: how far the worst is"),
        pytest.param(MEAN.model_copy(update={"scale": Scale.RELATIVE}), 10.7 / 0.7, id="likewise relative"),
    ],
)
def test_equal_answers_agree_but_for_the_pairs_that_could_differ_unseen(metric: Metric, per_unit: float) -> None:
    same = np.full(300, 0.7)

    found = estimate(metric, np.arange(300), same, same)

    assert found.improvement == 0
    assert (found.low, found.high) == pytest.approx((tango(0, 0, 300).low * per_unit, tango(0, 0, 300).high * per_unit), rel=0.03)


@pytest.mark.parametrize("scale", list(Scale))
def test_equal_proportions_agree(scale: Scale) -> None:
    same = np.arange(900) % 3 == 0

    found = estimate(PROPORTION.model_copy(update={"scale": scale}), np.arange(900), same, same)

    per_unit = 3 if scale is Scale.RELATIVE else 1
    assert (found.improvement, found.low, found.high) == pytest.approx(
        (0, tango(0, 0, 900).low * per_unit, tango(0, 0, 900).high * per_unit), rel=0.03
    )


def test_equal_quantiles_agree() -> None:
    same = np.random.default_rng(2).lognormal(0, 0.5, 300)

    found = estimate(MEDIAN, np.arange(300), same, same)

    assert (found.low, found.improvement, found.high) == (0, 0, 0)


def test_a_few_different_answers_of_an_unbounded_mean_have_no_interval() -> None:
    b, c = np.full(300, 0.7), np.full(300, 0.7)
    c[:5] = 0.8

    with pytest.raises(TooLittleError, match="differ"):
        estimate(MEAN, np.arange(300), b, c)


def test_so_few_conversations_worth_say_nothing() -> None:
    conversation = np.concatenate([np.repeat(np.arange(5), 300), np.arange(5, 200)])
    b, c = sides(len(conversation))

    for metric in (MEAN, PROPORTION, MEDIAN):
        values = (b, c) if metric is MEAN else (np.abs(b) > 1, np.abs(c) > 1)
        with pytest.raises(TooLittleError, match=r"worth [0-9.]+ conversations, 10 are needed"):
            estimate(metric, conversation, *values)


TOKENS = Metric(name="tokens", kind=Kind.MEAN, direction=LOWER, role=Role.GUARDRAIL, worst=4096.0, margin=4096 * 0.01)


def with_timeouts(seed: int, of_b: float, of_c: float, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that are alike, but for the answers that never came: each weighs twenty times the mean."""
    chance = np.random.default_rng([seed, 31])
    common = chance.normal(200, 20, pairs)
    b, c = (common + chance.normal(0, 5, pairs) for _ in range(2))
    return np.where(chance.random(pairs) < of_b, 4096, b), np.where(chance.random(pairs) < of_c, 4096, c)


def test_a_mean_with_rare_timeouts_is_covered_and_does_not_pass_at_its_margin() -> None:
    tests, covered, passed = 150, 0, 0
    truth = 0.006 * (4096 - 200)
    for seed in range(tests):
        b, c = with_timeouts(seed, 0.0, 0.006, 1000)
        found = estimate(TOKENS, np.arange(1000), b, c, seed)
        covered += found.low <= -truth <= found.high
        passed += found.low > -truth

    assert covered >= stats.binom(tests, 0.95).ppf(1e-4)
    # Percentiles of all values pass nine of these.
    assert passed <= stats.binom(tests, 0.025).ppf(0.9)


def test_what_timeouts_do_to_a_mean_is_tangos_interval_beside_the_t_interval_of_the_rest() -> None:
    b, c = with_timeouts(3, 0.0, 0.0, 1000)
    c[:8] = 4096

    found = estimate(TOKENS, np.arange(1000), b, c)

    weight = 4096 - np.concatenate([b, c[8:]]).mean()
    rest, rare = stats.ttest_rel(b[8:], c[8:]).confidence_interval(0.95), tango(8, 0, 1000)
    half = (rest.high - rest.low) / 2
    assert found.improvement == pytest.approx((b - c).mean(), abs=1e-4)
    assert found.candidate == pytest.approx(c.mean(), abs=1e-4)
    assert found.improvement - found.low == pytest.approx(math.hypot((rare.high - 0.008) * weight, half), rel=0.03)
    assert found.high - found.improvement == pytest.approx(math.hypot((0.008 - rare.low) * weight, half), rel=0.03)


def test_more_timeouts_weigh_what_they_are_apart_from_an_answer() -> None:
    b, c = with_timeouts(3, 0.0, 0.0, 1000)
    b[:60] = c[60:120] = 4096

    found = [estimate(TOKENS, 10_000 * other + np.arange(1000), b, c) for other in range(8)]

    # So many of either side that Student's t holds; a mean with the timeouts in it would make them weigh 6 % less. Which share a
    # group is chance, and makes some of the intervals a little wider.
    reference = stats.ttest_rel(b, c).confidence_interval(0.95)
    assert min(one.high - one.low for one in found) == pytest.approx(reference.high - reference.low, rel=0.02)


@pytest.mark.parametrize(("of_b", "of_c"), [(60, 0), (0, 60), (40, 20)])
def test_timeouts_of_the_incumbent_weigh_less_where_the_candidate_is_to_be_better_relatively(of_b: int, of_c: int) -> None:
    relative = TOKENS.model_copy(update={"scale": Scale.RELATIVE, "margin": 0.3})
    b, c = with_timeouts(5, 0.0, 0.0, 2000)
    b[:of_b] = c[of_b : of_b + of_c] = 4096

    found = estimate(relative, np.arange(2000), b, c)

    # The delta method on candidate - ratio x incumbent: the incumbent's value, by which is divided, has the timeouts too.
    ratio = c.mean() / b.mean()
    error = (c - ratio * b).std(ddof=1) / math.sqrt(2000) / b.mean()
    assert found.improvement == pytest.approx(1 - ratio, abs=1e-6)
    # Timeouts alone would be a fifth too wide where they are the incumbent's; the two ends differ by the score interval's skewness.
    assert (found.high - found.low) / 2 == pytest.approx(1.962 * error, rel=0.06)


@pytest.mark.parametrize(("heavy", "reason"), [pytest.param(30, None, id="light"), pytest.param(60, "of the measured pairs", id="heavy")])
def test_a_conversation_may_not_be_too_much_of_the_pairs_of_one_metric(heavy: int, reason: str | None) -> None:
    conversation = np.concatenate([np.zeros(heavy), np.arange(1, 2000)])
    b, c = sides(len(conversation))
    b[heavy + 400 :] = c[heavy + 400 :] = np.nan
    summary = Summary(Plan("production", (MEAN,), 7))
    summary.add(batch(conversation, b, c))

    found = contrast(summary, Limits(), Moment(now=0, hours=1.0))

    assert found.largest_cluster_share < 0.1
    assert (found.metrics[0].overall is None) == (reason is not None)
    assert (reason or "") in (found.metrics[0].reason or "")


@pytest.mark.parametrize("metric", [MEAN, MEDIAN], ids=["mean", "quantile"])
@pytest.mark.parametrize(("openings", "expected"), [(300, True), (20, False)])
def test_first_turns_of_a_metric_need_enough_conversations_of_their_own(metric: Metric, openings: int, expected: bool) -> None:
    conversation = np.repeat(np.arange(600), 2)
    first = np.arange(1200) % 2 == 0
    b, c = (np.exp(side) for side in sides(1200))
    unsampled = first & (conversation >= openings)
    b[unsampled] = c[unsampled] = np.nan
    summary = Summary(Plan("production", (metric,), 7))
    summary.add(Batch(conversation.astype(np.uint64), first, np.arange(1200), b[None], c[None]))

    reading = contrast(summary, Limits(), Moment(now=0, hours=1.0)).metrics[0]

    assert reading.overall is not None
    assert (reading.first_turn is not None) is expected


@pytest.mark.parametrize("metric", [MEAN, MEDIAN], ids=["mean", "quantile"])
def test_many_first_turns_of_one_opening_are_one_conversation(metric: Metric) -> None:
    conversation = np.concatenate([np.zeros(90), np.arange(1, 1200)])
    first = np.arange(len(conversation)) < 120
    b, c = (np.exp(side) for side in sides(len(conversation)))
    summary = Summary(Plan("production", (metric,), 7))
    summary.add(Batch(conversation.astype(np.uint64), first, np.arange(len(conversation)), b[None], c[None]))

    reading = contrast(summary, Limits(), Moment(now=0, hours=1.0)).metrics[0]

    assert reading.overall is not None
    assert reading.first_turn is None


def test_too_few_beyond_a_quantile_give_no_interval() -> None:
    tail = MEDIAN.model_copy(update={"quantile": 0.99})
    with pytest.raises(TooLittleError, match="beyond the quantile"):
        estimate(tail, np.arange(200), np.ones(200), np.ones(200))


@pytest.mark.parametrize("scale", [Scale.ABSOLUTE, Scale.RELATIVE])
def test_a_quantile_near_its_timeouts_has_an_interval_that_reaches_them(scale: Scale) -> None:
    chance = np.random.default_rng(8)
    b, c = chance.lognormal(0, 0.2, 600), chance.lognormal(0, 0.2, 600)
    c[:27] = np.inf  # 4.5 %: some replicates have more than 5 %

    found = estimate(MEDIAN.model_copy(update={"quantile": 0.95, "scale": scale}), np.arange(600), b, c)

    assert found.candidate < 5
    assert found.low < -1000
    assert found.high < 5


def test_a_relative_quantile_is_scipys_interval_of_the_ratio() -> None:
    chance = np.random.default_rng(5)
    b, c = chance.lognormal(0, 0.5, 1500), chance.lognormal(0.1, 0.5, 1500)

    def ratio(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        return 1 - np.quantile(other, 0.5, axis=axis) / np.quantile(one, 0.5, axis=axis)

    reference = stats.bootstrap((b, c), ratio, paired=True, n_resamples=999, method="percentile", rng=1).confidence_interval
    found = estimate(MEDIAN.model_copy(update={"scale": Scale.RELATIVE}), np.arange(1500), b, c)

    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.02)


def test_nothing_is_relative_to_zero() -> None:
    relative = PROPORTION.model_copy(update={"scale": Scale.RELATIVE})
    with pytest.raises(TooLittleError, match="clear of 0"):
        estimate(relative, np.arange(300), np.zeros(300), np.arange(300) % 3 == 0)


def test_a_heavy_conversation_takes_degrees_of_freedom() -> None:
    even, heavy = np.ones(200), np.ones(200)
    heavy[0] = 22

    assert Spread(even).effective == pytest.approx(200)
    assert Spread(heavy).effective == pytest.approx(221**2 / (199 + 22**2))
    assert Spread(heavy).critical() > Spread(even).critical() > 1.96
    own = np.random.default_rng(1).normal(0, 1, 200)
    own[0] = 30
    assert Spread(even).critical(own) == pytest.approx(Spread(even).critical() * math.sqrt(200 / 199))
    assert Spread(heavy).critical(own) > Spread(heavy).critical()


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        pytest.param(np.arange(99), "99 conversations, 100 are needed", id="too few conversations"),
        pytest.param(np.concatenate([np.zeros(60), np.arange(200)]), "one conversation is", id="one conversation too heavy"),
    ],
)
def test_nothing_is_computed_from_too_little(conversation: np.ndarray, reason: str) -> None:
    summary = Summary(Plan("production", (MEAN,), 7))
    summary.add(batch(conversation, *sides(len(conversation))))

    reading = contrast(summary, Limits(), Moment(now=0, hours=1.0)).metrics[0]

    assert reading.overall is None
    assert reason in (reading.reason or "")


@pytest.mark.parametrize("metric", [MEAN, MEDIAN], ids=["counted, of a mean", "estimated, of a quantile"])
@pytest.mark.parametrize("sampled", [60, 300])
def test_a_sampled_metric_needs_enough_conversations_of_its_own(metric: Metric, sampled: int) -> None:
    b, c = (np.exp(side) for side in sides(500))
    b[sampled:] = c[sampled:] = np.nan
    summary = Summary(Plan("production", (metric,), 7))
    summary.add(batch(np.arange(500), b, c))

    found = contrast(summary, Limits(), Moment(now=0, hours=1.0))

    assert found.clusters == 500
    assert found.metrics[0].clusters == pytest.approx(sampled, rel=0.1 if metric is MEDIAN else 0)
    assert (found.metrics[0].overall is None) == (sampled == 60)


def test_a_quantile_of_answers_that_never_came_says_nothing() -> None:
    never = np.where(np.arange(300) % 5 == 0, np.inf, 1.0)
    with pytest.raises(TooLittleError, match="never came"):
        estimate(MEDIAN.model_copy(update={"quantile": 0.9}), np.arange(300), never, never)


def test_first_turns_are_a_stratum_of_their_own() -> None:
    conversation = np.repeat(np.arange(300), 2)
    b, c = sides(600)
    c[::2] -= 5
    summary = Summary(Plan("production", (MEAN,), 7))
    summary.add(batch(conversation, b, c))

    reading = contrast(summary, Limits(), Moment(now=0, hours=1.0)).metrics[0]

    assert reading.first_turn is not None
    assert reading.first_turn.improvement == pytest.approx((c - b)[::2].mean(), abs=1e-5)
    assert reading.first_turn.pairs == 300


def test_the_forecast_is_the_time_at_which_the_test_has_its_power() -> None:
    guardrail = MEAN.model_copy(update={"role": Role.GUARDRAIL, "margin": 0.2})
    b, c = sides(400)
    found = estimate(guardrail, np.arange(400), b, c)

    hours = hours_to_detect(guardrail, found, hours=10.0)

    # Power of the one-sided t-test with as many pairs as come in that time, but for the noise of percentiles.
    assert hours is not None
    pairs, deviation = 40 * hours, (c - b).std()
    shift = 0.2 / (deviation / np.sqrt(pairs))
    assert 1 - stats.nct.cdf(stats.t.ppf(0.975, pairs - 1), pairs - 1, shift) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(
    ("role", "margin", "detectable", "expected"),
    [
        pytest.param(Role.PRIMARY, 0.0, None, None, id="a primary that names no effect has none to wait for"),
        pytest.param(Role.PRIMARY, 0.1, 0.1, None, id="nor one whose effect does not exceed its margin"),
        pytest.param(Role.GUARDRAIL, 0.0, None, None, id="nothing shows that two are equal"),
        pytest.param(Role.INFORMATIONAL, 0.0, None, None, id="an informational metric waits for nothing"),
        pytest.param(Role.PRIMARY, 0.1, 0.2, 1.0, id="a primary must show what lies beyond its margin"),
        pytest.param(Role.GUARDRAIL, 0.1, None, 1.0, id="a guardrail must show its margin"),
    ],
)
def test_what_the_forecast_waits_for(role: Role, margin: float, detectable: float | None, expected: float | None) -> None:
    metric = MEAN.model_copy(update={"role": role, "margin": margin, "detectable": detectable})
    half = 1.959964 * 0.1 / (1.959964 + 0.841621)
    interval = Estimate(improvement=0, low=-half, high=half, incumbent=0, candidate=0, pairs=100, method=Method.BOOTSTRAP)

    assert hours_to_detect(metric, interval, 1.0) == (None if expected is None else pytest.approx(expected, rel=1e-4))


def test_a_seed_decides_everything() -> None:
    b, c = sides(300)

    assert estimate(MEAN, np.arange(300), b, c) == estimate(MEAN, np.arange(300), b, c)
    assert replace(Plan("production", (MEAN,), 7)) == Plan("production", (MEAN,), 7)
