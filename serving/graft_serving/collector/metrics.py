"""What Prometheus sees of a collector."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from graft_serving.collector.comparing import Comparing, Equipment
from graft_serving.collector.ingest import Intake
from graft_serving.collector.observed import UNIT
from graft_serving.collector.observing import Observing
from graft_serving.collector.readings import lost


class IntakeMetrics(Collector):
    """What came."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        batches = CounterMetricFamily("graft_collector_batches", "Batches of gateways, by answer.", labels=["code"])
        for status, count in self._intake.batches.items():
            batches.add_metric([str(status)], count)
        yield batches
        yield CounterMetricFamily("graft_collector_exchanges", "Exchanges that came, repeated ones included.", value=self._intake.exchanges)
        yield GaugeMetricFamily("graft_collector_held_bytes", "Batches and exchanges in memory.", value=self._intake.held)


class CompareMetrics(Collector):
    """How a comparison goes on."""

    def __init__(self, lane: Comparing, equipment: Equipment, now: Callable[[], float]) -> None:
        self._lane = lane
        self._with = equipment
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        journal = self._with.journal
        missing = CounterMetricFamily("graft_compare_lost", "Exchanges that were chosen and not compared, by cause.", labels=["cause"])
        for cause, count in lost(journal.progress(), self._now()).items():
            missing.add_metric([cause], count)
        yield missing
        yield CounterMetricFamily("graft_compare_duplicates", "Exchanges that came again.", value=self._lane.duplicates)
        yield GaugeMetricFamily("graft_compare_waiting", "Exchanges that wait for the shadow.", value=self._lane.waiting)
        yield GaugeMetricFamily("graft_compare_admitted_share", "Of conversations, by hash.", value=self._lane.admitted_share)
        yield GaugeMetricFamily("graft_compare_shadow_up", "0 while the shadow cannot be asked.", value=float(self._with.gate.away is None))
        yield GaugeMetricFamily("graft_compare_commit", "Number of the last commit.", value=journal.chain.total.sequence)
        yield GaugeMetricFamily("graft_compare_store_away", "1 while nothing can be written down.", value=float(journal.store_away))


class ObservedMetrics(Collector):
    """
    What production's answers are like.

    A launch criterion is a ratio of two of these: `increase(graft_observed_right_total[7d]) / increase(graft_observed_answers_total[7d])`.
    """

    def __init__(self, lane: Observing) -> None:
        self._lane = lane

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        labels = ["domain", "version", "score"]
        answers = CounterMetricFamily("graft_observed_answers", "Answers that this was measured of.", labels=labels)
        right = CounterMetricFamily("graft_observed_right", "Those of them that were right.", labels=labels)
        values = CounterMetricFamily("graft_observed_value", "Sum of what was measured.", labels=labels)
        broken = CounterMetricFamily("graft_observed_broken", "Answers that the scorer failed on, by cause.", labels=[*labels, "cause"])
        for names, cell in list(self._lane.counted.items()):
            answers.add_metric(list(names), cell.count)
            right.add_metric(list(names), cell.right)
            values.add_metric(list(names), cell.units * UNIT)
            for cause, count in cell.broken.items():
                broken.add_metric([*names, cause], count)
        yield from (answers, right, values, broken)
        yield CounterMetricFamily("graft_observed_duplicates", "Exchanges that came again.", value=self._lane.duplicates)
