"""What Prometheus sees of a collector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from graft_api.tee import Dropped
from graft_serving.collector.comparing import CUT_OFF, INTERNAL, OVERLOAD, SHADOW_AWAY, Comparing, Equipment
from graft_serving.collector.conversations import BOTH_VERSIONS, CLOSED_EARLY, TOO_LATE, Arm
from graft_serving.collector.ingest import Intake
from graft_serving.collector.numbers import CAME_LATE, NEVER_CAME
from graft_serving.collector.observed import UNIT
from graft_serving.collector.observing import Observing
from graft_serving.collector.readings import lost
from graft_serving.collector.watching import BROKEN, Watching

# Counted from 0 on: for Prometheus a counter that appears as 1 has never grown.
ANSWERS = (204, 400, 401, 403, 411, 413, 429, 503)
"""To batches."""
LOST = (CAME_LATE, OVERLOAD, SHADOW_AWAY, INTERNAL, CUT_OFF, *Dropped)
LEFT_OUT = (OVERLOAD, INTERNAL, BROKEN, BOTH_VERSIONS, CLOSED_EARLY, TOO_LATE)


class IntakeMetrics(Collector):
    """What came."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        batches = CounterMetricFamily("graft_collector_batches", "Batches of gateways, by answer.", labels=["code"])
        for status, count in {**dict.fromkeys(ANSWERS, 0), **self._intake.batches}.items():
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
        found = lost(journal.progress(), self._now())
        # What has not come may still come.
        missing = found.pop(NEVER_CAME, 0)
        yield GaugeMetricFamily("graft_compare_missing", "Exchanges that gateways numbered and that did not come so far.", value=missing)
        gone = CounterMetricFamily("graft_compare_lost", "Exchanges that were chosen and not compared, by cause.", labels=["cause"])
        for cause, count in {**dict.fromkeys(LOST, 0), **found}.items():
            gone.add_metric([cause], count)
        yield gone
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
        yield GaugeMetricFamily("graft_observed_store_away", "1 while nothing can be written down.", value=float(self._lane.store_away))


class WatchMetrics(Collector):
    """How far the watches of new versions are."""

    def __init__(self, lane: Watching) -> None:
        self._lane = lane

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        labels = ["domain", "version"]
        closed = CounterMetricFamily("graft_watch_conversations", "Closed conversations on a version that is watched.", labels=labels)
        values = CounterMetricFamily("graft_watch_values", "Values of a watched metric.", labels=[*labels, "metric"])
        opened = GaugeMetricFamily("graft_watch_open_conversations", "Conversations that are not closed yet.", labels=["domain"])
        missing = CounterMetricFamily("graft_watch_left_out", "What is not counted as it should be, by cause.", labels=["cause"])
        left_out = Counter(dict.fromkeys(LEFT_OUT, 0))
        left_out.update(self._lane.left_out)
        for domain, watch in self._lane.watches.items():
            versions = {Arm.NEW: watch.task.new, Arm.HELD_BACK: watch.task.held_back}
            for arm, version in versions.items():
                closed.add_metric([domain, version], watch.conversations.closed[arm])
            for (arm, metric), count in watch.values.items():
                values.add_metric([domain, versions[arm], metric], count)
            opened.add_metric([domain], watch.conversations.open)
            left_out.update(watch.conversations.left_out)
        for cause, count in left_out.items():
            missing.add_metric([cause], count)
        yield from (closed, values, opened, missing)
        seconds = self._lane.observed_seconds
        yield CounterMetricFamily("graft_watch_observed_seconds", "In which gateways were heard.", value=seconds)
