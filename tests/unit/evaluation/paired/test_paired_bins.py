"""Against numpy's quantiles, within a bin's width, and Student's t against scipy."""

import numpy as np
import pytest
from scipy import stats

from graft_evaluation.paired.bins import COUNT, HIGHEST, LOWEST, WIDTH, bins_of, quantile
from graft_evaluation.paired.student import critical, normal


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.95, 0.99])
def test_a_quantile_is_numpys_within_a_bin(q: float) -> None:
    values = np.random.default_rng(3).lognormal(0, 1, 20_000)

    found = quantile(np.bincount(bins_of(values), minlength=COUNT).astype(float), q)

    assert float(found) == pytest.approx(np.quantile(values, q), rel=WIDTH)


def test_many_histograms_are_read_at_once() -> None:
    chance = np.random.default_rng(4)
    rows = np.stack([np.bincount(bins_of(chance.lognormal(m, 0.3, 500)), minlength=COUNT) for m in (0, 1, 2)]).astype(float)

    assert quantile(rows, 0.5) == pytest.approx([float(quantile(row, 0.5)) for row in rows])


@pytest.mark.parametrize(
    ("value", "place"),
    [
        pytest.param(0.0, 0, id="nothing is below the scale"),
        pytest.param(LOWEST, 1, id="the lowest edge begins the scale"),
        pytest.param(np.inf, COUNT - 1, id="an answer that never came is above the scale"),
        pytest.param(HIGHEST * 1.001, COUNT - 1, id="a day is above the scale"),
    ],
)
def test_the_ends_of_the_scale(value: float, place: int) -> None:
    assert bins_of(np.array([value])).tolist() == [place]


@pytest.mark.parametrize(("place", "read"), [(0, LOWEST), (COUNT - 1, HIGHEST)])
def test_a_quantile_beyond_the_scale_is_its_end(place: int, read: float) -> None:
    histogram = np.zeros(COUNT)
    histogram[place] = 10

    assert float(quantile(histogram, 0.5)) == pytest.approx(read)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert np.isnan(quantile(np.zeros(COUNT), 0.5))


def test_a_negative_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="never negative"):
        bins_of(np.array([-0.1]))


@pytest.mark.parametrize("degrees", [1.0, 2.0, 4.5, 19.0, 99.7, 1023.0, 5e5])
def test_students_t_is_scipys(degrees: float) -> None:
    assert critical(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)


def test_with_many_degrees_t_is_normal() -> None:
    assert critical(1e9) == normal() == pytest.approx(stats.norm.ppf(0.975))
    with pytest.raises(ValueError, match="degrees"):
        critical(0)
