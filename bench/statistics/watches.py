"""Watches of new versions: how often one is taken out that is no worse, and how soon one that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from bounds import Rate
from numpy.typing import NDArray

from graft_api.comparison import HARM_ALPHA, Direction, Kind
from graft_api.watch import Moments, WatchCount, WatchedMetric, WatchedSums
from graft_evaluation.paired.sequence import MIN_CLOSED, MIN_DIFFERENT, TIGHTEST_AT
from graft_evaluation.watch import read

LOOKS = 2000
TESTS = 600
"""One of so many, breached, still has an upper bound below 1 %."""
CONFIRMED = 20
"""Looks of each watch in which the arrays here are held against production's own reading."""
NEW, HELD_BACK = 0, 1
FIELDS = tuple(Moments.model_fields)
Steps = tuple[tuple[float, float], ...]
"""Of a ramp: share of the looks, and of conversations that are on the new version."""
WATCH: Steps = ((1.0, 0.95),)
FIRST: Steps = ((1.0, 0.1),)
RAMP: Steps = ((0.1, 0.1), (0.2, 0.5), (0.7, 0.95))


def metric(margin: float = 0.0, kind: Kind = Kind.PROPORTION, direction: Direction = Direction.LOWER) -> WatchedMetric:
    return WatchedMetric(name="m", kind=kind, direction=direction, margin=margin)


@dataclass(frozen=True)
class Case:
    """What comes, and what is asked of it. Values of one conversation resemble each other."""

    metric: WatchedMetric
    level: float
    """Share of ones; median of a quantity."""
    steps: Steps = WATCH
    per_look: int = 6
    """Conversations that close between two looks."""
    spread: float = 0.0
    """Of the logarithm of a quantity. 0: ones and zeros."""
    heavy: float = 0.0
    """Share of each arm's values that its first conversation has."""
    outage: float = 0.0
    """Share of the looks, the last ones, in which six of ten answers are ones on either version."""


CASES = {
    "0.5 %": Case(metric(), 0.005),
    "10 %": Case(metric(), 0.1),
    "40 %": Case(metric(), 0.4),
    "0.5 %, 10 % new": Case(metric(), 0.005, FIRST),
    "1 %, ramp": Case(metric(), 0.01, RAMP),
    "1 %, ramp, outage": Case(metric(), 0.01, RAMP, outage=0.05),
    "10 %, heavy conversation": Case(metric(), 0.1, heavy=0.1),
    "99.5 % should be high": Case(metric(direction=Direction.HIGHER), 0.995),
    "seconds": Case(metric(kind=Kind.MEAN), 2.0, spread=1.0),
    "seconds, 10 % new": Case(metric(kind=Kind.MEAN), 2.0, FIRST, spread=1.0),
    "0.5 %, at a margin of 1 point": Case(metric(0.01), 0.005),
    "10 %, at a margin of 2 points": Case(metric(0.02), 0.1),
    "10 %, at a margin of 2 points, ramp": Case(metric(0.02), 0.1, RAMP),
}
"""The truth is the margin: no difference where that is 0."""
DETECTED = (0.1, 0.5, 1.0)
"""Error shares of a new version; the one before it has 1 %, and a margin of 1 point is allowed."""
ALIKE = 0.2
"""Correlation of two values of a conversation."""


def sums(case: Case, worse: float, chance: np.random.Generator) -> NDArray[np.float64]:
    """Return `Moments` of both arms at every look, shape [LOOKS, 2, FIELDS]: weighted as the collector does."""
    total = np.zeros((LOOKS, 2, len(FIELDS)))
    begins = 0
    for share_of_looks, new in case.steps:
        ends = begins + round(share_of_looks * LOOKS)
        looks, arms, values, ones = _conversations(case, worse, new, (begins, ends), chance)
        raw = np.stack([np.ones(len(looks)), values, ones, values**2, values * ones, ones**2], axis=1)
        found = np.zeros((LOOKS, 2, 6))
        for arm in (NEW, HELD_BACK):
            own = np.where((arms == arm)[:, None], raw, 0.0)
            found[begins:ends, arm] = own.reshape(-1, case.per_look, 6).sum(axis=1)
        found = found.cumsum(axis=0)
        opened = found[:, :, 0]
        weights = np.divide(opened[:, ::-1], opened.sum(axis=1, keepdims=True), where=opened.sum(axis=1, keepdims=True) > 0, out=0 * opened)
        squares = weights**2
        factors = np.stack([weights > 0, weights, weights, *[squares] * 3, *[weights - squares] * 3], axis=2)
        total += found[:, :, [0, 1, 2, 3, 4, 5, 3, 4, 5]] * factors
        begins = ends
    return total


