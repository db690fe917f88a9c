"""What Prometheus sees of promotion: where each domain's candidate is, and what has become of candidates."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from graft_api.ledger import GateState, Ledger, LedgerDomain, Reason, Transition
from graft_operator.engine.queue import Key
from graft_operator.promotion.transitions import LIFTED, NONE, SWITCHED

LABELS = ["namespace", "endpoint", "domain", "state"]
STATES = tuple(state.value for state in GateState)
COUNTED = (*STATES, *(reason.value for reason in Reason), LIFTED)
"""What a transition leads to, beside a switch."""
MINUTE, HOUR, DAY = 60, 3600, 86_400


class PromotionMetrics(Collector):
    """
    Of all endpoints of a process.

    Counters begin with 0 when an endpoint is first seen: one that appears as 1 has never grown, for Prometheus.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        words = "Candidates that came to a state (Testing, Ramping, ...), or ended so (Confirmed, RolledBack, Overridden, ...)."
        buckets = (MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY)
        self.transitions = Counter("graft_promotion_transitions_total", words, LABELS, registry=registry)
        self.seconds = Histogram(
            "graft_promotion_state_seconds", "How long a candidate was in a state.", LABELS, registry=registry, buckets=buckets
        )
        self._present: dict[Key, list[LedgerDomain]] = {}
        registry.register(self)

    def know(self, endpoint: Key, ledger: Ledger) -> None:
        """Show where the candidates of an endpoint are."""
        before = {entry.name for entry in self._present.get(endpoint, ())}
        for entry in ledger.domains:
            if entry.name not in before:
                self._begin((endpoint.namespace, endpoint.name, entry.name))
        self._present[endpoint] = ledger.domains

    def forget(self, endpoint: Key) -> None:
        """The endpoint is gone. What was counted stays: counters do not go back."""
        self._present.pop(endpoint, None)

    def count(self, endpoint: Key, domain: str, step: Transition) -> None:
        """Count a transition, and how long the state before has lasted."""
        place = (endpoint.namespace, endpoint.name, domain)
        if step.after not in {step.before, SWITCHED}:
            self.transitions.labels(*place, step.after).inc()
        if step.seconds is not None and step.before != NONE:
            self.seconds.labels(*place, step.before).observe(step.seconds)

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        states = GaugeMetricFamily("graft_promotion_state", "1 for the state that a domain's candidate is in.", labels=LABELS)
        for endpoint, domains in list(self._present.items()):
            for entry in domains:
                now = entry.gate.state.value if entry.gate else NONE
                for state in (*STATES, NONE):
                    states.add_metric([endpoint.namespace, endpoint.name, entry.name, state], float(state == now))
        yield states

    def _begin(self, place: tuple[str, str, str]) -> None:
        for state in COUNTED:
            self.transitions.labels(*place, state)
        for state in STATES:
            self.seconds.labels(*place, state)
