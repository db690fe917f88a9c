"""What Prometheus sees of the tee. What a gateway that was killed had chosen and not sent can be read here as of the last scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from graft_serving.gateway.tee import ExchangeTee
from graft_serving.gateway.tee_queue import TeeQueue


class TeeMetrics(Collector):
    """Register it with a `CollectorRegistry`."""

    def __init__(self, queue: TeeQueue, exchanges: ExchangeTee) -> None:
        self._queue = queue
        self._exchanges = exchanges

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        queue = self._queue
        yield _counter("graft_gateway_tee_chosen", "Requests that the collector should be told of.", queue.numbered)
        yield _counter(
            "graft_gateway_tee_opted_out", "Requests that were not chosen only because they opted out.", self._exchanges.opted_out
        )
        yield _counter("graft_gateway_tee_sent", "Exchanges that the collector has acknowledged.", queue.sent)
        dropped = CounterMetricFamily("graft_gateway_tee_dropped", "Chosen requests that it is not told of, by cause.", labels=["cause"])
        for cause, count in queue.dropped.items():
            dropped.add_metric([cause], count)
        yield dropped
        held = GaugeMetricFamily("graft_gateway_tee_queue_bytes", "What is kept of exchanges: under way, waiting, being sent.")
        held.add_metric([], queue.held)
        yield held


def _counter(name: str, help_text: str, value: int) -> Metric:
    family = CounterMetricFamily(name, help_text)
    family.add_metric([], value)
    return family