def _conversations(
    case: Case, worse: float, new: float, between: tuple[int, int], chance: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the look, arm, number of values and sum of each conversation of one step."""
    looks = np.repeat(np.arange(*between), case.per_look)
    arms = np.where(chance.random(len(looks)) < new, NEW, HELD_BACK)
    values = chance.geometric(1 / 3, len(looks)).astype(float)
    if case.heavy:
        for arm in (NEW, HELD_BACK):
            values[np.argmax(arms == arm)] = round(values[arms == arm].sum() * case.heavy / (1 - case.heavy))
    return looks, arms, values, _ones(case, worse, looks, arms, values, chance)


def _ones(
    case: Case,
    worse: float,
    looks: NDArray[np.int64],
    arms: NDArray[np.int64],
    values: NDArray[np.float64],
    chance: np.random.Generator,
) -> NDArray[np.float64]:
    moved = worse if case.metric.direction is Direction.LOWER else -worse
    if case.spread:
        common = chance.standard_normal(len(looks))
        sizes = values.astype(int)
        each = np.sqrt(ALIKE) * np.repeat(common, sizes) + np.sqrt(1 - ALIKE) * chance.standard_normal(sizes.sum())
        drawn = case.level * np.exp(case.spread * each) + np.repeat(np.where(arms == NEW, moved, 0.0), sizes)
        return np.add.reduceat(drawn, np.concatenate([[0], sizes.cumsum()[:-1]]))
    share = np.clip(np.where(arms == NEW, case.level + moved, case.level), 0.0, 1.0)
    if case.outage:
        share = np.where(looks >= (1 - case.outage) * LOOKS, 0.6, share)
    between = (1 - ALIKE) / ALIKE
    certain = (share == 0) | (share == 1)
    inside = np.where(certain, 0.5, share)
    own = np.where(certain, share, chance.beta(inside * between, (1 - inside) * between))
    return chance.binomial(values.astype(int), own).astype(float)


def breached_at(case: Case, found: NDArray[np.float64], chance: np.random.Generator) -> int | None:
    """Return the look at which production's reading is a breach; a twin on arrays says where it is worth asking for."""
    high = upper(case.metric, found)
    for look in chance.integers(0, LOOKS, CONFIRMED):
        reading = production(case.metric, found[look])
        assert (reading is None) == bool(np.isnan(high[look])), f"look {look}: {reading} and {high[look]}"
        assert reading is None or math.isclose(reading, high[look], rel_tol=1e-6, abs_tol=1e-9), f"look {look}: {reading}, {high[look]}"
    limit = -case.metric.margin
    for look in np.flatnonzero(high < limit + 1e-9):
        asked = production(case.metric, found[look])
        if asked is not None and asked < limit:
            return int(look)
    return None


def production(asked: WatchedMetric, both: NDArray[np.float64]) -> float | None:
    new, held_back = (Moments(**dict(zip(FIELDS, [int(row[0]), *row[1:].tolist()], strict=True))) for row in both)
    (reading,) = read([asked], WatchCount(metrics=[WatchedSums(name=asked.name, new=new, held_back=held_back)]))
    assert reading.breached == (reading.high is not None and reading.high < reading.limit)
    return reading.high


def upper(asked: WatchedMetric, found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper bound at every look; NaN where there is too little."""
    clusters, values, total, squares, product, total_squared, *crossed = np.moveaxis(found, 2, 0)
    with np.errstate(all="ignore"):
        mean, worth = total / values, values**2 / squares
        own, others = (
            np.maximum(z - 2 * mean * y + mean**2 * x, 0.0) / x / (1 - worth**-0.5) ** 2
            for x, y, z in ((squares, product, total_squared), crossed)
        )
        count = 1 / (1 / worth).sum(axis=1)
        spread = (np.maximum(own, others[:, ::-1]) / worth).sum(axis=1) * count
        tail = -2 * math.log(2 * HARM_ALPHA)
        r2 = (tail + math.log(tail) + 1) / TIGHTEST_AT
        grown = count * r2 + 1
        width = np.sqrt(spread * 2 * grown / (count**2 * r2) * np.log1p(np.sqrt(grown) / (2 * HARM_ALPHA)))
        enough = (clusters.min(axis=1) >= MIN_CLOSED) & (worth.min(axis=1) >= MIN_DIFFERENT)
        if asked.kind is Kind.PROPORTION:
            for ones, square in ((total, total_squared), (values - total, squares - 2 * product + total_squared)):
                enough &= np.where(ones > 1e-9 * values, ones**2 / square, 0.0).sum(axis=1) >= MIN_DIFFERENT
        improvement = mean[:, HELD_BACK] - mean[:, NEW]
    high = (improvement if asked.direction is Direction.LOWER else -improvement) + width
    return np.where(enough, high, np.nan)


def false_breaches(name: str, tests: int) -> Rate:
    """Return how often a version is taken out that is worse by no more than its margin."""
    case, chance = CASES[name], np.random.default_rng([11, list(CASES).index(name)])
    return Rate(sum(breached_at(case, sums(case, case.metric.margin, chance), chance) is not None for _ in range(tests)), tests)


def conversations_until(share: float, steps: Steps, tests: int) -> tuple[float, float]:
    """Return the median and the 90 % quantile of conversations until a version with so many errors is taken out; infinity: never."""
    case, chance = Case(metric(0.01), 0.01, steps, per_look=5), np.random.default_rng([12, round(100 * share)])
    looks = [breached_at(case, sums(case, share - case.level, chance), chance) for _ in range(tests)]
    counts = [math.inf if look is None else (look + 1) * case.per_look for look in looks]
    middle, late = np.quantile(counts, [0.5, 0.9], method="higher")
    return float(middle), float(late)
