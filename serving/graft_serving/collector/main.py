"""
The collector's composition root: what there is, and who runs.

    gateways -> intake -> lanes: compare (-> shadow), observe -> journals -> store;  readings -> operator
                                 watch, in memory alone;  counts -> operator
    the report of a test that has ended, in a process of its own

Nothing is taken in before it is known what was counted already. Of a collector that is there for a report alone the watches are the only
lane: what gateways bring of other domains until they hear that nobody measures is taken and forgotten, for it is nobody's loss, and
refused they would hold it for long. Watches begin and end while it runs, as its settings say (`following`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from random import Random, SystemRandom

from prometheus_client import CollectorRegistry, ProcessCollector

from graft_api.dataplane import collector_audience, gateway_account
from graft_runtime.environment import MissingSetting
from graft_runtime.health import Checks, HealthServer
from graft_runtime.process import Process, Service, run_process
from graft_serving.agent.tokens import Expected, TokenVerifier
from graft_serving.cluster import ApiServer, api_address_from
from graft_serving.collector.following import SettingsSource
from graft_serving.collector.ingest import Intake, Lane, application, serve
from graft_serving.collector.journal import Clock
from graft_serving.collector.judging import Judging
from graft_serving.collector.lanes import LaneService, Surroundings, compare_lane, observe_lane
from graft_serving.collector.metrics import CompareMetrics, IntakeMetrics, ObservedMetrics, WatchMetrics
from graft_serving.collector.numbers import Numbers
from graft_serving.collector.reporter import Reporter
from graft_serving.collector.reporting_process import Reporting
from graft_serving.collector.settings import Settings, settings_from
from graft_serving.collector.watching import Watching
from graft_serving.operator_client import OperatorClient, report_target

KEYS_FILE = "cluster-keys.json"
"""In the run directory: the API server's public keys, for a restart while it is away."""
LAST_WORD_SECONDS = 5.0
"""After SIGTERM, for the last report of watches."""
PATIENCE = timedelta(seconds=25)
"""After SIGTERM, for what is being asked and for the last commit: less than the kubelet's 30 seconds."""


def run(environ: Mapping[str, str]) -> int:
    """Collect until SIGTERM. Returns the exit code; raises `MissingSetting`."""
    return run_process(partial(_main, settings_from(environ), environ))


async def _main(settings: Settings, environ: Mapping[str, str]) -> int:
    address = api_address_from(environ)
    if address is None:
        raise MissingSetting("there is no API server: KUBERNETES_SERVICE_HOST is not set")
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(ApiServer(address, SystemRandom()))
        return await compose(settings, environ, api).run()


def compose(settings: Settings, environ: Mapping[str, str], api: ApiServer) -> Process:
    """Wire one collector, in a running event loop. Raises `MissingSetting`."""
    random, registry = SystemRandom(), CollectorRegistry()
    clock = Clock(time.time, time.monotonic)
    around = Surroundings(secrets.token_hex(8), settings.credentials, environ, clock, random, settings.run_directory)
    client = _operator(settings, random)
    wake = _wake(client)
    reporter = Reporter(around.boot, settings.measuring, time.time, wake)
    judging = Judging(settings.measuring.observe.domains if settings.measuring.observe else (), environ, clock)
    lanes = _lanes(settings, around, reporter, registry, judging)
    watching = Watching(settings.measuring.watches, judging, clock, wake)
    reporter.watches(watching.counts)
    intake = _intake(settings, lanes, watching)
    registry.register(IntakeMetrics(intake))
    registry.register(WatchMetrics(watching))
    ProcessCollector(registry=registry)
    services = [Service(lane.name, lane.run, partial(_drain, intake, lane)) for lane in lanes]
    services.append(Service("gateways", partial(_take, settings, api, intake)))
    services.append(Service("health", _health(settings, registry, lanes).run))
    services.append(Service("watch", partial(_watch, watching, judging), partial(_end_watch, intake, watching, reporter, client)))
    services.append(Service("settings", partial(_source(settings, api).run, watching.follow)))
    if settings.measuring.report:
        services.append(Service("report", Reporting(settings.measuring.report, settings.credentials, reporter.wrote).run))
    if client:
        services.append(Service("reports", lambda: client.run(reporter.picture)))
    return Process(services, PATIENCE)


