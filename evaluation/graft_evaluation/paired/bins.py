"""Fine logarithmic bins: a quantile read from them is off by less than one bin, and two histograms add up."""

import numpy as np
from numpy.typing import NDArray

LOWEST = 1e-3
"""Of a quantity in seconds a millisecond. Everything below is one bin."""
WIDTH = 0.02
"""Each bin is 2 % wider than the one before."""
COUNT = 1 + int(np.ceil(np.log(1e8) / np.log1p(WIDTH))) + 1
"""Below, eight decades (a millisecond to a day of seconds), above."""
HIGHEST = LOWEST * (1 + WIDTH) ** (COUNT - 2)


def bins_of(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin of each value >= 0; infinity is in the last. Raises ValueError for a negative value."""
    if values.size and values.min() < 0:
        raise ValueError("a quantile is of a quantity that is never negative")
    scaled: NDArray[np.float64] = np.log(np.clip(values, LOWEST / 2, HIGHEST * 2) / LOWEST) / np.log1p(WIDTH)
    places: NDArray[np.intp] = np.clip(np.floor(scaled).astype(np.intp) + 1, 0, COUNT - 1)
    return places


def quantile(weights: NDArray[np.float64], q: float, places: NDArray[np.intp] | None = None) -> NDArray[np.float64]:
    """
    Return the q-quantile of each histogram, shape [...] from weights of shape [..., bins]; NaN for an empty one.

    `places` names the bins in rising order where not all COUNT of them are given, because the others are empty. Inside a bin the
    quantity is taken to be spread evenly on the logarithmic scale. Below the lowest edge the answer is that edge.
    """
    below = np.cumsum(weights, axis=-1)
    target = q * below[..., -1:]
    found = np.minimum((below < target).sum(axis=-1, keepdims=True), weights.shape[-1] - 1)
    count = np.take_along_axis(weights, found, axis=-1)
    start = np.take_along_axis(below, found, axis=-1) - count
    place = found if places is None else places[found]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.select([place == 0, place == COUNT - 1], [1.0, 0.0], (target - start) / count)
    value = LOWEST * (1 + WIDTH) ** (place - 1 + part)
    return np.where(below[..., -1] > 0, value[..., 0], np.nan)
