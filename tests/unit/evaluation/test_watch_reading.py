"""A new version beside those held back: against the formulas, silent where nothing is wrong, and not where something is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from graft_api.comparison import HARM_ALPHA, Direction, Kind
from graft_api.measures import Measure
from graft_api.watch import Moments, WatchCount, WatchedMetric, WatchedSums, WatchReading
from graft_evaluation.paired.sequence import MIN_CLOSED, half_width
from graft_evaluation.watch import read

ERRORS = WatchedMetric(name="compile-errors", margin=0.02)
LATENCY = WatchedMetric(name="latency", measure=Measure.LATENCY, kind=Kind.MEAN, margin=0.1)
NO_MARGIN = WatchedMetric(name="m")


def moments(values: np.ndarray, totals: np.ndarray, weight: float = 0.5) -> Moments:
    """`weight`: of each conversation; the other arm's is what is left."""
    other = (1 - weight) / weight
    n, y = weight * np.asarray(values, float), weight * np.asarray(totals, float)
    return Moments(
        clusters=len(n),
        values=n.sum(),
        total=y.sum(),
        values_squared=(n**2).sum(),
        product=(n * y).sum(),
        total_squared=(y**2).sum(),
        crossed_values_squared=(n**2).sum() * other,
        crossed_product=(n * y).sum() * other,
        crossed_total_squared=(y**2).sum() * other,
    )


def one(metric: WatchedMetric, new: Moments, held_back: Moments) -> WatchReading:
    (reading,) = read([metric], WatchCount(metrics=[WatchedSums(name=metric.name, new=new, held_back=held_back)]))
    return reading


def share(clusters: int, ones: int) -> Moments:
    """Conversations of one value each."""
    return moments(np.ones(clusters), np.arange(clusters) < ones)


