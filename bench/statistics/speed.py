"""Pairs per second through the summary, and the same five statistics by scipy's bootstrap in the same run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from scipy import stats

from graft_api.comparison import Contrast, Direction, Kind, Limits, Metric, Role, Scale
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.reading import Moment, contrast
from graft_evaluation.paired.summary import Plan, Summary

REPLICATES = 1000
ARRIVING = 1000
"""Pairs that a collector adds at once."""


def metrics() -> tuple[Metric, ...]:
    lower, guardrail = Direction.LOWER, Role.GUARDRAIL
    return (
        Metric(name="compile-errors", kind=Kind.PROPORTION, direction=lower, role=Role.PRIMARY),
        Metric(name="refusals", kind=Kind.PROPORTION, direction=lower, role=guardrail, margin=0.01),
        Metric(name="score", kind=Kind.MEAN, direction=Direction.HIGHER, role=guardrail, margin=0.02, worst=0.0, best=1.0),
        Metric(name="tokens", kind=Kind.MEAN, direction=lower, role=guardrail, margin=10, worst=4096.0),
        Metric(name="latency", unit="s", kind=Kind.QUANTILE, quantile=0.95, direction=lower, role=guardrail, margin=0.1),
    )


def pairs(count: int, per_conversation: int, seed: int) -> Batch:
    chance = np.random.default_rng(seed)
    keys = chance.integers(0, 2**64, -(-count // per_conversation), np.uint64)
    sides = []
    for shift in (0.0, 0.01):
        values = [
            chance.random(count) < 0.30 - shift,
            chance.random(count) < 0.05,
            chance.beta(4, 2, count),
            np.rint(chance.lognormal(5, 0.5, count)),
            chance.lognormal(0, 0.5, count),
        ]
        sides.append(np.stack(values).astype(float))
    # Turns of many conversations come mixed, as they do in production.
    conversation = np.arange(count) % len(keys)
    return Batch(keys[conversation], np.arange(count) < len(keys), np.arange(count), sides[0], sides[1])


@dataclass(frozen=True)
class Ours:
    seconds_adding: float
    seconds_reading: float
    contrast: Contrast


def ours(data: Batch, arriving: int) -> Ours:
    """Add pairs as they arrive and read all intervals once. One BLAS thread: run.py sets it before numpy is imported."""
    start = time.perf_counter()
    summary = Summary(Plan("bench", metrics(), 7))
    for first in range(0, len(data), arriving):
        summary.add(data.part(first, first + arriving))
    added = time.perf_counter()
    found = contrast(summary, Limits(), Moment(now=len(data), hours=1.0), REPLICATES)
    return Ours(added - start, time.perf_counter() - added, found)


def scipys(data: Batch, replicates: int) -> tuple[float, list[tuple[float, float]]]:
    """
    Return seconds for REPLICATES replicates of all five statistics, extrapolated from fewer, and the intervals of those few.

    Pairs are resampled, one per conversation; the time of a call with one replicate is taken off and added once.
    """
    seconds, intervals = 0.0, []
    for index, metric in enumerate(metrics()):
        sides = (data.incumbent[index], data.candidate[index])
        once, _ = _scipy(metric, sides, 1)
        all_, interval = _scipy(metric, sides, replicates + 1)
        seconds += once + (all_ - once) / replicates * (REPLICATES - 1)
        intervals.append(interval)
    return seconds, intervals


def _scipy(metric: Metric, sides: tuple[np.ndarray, np.ndarray], replicates: int) -> tuple[float, tuple[float, float]]:
    assert metric.scale is Scale.ABSOLUTE

    def statistic(b: np.ndarray, c: np.ndarray, axis: int = -1) -> np.ndarray:
        if metric.quantile is not None:
            sides = np.quantile(c, metric.quantile, axis=axis), np.quantile(b, metric.quantile, axis=axis)
        else:
            sides = np.mean(c, axis=axis), np.mean(b, axis=axis)
        apart: np.ndarray = sides[0] - sides[1]
        return apart

    start = time.perf_counter()
    found = stats.bootstrap(sides, statistic, paired=True, vectorized=True, n_resamples=replicates, batch=1, method="percentile", rng=1)
    return time.perf_counter() - start, (float(found.confidence_interval.low), float(found.confidence_interval.high))
