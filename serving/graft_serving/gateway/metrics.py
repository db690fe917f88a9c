"""
What Prometheus sees: per domain and version what clients got, per pod what the gateway thinks of it, and what was refused.

Counts are plain numbers that a collector turns into samples when somebody asks: a request pays for additions only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from graft_serving.gateway.errors import Cause
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.pods import Pod

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SERIES = ["domain", "version"]
RETRIED = (Cause.UNREACHABLE, Cause.DOOR_REFUSED, Cause.NOT_STARTED, Cause.VERSION_MISSING)
TROUBLES = (
    *RETRIED,
    Cause.BROKEN,
    Cause.FIRST_BYTE_TIMEOUT,
    Cause.IDLE_TIMEOUT,
    Cause.ABORTED,
    Cause.CLIENT_GONE,
    Cause.UPSTREAM_ERROR,
    Cause.INTERNAL,
)
"""Of requests that a pod was asked for. Counted from 0 on: one that appears as 1 has never grown, for Prometheus."""


class Histogram:
    """Counts by upper bound."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(SECONDS, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts, as Prometheus wants them."""
        cumulative, buckets = 0, []
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True):
            cumulative += count
            buckets.append((bound, float(cumulative)))
        return buckets


class Series:
    """All that is counted of one domain on one version."""

    __slots__ = (
        "answers",
        "bytes_out",
        "first_byte",
        "in_flight",
        "retries",
        "seconds",
        "tokens_in",
        "tokens_out",
        "troubles",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.answers: Counter[tuple[str, int]] = Counter()
        self.troubles: Counter[str] = Counter(dict.fromkeys(TROUBLES, 0))
        self.retries: Counter[str] = Counter(dict.fromkeys(RETRIED, 0))
        self.tokens_in = 0
        self.tokens_out = 0
        self.bytes_out = 0
        self.seconds = Histogram()
        self.first_byte = Histogram()

    def add(self, exchange: Exchange) -> None:
        """Count one request that has ended."""
        self.answers[exchange.api, exchange.status] += 1
        self.seconds.observe(exchange.ended - exchange.started)
        if exchange.first_byte:
            self.first_byte.observe(exchange.first_byte - exchange.started)
        self.tokens_in += exchange.tokens_in
        self.tokens_out += exchange.tokens_out
        self.bytes_out += exchange.bytes_out
        if exchange.cause is not None:
            self.troubles[exchange.cause] += 1
        if exchange.retried is not None:
            self.retries[exchange.retried] += 1


class GatewayMetrics(Collector):
    """Register it with a `CollectorRegistry`."""

    def __init__(self, pods: Callable[[], Sequence[Pod]], revision: Callable[[], tuple[int, int] | None]) -> None:
        self._pods = pods
        self._revision = revision
        self._series: dict[tuple[str, str], Series] = {}
        self._fallbacks: Counter[str] = Counter()
        """By domain, and of none forgotten: a sum over series that are forgotten would fall."""
        self._refused: Counter[tuple[str, str, int, str]] = Counter()
        self._trips: Counter[str] = Counter()
        self._log_lines_dropped = 0

    def series(self, domain: str, version: str) -> Series:
        """Return the counts of one domain on one version."""
        found = self._series.get((domain, version))
        if found is None:
            found = self._series[domain, version] = Series()
        return found

    def completed(self, exchange: Exchange) -> None:
        """Count one request that has ended."""
        if exchange.version:
            self.series(exchange.domain, exchange.version).add(exchange)
            self._fallbacks[exchange.domain] += exchange.version != exchange.wanted
        elif exchange.cause is not None:
            self._refused[exchange.domain, exchange.api, exchange.status, exchange.cause] += 1

    def tripped(self, domain: str) -> None:
        """Count a version that was taken out by its hard limit."""
        self._trips[domain] += 1

    def dropped_log_lines(self, count: int) -> None:
        """Count lines that the access log could not write."""
        self._log_lines_dropped += count

    def keep(self, versions: frozenset[str], domains: Mapping[str, Sequence[str]]) -> None:
        """
        Begin with what may be asked for, and forget what is of the past: otherwise every adapter that ever served stays for ever.

        `domains`: versions that conversations are on, by domain.
        """
        known = frozenset(domains)
        for domain, routed in domains.items():
            self._fallbacks[domain] += 0
            self._trips[domain] += 0
            for version in routed:
                self.series(domain, version)
        self._series = {
            names: series for names, series in self._series.items() if series.in_flight or (names[0] in known and names[1] in versions)
        }

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        yield from self._counted()
        yield from self._measured()
        yield from self._fleet()

    def _counted(self) -> Iterable[Metric]:
        requests = CounterMetricFamily("graft_gateway_requests", "Requests that a pod was asked for.", labels=[*_SERIES, "api", "code"])
        troubles = CounterMetricFamily(
            "graft_gateway_troubles", "Requests without a whole, good answer, by cause.", labels=[*_SERIES, "cause"]
        )
        retries = CounterMetricFamily("graft_gateway_retries", "Requests that a second pod was asked for.", labels=[*_SERIES, "cause"])
        fallbacks = CounterMetricFamily(
            "graft_gateway_fallbacks", "Requests that the base model served in an adapter's place.", labels=["domain"]
        )
        trips = CounterMetricFamily("graft_gateway_trips", "Versions that were taken out by their hard limit.", labels=["domain"])
        refused = CounterMetricFamily(
            "graft_gateway_refused", "Requests that no pod was asked for.", labels=["domain", "api", "code", "cause"]
        )
        for names, series in self._series.items():
            for (api, status), count in series.answers.items():
                requests.add_metric([*names, api, str(status)], count)
            for cause, count in series.troubles.items():
                troubles.add_metric([*names, cause], count)
            for cause, count in series.retries.items():
                retries.add_metric([*names, cause], count)
        for domain, count in self._fallbacks.items():
            fallbacks.add_metric([domain], count)
        for domain, count in self._trips.items():
            trips.add_metric([domain], count)
        for (domain, api, status, cause), count in self._refused.items():
            refused.add_metric([domain, api, str(status), cause], count)
        return requests, troubles, retries, fallbacks, trips, refused

    def _measured(self) -> Iterable[Metric]:
        seconds = HistogramMetricFamily("graft_gateway_request_seconds", "From a request to the end of its answer.", labels=_SERIES)
        first = HistogramMetricFamily(
            "graft_gateway_first_byte_seconds", "To the answer's first byte; of a stream, its first token.", labels=_SERIES
        )
        tokens = CounterMetricFamily("graft_gateway_tokens", "Tokens as vLLM counted them.", labels=[*_SERIES, "direction"])
        sent = CounterMetricFamily("graft_gateway_answer_bytes", "Bytes of answers.", labels=_SERIES)
        in_flight = GaugeMetricFamily("graft_gateway_in_flight", "Requests under way.", labels=_SERIES)
        for names, series in self._series.items():
            seconds.add_metric(names, series.seconds.buckets(), series.seconds.total)
            first.add_metric(names, series.first_byte.buckets(), series.first_byte.total)
            tokens.add_metric([*names, "in"], series.tokens_in)
            tokens.add_metric([*names, "out"], series.tokens_out)
            sent.add_metric(names, series.bytes_out)
            in_flight.add_metric(names, series.in_flight)
        return seconds, first, tokens, sent, in_flight

    def _fleet(self) -> Iterable[Metric]:
        under_way = GaugeMetricFamily("graft_gateway_pod_outstanding", "Requests of this gateway under way on a pod.", labels=["pod"])
        avoided = GaugeMetricFamily("graft_gateway_pod_circuit_open", "1 while a pod is avoided because it kept failing.", labels=["pod"])
        for pod in self._pods():
            under_way.add_metric([pod.name], pod.under_way)
            avoided.add_metric([pod.name], float(pod.breaker.is_open))
        dropped = CounterMetricFamily("graft_gateway_log_lines_dropped", "Access log lines that standard output was too slow for.")
        dropped.add_metric([], self._log_lines_dropped)
        revision = GaugeMetricFamily("graft_gateway_routes_revision", "Of the routes that requests are routed by.", labels=["epoch"])
        if (known := self._revision()) is not None:
            revision.add_metric([str(known[0])], known[1])
        return under_way, avoided, dropped, revision