def _lanes(
    settings: Settings, around: Surroundings, reporter: Reporter, registry: CollectorRegistry, judging: Judging
) -> list[LaneService]:
    lanes = []
    if settings.measuring.compare:
        service, comparing, equipment = compare_lane(settings.measuring.compare, around, reporter)
        registry.register(CompareMetrics(comparing, equipment, time.time))
        lanes.append(service)
    if settings.measuring.observe:
        service, observing = observe_lane(settings.measuring.observe, around, reporter, judging)
        registry.register(ObservedMetrics(observing))
        lanes.append(service)
    return lanes


def _intake(settings: Settings, lanes: list[LaneService], watching: Watching) -> Intake:
    taking: list[tuple[Lane, Callable[[], Numbers]]] = [(lane.lane, _numbers(lane)) for lane in lanes]
    taking.append((watching, lambda: watching.numbers))
    return Intake(taking, settings.memory_bytes, time.time, lambda: _all_resumed(lanes), watching.contact)


async def _take(settings: Settings, api: ApiServer, intake: Intake) -> None:
    """Listen to gateways; the tokens of all others are refused."""
    me = settings.identity
    expected = Expected(me.namespace, gateway_account(me.endpoint), collector_audience(me.endpoint))
    tokens = TokenVerifier(api.get, expected, settings.run_directory / KEYS_FILE, time.time)
    await serve(application(intake, tokens.answer), settings.host, settings.port)


def _source(settings: Settings, api: ApiServer) -> SettingsSource:
    me = settings.identity
    return SettingsSource(me.namespace, me.endpoint, settings.file, api)


async def _drain(intake: Intake, lane: LaneService) -> None:
    intake.stopping = True
    await lane.drain()


async def _watch(watching: Watching, judging: Judging) -> None:
    try:
        await watching.run()
    finally:
        await judging.aclose()


async def _end_watch(intake: Intake, watching: Watching, reporter: Reporter, client: OperatorClient | None) -> None:
    """Count what is open, and wait until the operator knows: nobody else ever will."""
    intake.stopping = True
    await watching.drain()
    if client is None or not watching.watches:
        return
    before = reporter.pictured
    client.changed()
    deadline = time.monotonic() + LAST_WORD_SECONDS
    while client.delivered <= before and time.monotonic() < deadline:  # noqa: ASYNC110 - at the end of a process
        await asyncio.sleep(0.02)


def _health(settings: Settings, registry: CollectorRegistry, lanes: list[LaneService]) -> HealthServer:
    ready = {lane.name: partial(_unready, lane) for lane in lanes}
    return HealthServer(registry, Checks(ready=ready), settings.host, settings.health_port)


def _unready(lane: LaneService) -> str | None:
    return None if lane.resumed else "it is not known yet what was counted already"


def _all_resumed(lanes: list[LaneService]) -> bool:
    return all(lane.resumed for lane in lanes)


def _numbers(lane: LaneService) -> Callable[[], Numbers]:
    return lambda: lane.journal.numbers


def _wake(client: OperatorClient | None) -> Callable[[], None]:
    """Return what tells the client, from any thread, that there is something new."""
    if client is None:
        return lambda: None
    loop = asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(client.changed)

    return wake


def _operator(settings: Settings, random: Random) -> OperatorClient | None:
    me = settings.identity
    if not me.reports_url:
        return None
    return OperatorClient(report_target(me.reports_url, me.namespace, me.endpoint, "collector", me.reports_directory), random)
