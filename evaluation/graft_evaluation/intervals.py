"""
Intervals for shares of right and wrong answers, and for the paired difference of two shares.

z = 1.959964 throughout: two-sided 95 %, so that one end held against a bound is a one-sided test at 2.5 %.
"""

import math
from collections.abc import Callable, Sequence

from graft_api.finetunejob import Interval

Z95 = 1.959963984540054


def wilson(events: int, examples: int, z: float = Z95) -> Interval:
    """
    Return the score interval of a share, Wilson 1927 (J. Am. Stat. Assoc. 22:209).

    It stays inside [0, 1] and is not empty at 0 or all events, where the normal interval is.
    """
    if not 0 <= events <= examples or examples == 0:
        raise ValueError(f"{events} events of {examples} examples")
    share = events / examples
    shrink = 1 + z * z / examples
    centre = (share + z * z / (2 * examples)) / shrink
    half = z * math.sqrt(share * (1 - share) / examples + z * z / (4 * examples * examples)) / shrink
    low = 0.0 if events == 0 else centre - half
    high = 1.0 if events == examples else centre + half
    return Interval(estimate=share, low=low, high=high)


def paired_difference(base: Sequence[bool], adapter: Sequence[bool], z: float = Z95) -> Interval:
    """
    Return the score interval of (share of events in `adapter`) - (share in `base`), both asked of the same examples.

    Tango 1998 (Statistics in Medicine 17:891): the differences that the score test does not reject, with the discordant
    probability at its maximum under each. At a difference of 0 the test is McNemar's.
    """
    if len(base) != len(adapter) or not base:
        raise ValueError(f"{len(base)} and {len(adapter)} outcomes cannot be paired")
    only_adapter = sum(1 for b, a in zip(base, adapter, strict=True) if a and not b)
    only_base = sum(1 for b, a in zip(base, adapter, strict=True) if b and not a)
    return tango(only_adapter, only_base, len(base), z)


def tango(plus: float, minus: float, examples: float, z: float = Z95) -> Interval:
    """
    Return Tango's interval from the discordant counts: `plus` pairs count for the difference, `minus` against it.

    Counts of clustered pairs are divided by their design effect first, so they need not be whole.
    """
    estimate = (plus - minus) / examples

    def statistic(difference: float) -> float:
        return _tango_score(plus, minus, examples, difference)

    # The statistic falls as the difference grows.
    low = -1.0 if minus == examples else _root(lambda d: statistic(d) - z, -1.0, estimate)
    high = 1.0 if plus == examples else _root(lambda d: statistic(d) + z, estimate, 1.0)
    return Interval(estimate=estimate, low=low, high=high)


def _tango_score(plus: float, minus: float, examples: float, difference: float) -> float:
    """Return the score statistic of one hypothetical difference (Tango 1998, equations 6 and 7)."""
    n = examples
    b = -plus - minus + (2 * n - plus + minus) * difference
    c = -minus * difference * (1 - difference)
    # The restricted maximum-likelihood estimate of the probability of a pair that counts against: 2n q^2 + b q + c = 0.
    against = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * against + difference * (1 - difference))
    distance = plus - minus - n * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def nam_blackwelder(plus: float, minus: float, shared: float, z: float = Z95) -> Interval:
    """
    Return the score interval of a ratio of two paired shares, Nam and Blackwelder 2002 (Statistics in Medicine 21:689).

    `plus` events are the numerator's alone, `minus` the denominator's alone, `shared` both's; how many pairs have none does not matter.
    Counts of clustered pairs are divided by their design effect first. Raises ValueError if the denominator has no event.
    """
    below = minus + shared
    if below <= 0:
        raise ValueError("nothing to be relative to: the denominator has no event")
    estimate = (plus + shared) / below

    def statistic(ratio: float) -> float:
        variance = ratio * _discordant(plus, minus, shared, ratio)
        distance = plus + shared - ratio * below
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    high = 2 * estimate + 1.0
    while statistic(high) > -z:
        high *= 2
    # The statistic falls as the ratio grows.
    low = 0.0 if estimate == 0 else _root(lambda ratio: statistic(ratio) - z, 0.0, estimate)
    return Interval(estimate=estimate, low=low, high=_root(lambda ratio: statistic(ratio) + z, estimate, high))


def _discordant(plus: float, minus: float, shared: float, ratio: float) -> float:
    """
    Return how many discordant pairs are likeliest if the ratio of the shares is `ratio`.

    Under plus' + shared' = ratio (minus' + shared') the multinomial likelihood has its maximum at plus' = plus / (1 + x),
    minus' = minus / (1 - ratio x), shared' = shared / (1 + (1 - ratio) x), x being the multiplier of the constraint.
    """
    # A class without an event may still have an expectation: its likelihood is that of next to none.
    plus, minus = max(plus, 1e-9), max(minus, 1e-9)

    def violated(x: float) -> float:
        held = (1 - ratio) * shared / (1 + (1 - ratio) * x) if shared else 0.0
        return plus / (1 + x) - ratio * minus / (1 - ratio * x) + held

    x = _root(violated, -1 + 1e-15, (1 - 1e-15) / ratio)
    return plus / (1 + x) + minus / (1 - ratio * x)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Bisect a falling function to the last bit that matters."""
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
