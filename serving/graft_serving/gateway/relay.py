"""
One request, from its alias to the pod that answers it.

    read the table once -> domain's limits -> conversation -> arm, measured or not -> pod -> ask it -> perhaps ask another one

Between reading the table and counting the request as in flight nothing waits: when a gateway has reported a revision, no later
request is on an older one, and those on older ones are all in `in_flight`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from aiohttp import web

from graft_api.dataplane import BASE_NAME
from graft_api.tee import OPT_OUT_HEADER
from graft_serving.gateway.conversation import named_key, opening_key
from graft_serving.gateway.errors import Cause, Refusal
from graft_serving.gateway.limits import Meters, leave
from graft_serving.gateway.metrics import GatewayMetrics
from graft_serving.gateway.passing import NotStarted, Passage, Passing
from graft_serving.gateway.pods import Pod, Pods
from graft_serving.gateway.retries import RetryBudget
from graft_serving.gateway.table import Alias, RoutingTable
from graft_serving.gateway.tee import ExchangeTee


class Relay:
    """Routes by `table`, which `apply` replaces."""

    def __init__(self, pods: Pods, passing: Passing, metrics: GatewayMetrics, tee: ExchangeTee, clock: Callable[[], float]) -> None:
        self.table: RoutingTable | None = None
        self._pods = pods
        self._passing = passing
        self._metrics = metrics
        self._tee = tee
        self._clock = clock
        self._domains = Meters("this model", clock)
        self._budget = RetryBudget()
        self._in_flight: Counter[str] = Counter()

    def apply(self, table: RoutingTable) -> None:
        """Route every later request by `table`, and end what is under way on versions that it aborts."""
        self.table = table
        self._metrics.keep(table.versions, {name: alias.versions for name, alias in table.aliases.items()})
        self._passing.abort(table.aborted)

    def replace(self, alias: Alias) -> None:
        """Route every later request for that name by this alias, until other routes are applied."""
        if self.table is not None:
            self.table = self.table.replacing(alias)

    def in_flight(self) -> dict[str, int]:
        """Return how many requests are under way by version, `base` included. Absent: none."""
        return dict(self._in_flight)

    async def serve(self, passage: Passage) -> web.StreamResponse:
        """Answer one request. Raises `Refusal`."""
        if (table := self.table) is None:
            raise no_routes()
        alias = table.aliases.get(passage.asked.model)
        if alias is None:
            raise _unknown(passage.asked.model)
        passage.exchange.domain = alias.name
        meter = self._domains.admit(alias.name, alias.limits)
        try:
            self._route(passage, alias, table)
            return await self._ask(passage, alias)
        finally:
            leave(meter)

    def _route(self, passage: Passage, alias: Alias, table: RoutingTable) -> None:
        exchange, asked = passage.exchange, passage.asked
        name = passage.request.headers.get(table.settings.conversation_header) or asked.conversation()
        exchange.conversation = named_key(exchange.owner, name) if name else opening_key(exchange.owner, asked.opening())
        exchange.revision = table.revision
        exchange.wanted = alias.version_for(exchange.conversation)
        if alias.measured is not None and alias.measured.holds(exchange.conversation):
            self._measure(passage, table, named=bool(name))
        asked.raw = b""

    def _measure(self, passage: Passage, table: RoutingTable, *, named: bool) -> None:
        if OPT_OUT_HEADER in passage.request.headers:
            self._tee.opted_out += 1
        else:
            self._tee.choose(passage.exchange, passage.asked.raw, passage.asked.body, table.epoch, named=named)

    async def _ask(self, passage: Passage, alias: Alias) -> web.StreamResponse:
        self._budget.earn()
        pod = self._choose(passage, alias, None)
        if pod is None:
            raise _nobody()
        try:
            return await self._ask_one(passage, pod)
        except NotStarted as refused:
            return await self._ask_again(passage, alias, pod, refused.cause)

    async def _ask_again(self, passage: Passage, alias: Alias, first: Pod, cause: Cause) -> web.StreamResponse:
        """Ask another pod, once; a pod that has lost the version may still serve the base model."""
        lost = cause is Cause.VERSION_MISSING and passage.exchange.version != BASE_NAME
        again = self._choose(passage, alias, None if lost else first)
        if again is None or not self._budget.spend():
            raise _not_answered(cause)
        passage.exchange.retried = cause
        try:
            return await self._ask_one(passage, again)
        except NotStarted as refused:
            raise _not_answered(refused.cause) from None

    def _choose(self, passage: Passage, alias: Alias, avoid: Pod | None) -> Pod | None:
        """
        Return the pod, and note what it serves: the version; else the base model where the domain falls back to it.

        A pod that keeps failing is better than nobody, but not better than the base model elsewhere.
        """
        exchange = passage.exchange
        versions = [exchange.wanted]
        if alias.fallback == "Base" and exchange.wanted != BASE_NAME:
            versions.append(BASE_NAME)
        for open_too in (False, True):
            for version in versions:
                pod = self._pods.pick(version, exchange.conversation, avoid, open_too=open_too)
                if pod is not None:
                    exchange.version, exchange.pod = version, pod.name
                    return pod
        return None

    async def _ask_one(self, passage: Passage, pod: Pod) -> web.StreamResponse:
        exchange = passage.exchange
        version = exchange.version
        series = self._metrics.series(exchange.domain, version)
        pod.started(version, self._clock())
        self._in_flight[version] += 1
        series.in_flight += 1
        try:
            return await self._passing.attempt(passage, pod)
        finally:
            series.in_flight -= 1
            self._in_flight[version] -= 1
            if not self._in_flight[version]:
                del self._in_flight[version]
            pod.finished(version)


def no_routes() -> Refusal:
    """The gateway does not know anything yet."""
    return Refusal(503, Cause.NO_ROUTES, "this gateway has not got its routes yet", retry_after=1)


def _unknown(model: str) -> Refusal:
    message = f"The model `{model[:100]}` does not exist. GET /v1/models lists those that do."
    return Refusal(404, Cause.UNKNOWN_MODEL, message, param="model", code="model_not_found")


def _nobody() -> Refusal:
    return Refusal(503, Cause.NO_POD, "no server has this model at the moment", code="model_unavailable", retry_after=2)


def _not_answered(cause: Cause) -> Refusal:
    return Refusal(503, cause, "no server could take this request", code="model_unavailable", retry_after=1)
