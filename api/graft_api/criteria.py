"""
When production is bad enough to train again: the launch criteria of a TuningPolicy.

A criterion is a share of answers (from the endpoint's collector, or of two PromQL counts), or a plain PromQL number. Of a share it is the
nearer end of its 95 % interval that is held against the threshold, so that a few bad answers launch nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.collect import OBSERVED_HOURS
from graft_api.schema import Decimal, DnsLabel, Duration, Model, ObjectName, Rule, seconds_of

WINDOW = "$window"
"""In a query: stands for the criterion's window."""
MIN_COVERAGE = 0.9
"""Of the window. What is less says nothing about it."""
OBSERVED_WINDOWS = tuple(f"{hours}h" for hours in OBSERVED_HOURS)

Query = Annotated[str, Field(min_length=1, max_length=4096)]


class ObservedCriterion(Model):
    """A score of the endpoint's `collector.observe`, which is right or wrong of each answer: a scorer, or a measure that is yes or no."""

    score: DnsLabel
    metric: Literal["error_rate", "accuracy"] = "error_rate"
    """Share of wrong, or of right, answers."""


class ServiceAddress(Model):
    """A Service of this cluster."""

    name: DnsLabel
    namespace: DnsLabel | None = None
    """Default: the policy's own."""
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool = False


