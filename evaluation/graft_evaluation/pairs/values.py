"""
How often which values came, counted as they come: at most `MOST_BINS` bins whose width doubles when they do not suffice.

Widths are powers of two and bins begin at multiples of them, so two neighbours become one exactly, and the counts are the same in
whatever order values came. Of a quantile, which spans decades, it is the logarithm that is counted.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import Kind, Metric

MOST_BINS = 32
FINEST = 12
"""Bits: how much narrower than the first values are large a bin may be. Where all are the same there is nothing to tell apart."""

Numbers = NDArray[np.float64]


class Values:
    """Both sides' values of one metric."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.logarithmic = metric.kind is Kind.QUANTILE
        self.never = [0, 0]
        """Answers of the incumbent and of the candidate that never came, or took for ever."""
        self._zeros = [0, 0]
        """Of a quantile: they have no logarithm."""
        self._counts: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        """By the bin's number: it begins at so many widths."""
        self._exponent = 0
        """The width is 2 to the power of this."""
        self._low, self._high = math.inf, -math.inf

    def add(self, incumbent: Numbers, candidate: Numbers) -> None:
        """Count pairs; NaN on both sides is one that was not sampled, on one side an answer that never came."""
        sampled = ~(np.isnan(incumbent) & np.isnan(candidate))
        for side, values in enumerate((incumbent[sampled], candidate[sampled])):
            there = values[np.isfinite(values)]
            self.never[side] += len(values) - len(there)
            self._count(side, there)

    def binned(self) -> tuple[list[float], list[list[int]]]:
        """Return the edges, one more than there are bins, and both sides' counts. Of a proportion the edges are its two values."""
        if self.metric.kind is Kind.PROPORTION:
            return [0.0, 1.0], [[counts[0], counts[1]] for counts in self._counts]
        if self._low > self._high:
            return [0.0, 1.0], [[zeros] for zeros in self._zeros]
        bins = range(self._place(self._low), self._place(self._high) + 1)
        edges = [math.ldexp(number, self._exponent) for number in (*bins, bins.stop)]
        counts = [[counts[number] for number in bins] for counts in self._counts]
        for side, zeros in enumerate(self._zeros):
            counts[side][0] += zeros
        return [2.0**edge for edge in edges] if self.logarithmic else edges, counts

    def _count(self, side: int, values: Numbers) -> None:
        if self.metric.kind is Kind.PROPORTION:
            self._counts[side].update(values.astype(int).tolist())
            return
        if self.logarithmic:
            self._zeros[side] += int((values <= 0).sum())
            values = np.log2(values[values > 0])
        if not len(values):
            return
        self._reach(float(values.min()), float(values.max()))
        places, counts = np.unique(np.floor(np.ldexp(values, -self._exponent)).astype(np.int64), return_counts=True)
        self._counts[side].update(dict(zip(places.tolist(), counts.tolist(), strict=True)))

    def _reach(self, low: float, high: float) -> None:
        """Widen the bins until they suffice for everything so far and for these ends."""
        fresh = self._low > self._high
        self._low, self._high = min(self._low, low), max(self._high, high)
        before = self._exponent
        if fresh:
            self._exponent = math.frexp(max(abs(self._low), abs(self._high)))[1] - FINEST
        while self._place(self._high) - self._place(self._low) >= MOST_BINS:
            self._exponent += 1
        if fresh:
            return
        for counts in self._counts:
            coarser: Counter[int] = Counter()
            for number, count in counts.items():
                coarser[number >> (self._exponent - before)] += count
            counts.clear()
            counts.update(coarser)

    def _place(self, value: float) -> int:
        return math.floor(math.ldexp(value, -self._exponent))
