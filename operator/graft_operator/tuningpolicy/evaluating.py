"""
Reading the criteria of a policy, every `interval`, one question after another.

What was read is kept in memory alone: a new leader reads at once. Between two readings decisions are made from the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from graft_api.collect import ObservedReading
from graft_api.criteria import MIN_COVERAGE, WINDOW, Criterion, PrometheusServer, PromqlCriterion
from graft_api.schema import seconds_of
from graft_api.tuningpolicy import TuningPolicySpec
from graft_operator.engine.clock import Clock
from graft_operator.engine.kube import Kube
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import CONFIG_MAPS
from graft_operator.tuningpolicy.prometheus import Prometheus, Server, Unreadable
from graft_operator.tuningpolicy.reading import SLACK, Evaluation, Measured, of_collector

PATIENCE_SECONDS = 60.0
"""Of all questions of one policy. One pass may take five minutes."""
AGAIN_SECONDS = 60.0
"""After a reading in which something could not be read, at most: a collector that is replaced is back by then."""
LOOKS = 100
"""Into the window, for its coverage."""

Asked = Mapping[str, Sequence[Criterion]]
"""Domain -> its criteria."""


@dataclass(frozen=True)
class _Kept:
    asked: Asked
    until: float
    """On the monotonic clock."""
    evaluation: Evaluation


@dataclass
class Evaluations:
    """The last reading of each policy."""

    kube: Kube
    clock: Clock
    prometheus: Prometheus
    default: Server | None
    """The chart's `prometheus.url`."""
    kept: dict[Key, _Kept] = field(default_factory=dict)

    async def of(self, key: Key, spec: TuningPolicySpec, observed: ObservedReading | None) -> Evaluation:
        """Return the last reading if it is younger than the interval and of the same criteria, else a new one."""
        asked = criteria_of(spec)
        known = self.kept.get(key)
        if known is not None and known.asked == asked and self.clock.monotonic() < known.until:
            return known.evaluation
        evaluation = Evaluation(self.clock.now(), await self._read(key, asked, observed))
        self.kept[key] = _Kept(asked, self.clock.monotonic() + _worth(spec, evaluation), evaluation)
        return evaluation

    def due_in(self, key: Key) -> float:
        """Return in how many seconds the next reading is due."""
        known = self.kept.get(key)
        return 0.0 if known is None else max(0.0, known.until - self.clock.monotonic())

    def forget(self, key: Key) -> None:
        """The policy is gone."""
        self.kept.pop(key, None)

    async def _read(self, key: Key, asked: Asked, observed: ObservedReading | None) -> dict[tuple[str, str], Measured]:
        began, away = self.clock.monotonic(), dict[str, str]()
        found: dict[tuple[str, str], Measured] = {}
        for domain, criterion in ((domain, criterion) for domain, criteria in asked.items() for criterion in criteria):
            if criterion.promql is None:
                found[domain, criterion.name] = of_collector(criterion, domain, observed, self.clock.now().timestamp())
            elif self.clock.monotonic() - began > PATIENCE_SECONDS:
                told = f"the criteria before this one took more than {PATIENCE_SECONDS:.0f} s"
                found[domain, criterion.name] = Measured(trouble=told, fault=True)
            else:
                found[domain, criterion.name] = await self._ask(key, criterion, criterion.promql, away)
        return found

    async def _ask(self, key: Key, criterion: Criterion, promql: PromqlCriterion, away: dict[str, str]) -> Measured:
        """`away`: servers that did not answer just now, and why. They are not asked again in the same round."""
        url = promql.server.address(key.namespace) if promql.server else ""
        if url in away:
            return Measured(trouble=away[url], fault=True)
        try:
            return await self._counted(await self._server(key, promql.server), criterion, promql)
        except Unreadable as error:
            if error.away:
                away[url] = str(error)
            return Measured(trouble=str(error), fault=True)

    async def _counted(self, server: Server, criterion: Criterion, promql: PromqlCriterion) -> Measured:
        """Ask no more than is needed to know that it is too little."""
        window = criterion.window
        covered = await coverage(self.prometheus, server, promql.present, window)
        if covered < MIN_COVERAGE:
            told = "" if covered else f"present was there at no moment of the {window}: is it spelled right, and collected?"
            return Measured(coverage=covered, trouble=told, fault=not covered)
        total = None if promql.total is None else await self._number(server, promql.total, window) or 0.0
        known = Measured(total=None if total is None else max(0.0, total), coverage=covered)
        if promql.query is not None:
            value = await self._number(server, promql.query, window)
            return replace(known, value=value, trouble="query gives no series" if value is None else "", fault=value is None)
        if not known.total:
            return known
        bad = await self._number(server, promql.bad, window)
        if bad is None:
            return replace(known, trouble="bad gives no series: add `or vector(0)` if that means none", fault=True)
        if not 0 <= bad <= SLACK * known.total:
            return replace(known, trouble=f"bad is {bad:.6g} of {known.total:.6g}: it must count some of what total counts", fault=True)
        return replace(known, events=min(bad, known.total))

    async def _number(self, server: Server, query: str | None, window: str) -> float | None:
        return None if query is None else await self.prometheus.number(server, query.replace(WINDOW, window))

    async def _server(self, key: Key, wanted: PrometheusServer | None) -> Server:
        if wanted is None:
            if self.default is None:
                told = "no server: set the criterion's promql.server, or the chart's value prometheus.url"
                raise Unreadable(told, away=True)
            return self.default
        authority = wanted.ca_config_map
        if authority is None:
            return Server(wanted.address(key.namespace))
        found = await self.kube.get(CONFIG_MAPS, key.namespace, authority.name)
        pem = ((found or {}).get("data") or {}).get(authority.key)
        if not pem:
            raise Unreadable(f"there is no ConfigMap {authority.name} with the key {authority.key}, which server.caConfigMap names")
        return Server(wanted.address(key.namespace), authority=pem)


def _worth(spec: TuningPolicySpec, evaluation: Evaluation) -> float:
    """Return for how many seconds a reading is good."""
    interval = float(seconds_of(spec.interval))
    return min(interval, AGAIN_SECONDS) if any(one.fault for one in evaluation.measured.values()) else interval


def criteria_of(spec: TuningPolicySpec) -> Asked:
    """Return what is to be read."""
    return {domain.name: domain.judged_by() for domain in spec.domains}


async def coverage(prometheus: Prometheus, server: Server, present: str, window: str) -> float:
    """Return the share of looks into the window at which `present` was there. Raises `Unreadable`."""
    seconds = seconds_of(window)
    step = max(1, seconds // LOOKS)
    found = await prometheus.number(server, f"count_over_time((count({present.replace(WINDOW, window)}))[{window}:{step}s])")
    return min(1.0, (found or 0.0) / (seconds // step))
