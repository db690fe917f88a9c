"""
The sequence by which harm is looked for, at every look, wrong in at most its share of all of them together.

Standard library only: the operator reads watches by it.
"""

import math

MIN_CLOSED = 100
"""Closed conversations before the first look: the sequence holds asymptotically."""
MIN_DIFFERENT = 10
"""Closed conversations in which the sides differ, likewise: a variance of fewer is a guess."""
TIGHTEST_AT = 500
"""Conversations at which the sequence is tightest: harm that shows there is worth stopping for."""


def half_width(observations: float, alpha: float) -> float:
    """
    Return the half-width in standard deviations of the one-sided sequence after so many observations.

    sqrt(2 (t r^2 + 1) / (t^2 r^2) log(1 + sqrt(t r^2 + 1) / (2 alpha))), with r such that it is tightest at TIGHTEST_AT.
    """
    tail = -2 * math.log(2 * alpha)
    r2 = (tail + math.log(tail) + 1) / TIGHTEST_AT
    spread = observations * r2 + 1
    return math.sqrt(2 * spread / (observations**2 * r2) * math.log1p(math.sqrt(spread) / (2 * alpha)))
