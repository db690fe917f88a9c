"""Pairs whose truth is known: conversations of many sizes, answers that resemble each other within one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import Metric, Scale
from graft_evaluation.paired.batch import Batch

WORST = 4096.0
"""What an answer that never came counts as where tokens or scores are simulated."""


SPREAD = 0.5
"""Standard deviation of the logarithm of tokens and seconds."""


@dataclass(frozen=True)
class Shape:
    """How pairs fall into conversations."""

    conversations: int
    sizes: Literal["one", "geometric", "skewed"] = "geometric"
    heavy: float = 0.0
    """Share of all pairs that belong to the first conversation."""
    alike: float = 0.2
    """Correlation of two pairs' latent values within a conversation."""

    def draw(self, chance: np.random.Generator) -> NDArray[np.intp]:
        """Return each pair's conversation."""
        if self.sizes == "one":
            sizes: NDArray[np.int64] = np.ones(self.conversations, np.int64)
        elif self.sizes == "geometric":
            sizes = chance.geometric(1 / 3, self.conversations)
        else:
            sizes = np.minimum(np.ceil(chance.lognormal(0.5, 1, self.conversations)), 100).astype(int)
        if self.heavy:
            sizes[0] = max(1, round(sizes[1:].sum() * self.heavy / (1 - self.heavy)))
        return np.repeat(np.arange(self.conversations), sizes)


@dataclass(frozen=True)
class Truth:
    """One metric's marginal distributions; the candidate's is the incumbent's, moved by a change that is known."""

    family: Literal["events", "scores", "tokens", "seconds"]
    level: float
    """Share of events; mean of scores; median of tokens and seconds."""
    change: float
    """Candidate minus incumbent (events, scores), or as a share of the incumbent (tokens, seconds)."""
    missing: tuple[float, float] = (0.0, 0.0)
    """Shares of the incumbent's and the candidate's answers that never come."""

    def per_unit(self, metric: Metric) -> float:
        """Return the `change` that moves the metric by one unit of its margin."""
        as_share = self.family in ("tokens", "seconds")
        if (metric.scale is Scale.RELATIVE) == as_share:
            return 1.0
        if not as_share:
            return self.level
        quantile = NormalDist().inv_cdf(metric.quantile) if metric.quantile is not None else None
        typical = math.exp(SPREAD**2 / 2) if quantile is None else math.exp(SPREAD * quantile)
        return 1 / (self.level * typical)

    def values(self, latent: NDArray[np.float64], *, candidate: bool) -> NDArray[np.float64]:
        """Return values from standard normal latents."""
        if self.family == "events":
            share = self.level + (self.change if candidate else 0.0)
            return (latent < NormalDist().inv_cdf(share)).astype(float)
        if self.family == "scores":
            # A triangle-like bounded score would not shift: mean and margin are what matters here.
            return self.level + 0.2 * latent + (self.change if candidate else 0.0)
        return self.level * np.exp(SPREAD * latent) * (1 + self.change if candidate else 1.0)


def batch(shape: Shape, truth: Truth, chance: np.random.Generator) -> Batch:
    """Return one test's pairs. Sides share half of what is their conversation's and a part of what is the request's own."""
    conversation = shape.draw(chance)
    pairs = len(conversation)
    common, own = chance.standard_normal((3, shape.conversations)), chance.standard_normal((3, pairs))
    sides: list[NDArray[np.float64]] = []
    for side in (1, 2):
        together = np.sqrt(0.5) * common[0] + np.sqrt(0.5) * common[side]
        alone = np.sqrt(0.4) * own[0] + np.sqrt(0.6) * own[side]
        sides.append(np.sqrt(shape.alike) * together[conversation] + np.sqrt(1 - shape.alike) * alone)
    keys = chance.integers(0, 2**64, shape.conversations, np.uint64)[conversation]
    first = np.concatenate([[True], conversation[1:] != conversation[:-1]])
    values = [truth.values(latent, candidate=index == 1)[None] for index, latent in enumerate(sides)]
    for values_of, share in zip(values, truth.missing, strict=True):
        if share:
            values_of[:, chance.random(pairs) < share] = WORST
    return Batch(keys, first, np.arange(pairs), values[0], values[1])