class AuthorityReference(Model):
    """A ConfigMap in the policy's namespace with the certificates (PEM) that a server's one is checked with."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253)] = "ca.crt"


class PrometheusServer(Model):
    """A Prometheus that is asked without credentials. One that wants a token is the chart's `prometheus.url`."""

    url: Annotated[str, Field(max_length=1024, pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$")] | None = None
    """With the path before `/api/v1/query`, if there is one. No user or password."""
    service: ServiceAddress | None = None
    ca_config_map: AuthorityReference | None = None
    """For https. Default: the authorities that everybody trusts."""

    rules: ClassVar = (
        Rule(
            cel="has(self.url) != has(self.service)",
            message="set exactly one of url and service",
            check=lambda self: (self.url is None) != (self.service is None),
        ),
        Rule(
            cel="!has(self.caConfigMap) || (has(self.url) ? self.url.startsWith('https://') :"
            " (has(self.service) && has(self.service.tls) && self.service.tls))",
            message="goes with https: an https:// url, or service.tls: true",
            check=lambda self: (
                self.ca_config_map is None or (self.url or "").startswith("https://") or bool(self.service and self.service.tls)
            ),
            field=".caConfigMap",
        ),
    )

    def address(self, namespace: str) -> str:
        """Return the URL for a policy of this namespace."""
        if self.service is None:
            return (self.url or "").rstrip("/")
        scheme = "https" if self.service.tls else "http"
        return f"{scheme}://{self.service.name}.{self.service.namespace or namespace}.svc:{self.service.port}"


def _names_window(*queries: str | None) -> bool:
    return all(query is None or WINDOW in query for query in queries)


class PromqlCriterion(Model):
    """Of Prometheus: a share of two counts, `bad` of `total`, or a plain number."""

    bad: Query | None = None
    """How many in the window, such as sum(increase(errors_total[$window])). One series."""
    total: Query | None = None
    """Of how many. With `query`: how many samples it rests on, if that can be said."""
    query: Query | None = None
    """A number for which there are no counts. It has no interval: say so with `bound: None`."""
    bound: Literal["Wilson", "None"] = "Wilson"
    """Wilson: the nearer end of the 95 % interval of bad / total is held against the threshold. None: the number of `query` itself is."""
    present: Query
    """
    Something that is there whenever the window's data are collected, such as up{job="gateway"}. It must have been there for 90 % of the
    window: of the queries above nobody can tell a gap from a good week.
    """
    server: PrometheusServer | None = None
    """Default: the chart's `prometheus.url`."""

    rules: ClassVar = (
        Rule(
            cel="has(self.query) ? !has(self.bad) : (has(self.bad) && has(self.total))",
            message="set bad and total (counts), or query (a plain number)",
            check=lambda self: (self.bad is None) if self.query is not None else (self.bad is not None and self.total is not None),
        ),
        Rule(
            cel="has(self.query) == (has(self.bound) && self.bound == 'None')",
            message="a plain number has no interval: bound: None goes with query, and with nothing else",
            check=lambda self: (self.query is not None) == (self.bound == "None"),
            field=".bound",
        ),
        Rule(
            cel="(!has(self.bad) || self.bad.contains('$window')) && (!has(self.total) || self.total.contains('$window'))"
            " && (!has(self.query) || self.query.contains('$window'))",
            message="bad, total and query name their window as $window, such as increase(errors_total[$window])",
            check=lambda self: _names_window(self.bad, self.total, self.query),
        ),
    )


def _threshold_fits(criterion: "Criterion") -> bool:
    if criterion.promql is not None and criterion.promql.query is not None:
        return True
    return float(criterion.above or criterion.below or 0) <= 1


class Criterion(Model):
    """One reason to train again."""

    name: DnsLabel
    observed: ObservedCriterion | None = None
    promql: PromqlCriterion | None = None
    window: Annotated[str, Duration(ge="1m", le="2160h")]
    """How far back it looks."""
    above: Annotated[str, Decimal(ge=0)] | None = None
    """Met when even the lower end of the interval is above this."""
    below: Annotated[str, Decimal(ge=0)] | None = None
    """Met when even the upper end of the interval is below this."""
    min_samples: Annotated[int, Field(ge=1, le=1_000_000_000)] = 500
    """Answers in the window. With fewer the criterion is Unknown, and launches nothing."""

    rules: ClassVar = (
        Rule(
            cel="has(self.observed) != has(self.promql)",
            message="set exactly one of observed and promql",
            check=lambda self: (self.observed is None) != (self.promql is None),
        ),
        Rule(
            cel="has(self.above) != has(self.below)",
            message="set exactly one of above and below",
            check=lambda self: (self.above is None) != (self.below is None),
        ),
        Rule(
            cel=f"!has(self.observed) || duration(self.window).getSeconds() in {[3600 * hours for hours in OBSERVED_HOURS]}",
            message=f"of what the collector observes the window is one of {', '.join(OBSERVED_WINDOWS)}",
            check=lambda self: self.observed is None or seconds_of(self.window) in {3600 * hours for hours in OBSERVED_HOURS},
            field=".window",
        ),
        Rule(
            cel="(has(self.promql) && has(self.promql.query)) || ((!has(self.above) || double(self.above) <= 1.0) &&"
            " (!has(self.below) || double(self.below) <= 1.0))",
            message="a share is held against a threshold of at most 1: 3 % is 0.03",
            check=_threshold_fits,
        ),
    )

    def threshold(self) -> float:
        """Return what the number is held against."""
        return float(self.above if self.above is not None else self.below or 0)


def _observed(name: str, score: str, window: str, **bound: str) -> Criterion:
    metric: Literal["error_rate", "accuracy"] = "accuracy" if "below" in bound else "error_rate"
    return Criterion(name=name, observed=ObservedCriterion(score=score, metric=metric), window=window, **bound)  # type: ignore[arg-type]  # bounds are strings


DEFAULT_CRITERIA: Mapping[str, Sequence[Criterion]] = {
    "dsl": [_observed("compile-errors", "compile", "168h", above="0.03")],
    "governance": [_observed("tautologies", "tautologies", "720h", above="0.35")],
    "multimodal": [
        _observed("deepfake-fpr", "deepfake-fpr", "720h", above="0.03"),
        _observed("watermark", "watermark", "720h", below="0.95"),
    ],
}
"""Of the domains that bring defaults of their own: scores of these names, in `collector.observe` of the endpoint."""
