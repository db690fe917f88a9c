"""Quantiles of Student's t, without scipy."""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import CONFIDENCE


@lru_cache(maxsize=4096)
def critical(degrees: float) -> float:
    """Return the two-sided 95 % point of Student's t for `degrees` > 0 (not only whole) degrees of freedom."""
    if not degrees > 0:
        raise ValueError(f"{degrees} degrees of freedom")
    if degrees > 1e6:
        return normal()
    # P(-t < T < t) is concave in t > 0, so that Newton's steps from the left never pass the answer.
    t = normal()
    for _ in range(100):
        step = (CONFIDENCE - _between(t, degrees)) / _slope(t, degrees)
        t += step
        if step < 1e-12 * t:
            break
    return t


def normal() -> float:
    """Return the two-sided 95 % point of the normal distribution."""
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(64)
    return nodes, weights


def _between(t: float, degrees: float) -> float:
    """
    Return P(-t < T < t).

    With T = sqrt(nu) tan(phi) the density becomes cos(phi)^(nu - 1) times a constant (Abramowitz and Stegun 26.7.3 and 4), which
    Gauss-Legendre quadrature takes to machine precision.
    """
    nodes, weights = _gauss_legendre()
    end = math.atan(t / math.sqrt(degrees))
    phi = end * (nodes + 1) / 2
    return float(_constant(degrees) * end * np.sum(weights * np.cos(phi) ** (degrees - 1)))


def _slope(t: float, degrees: float) -> float:
    """Return the derivative of P(-t < T < t): twice the density."""
    return 2 * _constant(degrees) / math.sqrt(degrees) * math.pow(1 + t * t / degrees, -(degrees + 1) / 2)


def _constant(degrees: float) -> float:
    return math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
