"""What is scored where scoring costs: a share by hash, and a budget of requests."""

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction

from graft_api.scorers import Sample, Scorer

HASH_RANGE = 2**64


def requests_per_answer(scorer: Scorer) -> int:
    """Return what one answer takes from `sample.maxRequests`: a judge asks in both orders."""
    return 2 if scorer.llm_judge is not None else 1


def sampled(sample: Sample | None, key: str) -> bool:
    """Return whether the example of this key is scored: the same for every model, at every time and in every process."""
    if sample is None:
        return True
    place = int.from_bytes(hashlib.sha256(f"graft-sample\n{key}".encode()).digest()[:8], "big")
    return place < float(sample.share) * HASH_RANGE


def affordable(scorer: Scorer, examples: int, models: int) -> int:
    """Return how many of so many examples are scored for each of the models: the share of them, within the budget."""
    if scorer.sample is None:
        return examples
    wanted = math.ceil(Fraction(scorer.sample.share) * examples)  # exact: 0.1 of 30 is 3
    if scorer.sample.max_requests is None:
        return wanted
    return min(wanted, scorer.sample.max_requests // (models * requests_per_answer(scorer)))


@dataclass
class Budget:
    """What may still be asked. For one process and one event loop."""

    left: int | None
    """None: without end."""

    def take(self, requests: int) -> bool:
        """Spend so many requests, all or none; return whether they were there."""
        if self.left is None:
            return True
        if requests > self.left:
            return False
        self.left -= requests
        return True
