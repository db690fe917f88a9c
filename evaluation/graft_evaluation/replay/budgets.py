"""What the scorers of a replay may still be asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graft_api.collect import MeasuredMetric
from graft_evaluation.pairs.scoring import Scoring
from graft_evaluation.replay.pairs_file import Earlier
from graft_evaluation.scorers import Budget


class Budgets:
    """Of one replay, whose log has no time over which they could be spent: of a long one set `sample.share`."""

    def __init__(self, metrics: Sequence[MeasuredMetric]) -> None:
        scorers = {measured.metric.name: measured.scorer for measured in metrics}
        self._left = {name: Budget(scorer.sample.max_requests) for name, scorer in scorers.items() if scorer and scorer.sample}

    def spend(self, metric: str, requests: int, _key: str) -> bool:
        """Whether the budget is there for a pair, as `Spend`."""
        budget = self._left.get(metric)
        return budget is None or budget.take(requests)

    def restore(self, before: Iterable[Earlier], scoring: Scoring) -> None:
        """Take what earlier pairs took."""
        for pair in before:
            for metric in pair.measured & self._left.keys():
                self._left[metric].take(scoring.requests(metric, twice=pair.twice))
