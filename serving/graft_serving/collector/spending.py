"""What the scorers of a ShadowTest were asked, and may still be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from graft_api.collect import MeasuredMetric
from graft_serving.collector.drawing import Purpose, place
from graft_serving.collector.pacing import Pace


class Spending:
    """The budgets of one test, spent over its duration."""

    def __init__(self, metrics: Sequence[MeasuredMetric], duration: float, observed: Callable[[], float]) -> None:
        """`duration`: in seconds, of which those of `observed` are over."""
        samples = {measured.metric.name: measured.scorer.sample for measured in metrics if measured.scorer is not None}
        self._paces = {name: Pace(sample.max_requests, duration) for name, sample in samples.items() if sample and sample.max_requests}
        self._observed = observed
        self.spent: Counter[str] = Counter()
        """Requests that were asked, by metric."""

    def restore(self, spent: Mapping[str, int]) -> None:
        """Go on with what an earlier process has spent."""
        self.spent = Counter(spent)

    def spend(self, metric: str, requests: int, key: str) -> bool:
        """Whether the budget is there for a pair, as `Spend`."""
        pace = self._paces.get(metric)
        if pace is not None and not pace.take(requests, place(0, Purpose.PACE, key), self._observed(), self.spent[metric]):
            return False
        self.spent[metric] += requests
        return True
