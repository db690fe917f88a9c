"""
How far a candidate's answers to a team's principle prompts are from other answers to them, and what that decides.

Answers are vectors of length 1 (`graft_api.drift.Asked`). The distance of two is 1 - a . b, from 0 (the same direction) over 1
(unrelated) to 2 (opposite). Of a principle with n prompts the distances d have the mean m and the sample deviation s; the 95 %
interval of the mean over prompts like these is Student's (1908, "The probable error of a mean", Biometrika 6:1),

    m +- t(n - 1) s / sqrt(n)

cut to what a distance can be. What to know of it:

* Prompts are what varies, so a principle needs at least `MIN_PROMPTS`. Of three t is 4.30 and the interval wide: what is near in truth is
  then easily not shown to be, and what is far not either. More prompts make it narrower, nothing else does.
* Where all distances are equal s is 0, and the interval a point. That happens at both ends and is right there: the same words
  everywhere (0), or one version silent everywhere (1).
* It supposes that distances are about normal over prompts. They are skewed where most answers agree and a few do not; of few prompts
  the interval is then too short now and then.
* Every principle stands for itself. All must be near before a candidate serves, which needs no correction (intersection-union: Berger
  1982, Technometrics 24:295); that one of k is found far by chance happens in up to k times 2.5 % of the looks after it.

An answer without a word has no vector. Beside one with words it is unrelated, of distance 1. Two of them show nothing and are left out:
a model that is silent to everybody, as one that thinks for longer than its answer may be, must not look faithful.

Standard library only: the operator decides by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import fmean, stdev

from graft_api.comparison import CONFIDENCE
from graft_api.drift import FARTHEST, Asked, Contrast, DriftReading, Moment

MIN_PROMPTS = 3
UNRELATED = 1.0
DIGITS = 6
"""Of a reading. Vectors that were written down with eight are exact to about seven."""

Pair = tuple[Sequence[float], Sequence[float]]


def unit(vector: Sequence[float]) -> list[float]:
    """Return the vector with length 1 in the Euclidean norm, of 8 digits. Raises ValueError for one that has no direction."""
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        raise ValueError("a vector without a direction")
    return [round(value / length, 8) for value in vector]


def distance(one: Sequence[float], other: Sequence[float]) -> float | None:
    """
    Return the cosine distance of two vectors of length 1, from 0 to 2. Empty: a silent answer; None where both are.

    Raises ValueError for two of different lengths.
    """
    if not one or not other:
        return None if not one and not other else UNRELATED
    cosine = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return min(max(1 - cosine, 0.0), FARTHEST)


def interval(distances: Sequence[float]) -> tuple[float, float]:
    """Return both ends of the 95 % interval of the mean of at least two distances."""
    mean, width = fmean(distances), critical(len(distances) - 1) * stdev(distances) / math.sqrt(len(distances))
    return max(mean - width, 0.0), min(mean + width, FARTHEST)


def readings(asked: Sequence[Asked], before: Sequence[Asked] = ()) -> list[DriftReading]:
    """
    Return every principle's readings, in their order. A contrast of fewer than `MIN_PROMPTS` has none.

    `before`: what was asked before activation; with it, both versions are held against their own answers of then, to the same prompts.
    """
    earlier = {(each.principle, each.prompt): each for each in before}
    found = []
    for principle in dict.fromkeys(each.principle for each in asked):
        mine = [each for each in asked if each.principle == principle]
        then = [(each, earlier[key]) for each in mine if (key := (principle, each.prompt)) in earlier]
        pairs: dict[Contrast, list[Pair]] = {
            Contrast.VERSIONS: [(each.candidate, each.incumbent) for each in mine],
            Contrast.CANDIDATE: [(now.candidate, old.candidate) for now, old in then],
            Contrast.INCUMBENT: [(now.incumbent, old.incumbent) for now, old in then],
            Contrast.NOISE: [(each.incumbent, each.again) for each in mine],
        }
        found += [reading for contrast, answers in pairs.items() if (reading := _reading(principle, contrast, answers))]
    return found


def _reading(principle: str, contrast: Contrast, answers: Iterable[Pair]) -> DriftReading | None:
    distances = [found for one, other in answers if (found := distance(one, other)) is not None]
    if len(distances) < MIN_PROMPTS:
        return None
    low, high = interval(distances)
    return DriftReading(
        principle=principle,
        contrast=contrast,
        prompts=len(distances),
        mean=round(fmean(distances), DIGITS),
        low=round(low, DIGITS),
        high=round(high, DIGITS),
    )


def unmeasured(principles: Iterable[str], found: Iterable[DriftReading]) -> list[str]:
    """Return the principles of which the versions could not be compared. Nothing may be decided while there are any."""
    compared = {reading.principle for reading in found if reading.contrast is Contrast.VERSIONS}
    return [principle for principle in principles if principle not in compared]


def beyond(found: Iterable[DriftReading], limit: str, moment: Moment) -> list[DriftReading]:
    """
    Return what stops a candidate, in the readings' order. None: it may go on.

    Before activation it has to be shown that it is near: the upper end of its answers against the incumbent's is at most `limit`.
    Once it serves, that it is far: the lower end, against the incumbent's or its own from before.
    """
    bound = float(limit)
    if moment is Moment.BEFORE:
        return [reading for reading in found if reading.contrast is Contrast.VERSIONS and reading.high > bound]
    return [reading for reading in found if reading.contrast in {Contrast.VERSIONS, Contrast.CANDIDATE} and reading.low > bound]


def describe(reading: DriftReading, limit: str, moment: Moment) -> str:
    """Return what a reading means, with its numbers and the bound that they were held against."""
    size = f"{number(reading.mean)} [{number(reading.low)}, {number(reading.high)}]"
    return f"{reading.principle}: {_SIDES[reading.contrast].format(size)} in cosine distance{_held(reading, limit, moment)}"


_SIDES = {
    Contrast.VERSIONS: "the candidate's answers are {} from the incumbent's",
    Contrast.CANDIDATE: "the candidate's answers are {} from its own before activation",
    Contrast.INCUMBENT: "the incumbent's answers are {} from its own before activation",
    Contrast.NOISE: "the incumbent's answers are {} from its own when asked twice",
}


def _held(reading: DriftReading, limit: str, moment: Moment) -> str:
    deciding = {Contrast.VERSIONS} | ({Contrast.CANDIDATE} if moment is Moment.AFTER else set())
    if reading.contrast not in deciding:
        return ""
    if reading.low > float(limit):
        return f", more than the {limit} allowed"
    if reading.high <= float(limit):
        return f", within the {limit} allowed"
    wanted = f"that it is at most {limit}" if moment is Moment.BEFORE else f"that it is more than {limit}"
    return f"; {wanted} is not shown"


def number(value: float) -> str:
    """Return a distance as people read it."""
    return f"{value:.3f}"


@lru_cache(maxsize=256)
def critical(degrees: int) -> float:
    """Return the two-sided 95 % point of Student's t for a whole number of degrees of freedom, at least 1."""
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom")
    low, high = 0.0, 16.0  # of one degree it is 12.7, and it falls
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if _between(middle, degrees) < CONFIDENCE else (low, middle)
    return high


def _between(t: float, degrees: int) -> float:
    """Return P(-t < T < t) as the finite sums of Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(2 + odd, degrees + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power - 1) / power
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
