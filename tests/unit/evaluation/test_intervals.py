"""Against independent implementations: statsmodels for Wilson and McNemar, scipy's optimisers for Tango, Nam and Blackwelder."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize, minimize_scalar
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from graft_evaluation.intervals import Z95, nam_blackwelder, paired_difference, tango, wilson


@pytest.mark.parametrize(("events", "examples"), [(0, 10), (1, 10), (5, 10), (10, 10), (3, 1000), (997, 1000), (12, 500), (0, 1), (1, 1)])
def test_wilson_is_statsmodels(events: int, examples: int) -> None:
    low, high = proportion_confint(events, examples, alpha=0.05, method="wilson")

    interval = wilson(events, examples)

    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
    assert interval.estimate == events / examples


@pytest.mark.parametrize(("events", "examples"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_counts_that_cannot_be(events: int, examples: int) -> None:
    with pytest.raises(ValueError, match="examples"):
        wilson(events, examples)


def tango_by_optimiser(plus: int, minus: int, examples: int) -> tuple[float, float]:
    """Invert the score test; the nuisance parameter comes from maximising the likelihood numerically, not from its formula."""
    rest = examples - plus - minus

    def against(difference: float) -> float:
        def negative_log_likelihood(q: float) -> float:
            p = q + difference
            terms = ((plus, p), (minus, q), (rest, 1 - p - q))
            if any(value < -1e-12 or (value <= 0 and count) for count, value in terms):
                return 1e12
            return -sum(count * math.log(max(value, 1e-300)) for count, value in terms if count)

        bounds = (max(0.0, -difference), (1 - difference) / 2)
        return float(minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x)

    def score(difference: float) -> float:
        variance = examples * (2 * against(difference) + difference * (1 - difference))
        return (plus - minus - examples * difference) / math.sqrt(max(variance, 1e-300))

    estimate = (plus - minus) / examples
    low = brentq(lambda d: score(d) - Z95, -1 + 1e-9, estimate - 1e-9)
    high = brentq(lambda d: score(d) + Z95, estimate + 1e-9, 1 - 1e-9)
    return low, high


@pytest.mark.parametrize(
    ("plus", "minus", "examples"), [(12, 2, 50), (2, 12, 50), (0, 5, 30), (7, 0, 40), (1, 1, 20), (30, 25, 1000), (0, 419, 1000)]
)
def test_tango_is_the_inverted_score_test(plus: int, minus: int, examples: int) -> None:
    interval = tango(plus, minus, examples)

    assert (interval.low, interval.high) == pytest.approx(tango_by_optimiser(plus, minus, examples), abs=2e-5)


@pytest.mark.parametrize(("plus", "minus"), [(12, 2), (9, 3), (20, 20), (15, 5), (14, 6), (13, 6)])
def test_tango_excludes_zero_exactly_where_mcnemar_rejects(plus: int, minus: int) -> None:
    interval = tango(plus, minus, 100)

    rejected = mcnemar([[0, plus], [minus, 0]], exact=False, correction=False).pvalue < 0.05

    assert rejected == (not interval.low <= 0 <= interval.high)


@pytest.mark.parametrize(("plus", "minus"), [(0, 0), (50, 0), (0, 50)])
def test_the_extremes_have_an_interval(plus: int, minus: int) -> None:
    interval = tango(plus, minus, 50)

    assert -1 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.high - interval.low > 0.03


def test_tango_covers_the_true_difference() -> None:
    chance = np.random.default_rng(5)
    draws = chance.multinomial(60, [0.15, 0.05, 0.8], size=600)

    covered = [interval.low <= 0.10 <= interval.high for interval in (tango(int(p), int(m), 60) for p, m, _ in draws)]

    assert 0.92 <= float(np.mean(covered)) <= 0.98


def score_of_ratio(plus: int, minus: int, shared: int, ratio: float) -> float:
    """The score statistic; the likelihood's maximum under the ratio is found numerically, in both parameters."""
    examples = plus + minus + shared + 60

    def negative_log_likelihood(logarithms: NDArray[np.float64]) -> float:
        q, s = np.exp(logarithms)
        p = ratio * (q + s) - s
        terms = ((plus, p), (minus, q), (shared, s), (60, 1 - p - q - s))
        if any(value <= 0 for _, value in terms):
            return 1e12
        return -sum(count * math.log(value) for count, value in terms)

    starts = [(a * (minus + 1) / examples, b * (shared + 1) / examples) for a in (0.3, 1, 3) for b in (0.3, 1, 3)]
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000}
    found = min(
        (minimize(negative_log_likelihood, np.log(at), method="Nelder-Mead", options=options) for at in starts), key=lambda one: one.fun
    )
    q, s = np.exp(found.x)
    discordant = examples * (ratio * (q + s) - s + q)
    return float((plus + shared - ratio * (minus + shared)) / math.sqrt(ratio * discordant))


@pytest.mark.parametrize(("plus", "minus", "shared"), [(4, 10, 3), (12, 3, 5), (2, 9, 20), (30, 25, 8)])
def test_nam_blackwelder_is_the_inverted_score_test(plus: int, minus: int, shared: int) -> None:
    interval = nam_blackwelder(plus, minus, shared)

    assert interval.estimate == (plus + shared) / (minus + shared)
    assert score_of_ratio(plus, minus, shared, interval.low) == pytest.approx(Z95, abs=1e-4)
    assert score_of_ratio(plus, minus, shared, interval.high) == pytest.approx(-Z95, abs=1e-4)


@pytest.mark.parametrize("shared", [0, 40])
@pytest.mark.parametrize(("plus", "minus"), [(12, 2), (9, 3), (20, 20), (15, 5), (14, 6), (13, 6), (1, 7), (0, 4)])
def test_nam_blackwelder_excludes_one_exactly_where_mcnemar_rejects(plus: int, minus: int, shared: int) -> None:
    interval = nam_blackwelder(plus, minus, shared)

    rejected = mcnemar([[0, plus], [minus, 0]], exact=False, correction=False).pvalue < 0.05

    assert rejected == (not interval.low <= 1 <= interval.high)


def test_a_ratio_to_nothing_has_no_interval() -> None:
    assert nam_blackwelder(0, 10, 0).low == 0.0
    with pytest.raises(ValueError, match="nothing to be relative to"):
        nam_blackwelder(10, 0, 0)


def test_paired_difference_counts_discordant_pairs() -> None:
    base, adapter = [True, True, False, False, True], [False, True, True, False, False]

    assert paired_difference(base, adapter) == tango(1, 2, 5)


def test_outcomes_of_different_length_are_not_paired() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([True], [True, False])
