"""What Prometheus sees of policies: readings and decisions, by policy and domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from graft_api.tuningpolicy import Verdict
from graft_operator.engine.queue import Key
from graft_operator.tuningpolicy.domains import Judged

ENDS = ("value", "low", "high", "samples", "coverage")


class PolicyMetrics(Collector):
    """
    Decisions are counted once a reading, and once more when one changes in between; readings are the last ones.

    Labels are names of objects and of their fields: readings are gone with them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter(
            "graft_policy_decisions",
            "What TuningPolicies decided, once a reading of the criteria.",
            ["namespace", "policy", "domain", "decision"],
            registry=registry,
        )
        self._told: dict[tuple[Key, str], tuple[str, str]] = {}
        """Of a domain: the reading and the decision that were counted last."""
        self._last: dict[Key, Sequence[Judged]] = {}
        registry.register(self)

    def judged(self, key: Key, read_at: str, found: Sequence[Judged]) -> None:
        """Count what was decided by the reading of this time."""
        self._last[key] = found
        for one in found:
            told = (read_at, one.verdict)
            if (key, one.domain.name) not in self._told:
                self._begin(key, one.domain.name)
            if self._told.get((key, one.domain.name)) != told:
                self._told[key, one.domain.name] = told
                self.decisions.labels(key.namespace, key.name, one.domain.name, one.verdict).inc()

    def _begin(self, key: Key, domain: str) -> None:
        """Count from 0 on: for Prometheus a counter that appears as 1 has never grown."""
        for verdict in get_args(Verdict):
            self.decisions.labels(key.namespace, key.name, domain, verdict)

    def forget(self, key: Key) -> None:
        """The policy is gone. What was counted stays: counters do not go back."""
        self._last.pop(key, None)
        self._told = {place: told for place, told in self._told.items() if place[0] != key}

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        labels = ["namespace", "policy", "domain", "criterion", "of"]
        readings = GaugeMetricFamily("graft_policy_reading", "Criteria as they were last read: value, interval, samples.", labels=labels)
        for key, found in list(self._last.items()):
            for one in found:
                for criterion in one.criteria:
                    for end in ENDS:
                        if (value := getattr(criterion, end)) is not None:
                            readings.add_metric([key.namespace, key.name, one.domain.name, criterion.name, end], value)
        yield readings