def drawn(chance: np.random.Generator, clusters: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Conversations whose values resemble each other."""
    values = chance.geometric(1 / 3, clusters)
    return values, chance.binomial(values, chance.beta(4 * level, 4 * (1 - level), clusters))


def test_the_bound_is_the_delta_methods_error_at_the_sequences_width() -> None:
    chance = np.random.default_rng(1)
    (n, y), (held_n, held_y) = drawn(chance, 4000, 0.2), drawn(chance, 400, 0.2)
    reading = one(ERRORS, moments(n, y), moments(held_n, held_y))

    spreads, worths, means = [], [], []
    for values, totals in ((n, y), (held_n, held_y)):
        mean = totals.sum() / values.sum()
        worth = values.sum() ** 2 / np.square(values).sum()
        variance = np.square(totals - mean * values).sum() / values.sum() ** 2
        spreads.append(variance * worth / (1 - worth**-0.5) ** 2)
        worths.append(worth)
        means.append(mean)
    observations = 1 / (1 / worths[0] + 1 / worths[1])
    expected = means[1] - means[0] + np.sqrt(max(spreads)) * half_width(observations, HARM_ALPHA)

    assert reading.high == pytest.approx(expected, rel=1e-9)
    assert (reading.new, reading.held_back) == pytest.approx(tuple(means))


def test_the_delta_methods_error_is_that_of_resampled_conversations() -> None:
    chance = np.random.default_rng(2)
    n, y = drawn(chance, 1500, 0.3)
    picked = chance.integers(0, len(n), (4000, len(n)))
    resampled = y[picked].sum(axis=1) / n[picked].sum(axis=1)
    mean, both = y.sum() / n.sum(), moments(n, y)

    variance = (both.total_squared - 2 * mean * both.product + mean**2 * both.values_squared) / both.values**2

    assert np.sqrt(variance) == pytest.approx(resampled.std(), rel=0.05)


def watch(chance: np.random.Generator, level: float, worse: float, new_share: float, metric: WatchedMetric) -> bool:
    """Whether one of 40 looks at 8,000 conversations is a breach."""
    arms = chance.random(8000) < new_share
    values, ones = drawn(chance, 8000, level)
    if worse:
        more = drawn(chance, 8000, level + worse)
        values, ones = np.where(arms, more[0], values), np.where(arms, more[1], ones)
    ends = np.unique(np.geomspace(150, 8000, 40).astype(int))
    fields = np.stack([np.ones(8000), values, ones, values**2, values * ones, ones**2], axis=1)
    new, held_back = (np.where(side[:, None], fields, 0).cumsum(axis=0)[ends - 1].tolist() for side in (arms, ~arms))
    return any(one(metric, of(row), of(other)).breached for row, other in zip(new, held_back, strict=True))


def of(row: list[float]) -> Moments:
    return Moments(**dict(zip(Moments.model_fields, [int(row[0]), *row[1:], *row[3:]], strict=True)))


@pytest.mark.parametrize("new_share", [0.95, 0.1], ids=["5 % held back", "first step of a ramp"])
@pytest.mark.parametrize(
    ("level", "margin"),
    [
        pytest.param(0.005, 0.0, id="half a percent, no difference"),
        pytest.param(0.1, 0.0, id="ten percent, no difference"),
        pytest.param(0.4, 0.02, id="forty percent, worse by just the margin"),
    ],
)
def test_a_version_that_is_no_worse_than_allowed_is_not_taken_out(level: float, margin: float, new_share: float) -> None:
    metric, chance, tests = WatchedMetric(name="m", margin=margin), np.random.default_rng(3), 50

    breaches = sum(watch(chance, level, margin, new_share, metric) for _ in range(tests))

    assert breaches <= stats.binom(tests, HARM_ALPHA).ppf(1 - 1e-3)


@pytest.mark.parametrize("errors", [0.1, 0.5, 1.0])
def test_a_version_that_errs_is_taken_out(errors: float) -> None:
    chance = np.random.default_rng(4)
    new, held_back = share(5700, round(5700 * errors)), share(300, int(chance.binomial(300, 0.01)))
    reading = one(WatchedMetric(name="server-errors", measure=Measure.SERVER_ERROR, margin=0.01), new, held_back)

    assert reading.breached
    assert reading.high is not None
    assert -errors < reading.high < reading.limit == -0.01


def test_what_strikes_both_is_nobodys() -> None:
    assert not one(NO_MARGIN, share(9500, 9000), share(500, 470)).breached


@pytest.mark.parametrize(
    ("new", "held_back"),
    [
        pytest.param(share(7600, 38), share(400, 0), id="half a percent: none of 400 is nothing odd"),
        pytest.param(share(100, 3), share(900, 0), id="a new version that was unlucky at once"),
        pytest.param(share(9500, 0), share(500, 0), id="none anywhere"),
        pytest.param(share(9500, 9500), share(500, 500), id="all everywhere"),
    ],
)
def test_no_event_on_one_arm_is_no_certainty(new: Moments, held_back: Moments) -> None:
    assert not one(NO_MARGIN, new, held_back).breached


def test_it_is_the_same_the_other_way_round() -> None:
    valid = WatchedMetric(name="m", direction=Direction.HIGHER, margin=0.02)
    lower, higher = one(ERRORS, share(5000, 900), share(500, 20)), one(valid, share(5000, 4100), share(500, 480))

    assert lower.breached
    assert higher.breached
    assert lower.high == pytest.approx(higher.high)
    assert not one(valid, share(5000, 4900), share(500, 480)).breached, "better is never worse"


def test_one_large_conversation_is_no_proof() -> None:
    """A customer with a sixth of the new version's values, all of them wrong, and a few small ones."""
    values = np.concatenate([[190], np.ones(950)])
    wrong = np.concatenate([[190], np.arange(950) < 10])

    assert not one(ERRORS, moments(values, wrong), share(300, 3)).breached
    assert one(ERRORS, moments(np.ones(1140), np.arange(1140) < 200), share(300, 3)).breached, "as many of many are one"


@pytest.mark.parametrize("held_back", [MIN_CLOSED - 1, MIN_CLOSED])
def test_there_is_no_look_before_there_is_enough_of_each(held_back: int) -> None:
    reading = one(NO_MARGIN, share(1000, 1000), share(held_back, 0))

    assert reading.breached == (held_back >= MIN_CLOSED)
    assert (reading.high is None) == (held_back < MIN_CLOSED)


def test_a_conversation_that_is_nearly_everything_is_no_look() -> None:
    values = np.concatenate([[100_000], np.ones(200)])

    assert one(NO_MARGIN, moments(values, values), share(300, 3)).high is None


def test_metrics_share_one_error() -> None:
    sums = [WatchedSums(name=name, new=share(2000, 300), held_back=share(300, 30)) for name in ("a", "b", "c")]
    metrics = [WatchedMetric(name=name) for name in ("a", "b", "c")]

    three = read(metrics, WatchCount(metrics=sums))
    (alone,) = read(metrics[:1], WatchCount(metrics=sums))

    assert [reading.name for reading in three] == ["a", "b", "c"]
    assert all(reading.high is not None and alone.high is not None and reading.high > alone.high for reading in three)


def test_collectors_add_up() -> None:
    chance = np.random.default_rng(5)
    parts = [(drawn(chance, 300, 0.3), drawn(chance, 200, 0.1)) for _ in range(3)]
    counts = [WatchCount(metrics=[WatchedSums(name="m", new=moments(*new), held_back=moments(*old))]) for new, old in parts]
    whole = one(
        NO_MARGIN,
        moments(*(np.concatenate([new[column] for new, _ in parts]) for column in (0, 1))),
        moments(*(np.concatenate([old[column] for _, old in parts]) for column in (0, 1))),
    )

    (together,) = read([NO_MARGIN], counts[0].plus(counts[1]).plus(counts[2]))

    assert together.high == pytest.approx(whole.high)
    assert together.clusters_new == 900


def test_an_outage_late_in_a_ramp_is_nobodys_fault() -> None:
    """Nine of ten are held back in a quiet hour; then one of twenty is, and half of all answers fail for everybody."""
    quiet = share(1000, 10), share(9000, 90)
    outage = share(9500, 4750), share(500, 250)
    weighted = [
        moments(np.ones(1000), np.arange(1000) < 10, 0.9).plus(moments(np.ones(9500), np.arange(9500) < 4750, 0.05)),
        moments(np.ones(9000), np.arange(9000) < 90, 0.1).plus(moments(np.ones(500), np.arange(500) < 250, 0.95)),
    ]

    assert one(ERRORS, quiet[0].plus(outage[0]), quiet[1].plus(outage[1])).breached, "without weights it would be"
    reading = one(ERRORS, *weighted)
    assert reading.new == pytest.approx(reading.held_back)
    assert not reading.breached


def test_sentences_have_the_numbers_and_the_bound() -> None:
    bad = one(ERRORS, share(19_000, 4047), share(1000, 121))
    assert bad.high is not None
    assert bad.sentence == (
        f"compile errors: 21.3 % on the new version, 12.1 % held back; at least {-100 * bad.high:.1f} points worse, 2.0 are allowed"
    )
    assert one(NO_MARGIN, share(5000, 900), share(500, 20)).sentence.endswith("worse, none is allowed")
    fine = one(ERRORS, share(1900, 190), share(100, 12))
    assert (
        fine.sentence
        == "compile errors: 10.0 % on the new version, 12.0 % held back; that it is worse by more than 2.0 points is not shown"
    )
    early = one(ERRORS, share(1900, 190), share(64, 8))
    assert early.sentence.endswith("held back; 1,900 and 64 conversations are closed, of each 100 are needed before it is judged")
    assert one(ERRORS, share(1900, 3), share(100, 0)).sentence.endswith(
        "too few of the conversations differ to judge it, or a few of them are most of the traffic"
    )
    assert one(ERRORS, share(10, 1), Moments()).sentence == "compile errors: no conversation on the version before it is closed yet"
    chance = np.random.default_rng(6)
    slow = one(LATENCY, moments(np.ones(2000), chance.normal(2.5, 0.5, 2000)), moments(np.ones(200), chance.normal(1.5, 0.5, 200)))
    assert slow.high is not None
    assert slow.sentence == (
        f"latency: {slow.new:.4g} s on the new version, {slow.held_back:.4g} s held back; "
        f"at least {-slow.high:.4g} s worse, 0.1 are allowed"
    )
