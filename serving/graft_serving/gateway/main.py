"""
The gateway process, top to bottom: the one place where its parts are put together.

    routes   mounted file, API server -> data path (at once, whole) -> acknowledged to the operator
             what a new version's hard limits take out -> data path (at once, by itself) -> reported to the operator
    pods     EndpointSlices, then each pod's agent -> data path
    clients  -> data path -> a pod's door
                          -> queue -> the endpoint's collector, for what is measured

With API server and operator away it goes on with what it knows.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from uuid import uuid4

from prometheus_client import CollectorRegistry, ProcessCollector

from graft_api.dataplane import BASE_NAME
from graft_api.routes import Routes
from graft_runtime.environment import MissingSetting
from graft_runtime.health import Checks, HealthServer
from graft_runtime.process import Process, Service, run_process
from graft_serving.cluster import ApiAddress, ApiServer, api_address_from
from graft_serving.environment import Identity, identity_from
from graft_serving.file_limit import raise_file_limit
from graft_serving.gateway.data_path import DataPath, build_data_path
from graft_serving.gateway.discovery import Discovery, PodSource, SlicesSource, StaticSource
from graft_serving.gateway.pod_memory import PodMemory
from graft_serving.gateway.reporter import Reporter, Traffic
from graft_serving.gateway.settings import Settings, settings_from
from graft_serving.operator_client import OperatorClient, report_target
from graft_serving.rotated_file import token_file
from graft_serving.routes_source import RoutesSource

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 10.0
"""So long a gateway waits for routes and pods before it takes clients without them."""
OPEN_FILES = 65_536
"""A relayed request takes two. Container runtimes begin with 1,024, which 500 streams use up."""


@dataclass(frozen=True)
class GatewayConfig:
    """One gateway process."""

    identity: Identity
    settings: Settings
    api: ApiAddress | None
    """None: routes come from the mounted file alone."""
    static_pods: Path | None
    """In place of EndpointSlices."""


def config_from(environ: Mapping[str, str]) -> GatewayConfig:
    """Read the environment. Raises `MissingSetting`."""
    static, api = environ.get("GRAFT_STATIC_PODS"), api_address_from(environ)
    if not static and api is None:
        raise MissingSetting("without a cluster GRAFT_STATIC_PODS must name a file with the server pods")
    return GatewayConfig(identity_from(environ), settings_from(environ), api, Path(static) if static else None)


def run(environ: Mapping[str, str]) -> int:
    """Run until SIGTERM. Returns the process's exit code. Raises `MissingSetting`."""
    config = config_from(environ)
    raise_file_limit(OPEN_FILES)
    return run_process(lambda: serve(config))


async def serve(config: GatewayConfig) -> int:
    """Build the parts and run them."""
    random = Random()  # noqa: S311 - spreads load, guards nothing
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(ApiServer(config.api, random)) if config.api else None
        return await compose(config, api, random).run()


def compose(config: GatewayConfig, api: ApiServer | None, random: Random) -> Process:
    """Wire one gateway."""
    identity, settings = config.identity, config.settings
    boot = uuid4().hex
    operator = operator_client(identity, random)
    changed = operator.changed if operator else _nobody
    data_path = build_data_path(settings, random, boot, news=changed)
    routes = RoutesSource(identity.namespace, identity.endpoint, identity.routes_directory, api)
    discovery = Discovery(data_path.pods, token_file(settings.door_token_file), random)
    source = pod_source(config, api)
    reporter = Reporter(boot, Traffic(data_path.in_flight, data_path.pods.reach, data_path.wires.trips), changed)
    health = health_server(settings, routes, discovery, data_path, reporter)

    def apply(newer: Routes) -> None:
        data_path.apply(newer)
        reporter.applied(newer)

    async def clients() -> None:
        await _until(lambda: routes.current is not None and bool(data_path.pods.reach()))
        await data_path.start()
        logger.info("the gateway listens on port %d", settings.port)
        await asyncio.Event().wait()

    async def drain() -> None:
        reporter.drain()
        await data_path.drain()

    services = [
        Service("routes", lambda: routes.run(apply)),
        Service("pods", lambda: discovery.run(source)),
        Service("keys", data_path.keys.run),
        Service("clients", clients, drain),
        Service("access log", data_path.access.run),
        Service("tee", data_path.tee.sender.run),
        Service("trip wires", data_path.wires.run),
        Service("reporter", reporter.run),
        Service("health", health.run),
    ]
    if operator:
        services.append(Service("reports", lambda: operator.run(reporter.picture)))
    return Process(services)


def pod_source(config: GatewayConfig, api: ApiServer | None) -> PodSource:
    """Return where the pods' names and addresses come from."""
    if config.static_pods:
        return StaticSource(config.static_pods)
    assert api, "config_from has seen to it"  # noqa: S101
    return SlicesSource(api, config.identity.namespace, config.identity.endpoint, PodMemory(config.settings.pods_file))


def operator_client(identity: Identity, random: Random) -> OperatorClient | None:
    """Return the client of the operator, if there is one to report to."""
    if not identity.reports_url:
        return None
    target = report_target(identity.reports_url, identity.namespace, identity.endpoint, "gateway", identity.reports_directory)
    return OperatorClient(target, random)


def health_server(settings: Settings, routes: RoutesSource, discovery: Discovery, data_path: DataPath, reporter: Reporter) -> HealthServer:
    """Return /readyz with what this replica needs to serve a request, and /metrics."""

    def pods_problem() -> str | None:
        if not discovery.informed:
            return "not known yet: the API server has not answered since this replica started"
        return None if data_path.pods.reach().get(BASE_NAME) else "none of the known pods serves"

    ready = {
        "routes": lambda: None if routes.current else "not known yet",
        "pods": pods_problem,
        "clients": lambda: None if data_path.server.port else "not listened for yet",
        "process": lambda: "stopping" if reporter.draining else None,
    }
    registry = CollectorRegistry()
    registry.register(data_path.metrics)
    registry.register(data_path.tee.metrics)
    ProcessCollector(registry=registry)
    return HealthServer(registry, Checks(ready=ready), settings.host, settings.metrics_port)


async def _until(able: Callable[[], bool]) -> None:
    """
    Wait until the gateway can serve, but not for ever.

    Who is refused a connection goes to another replica; who is answered 503 is not. With nothing to serve a 503 says why.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LISTEN_SECONDS):
            while not able():  # noqa: ASYNC110 - two sources, at the start only
                await asyncio.sleep(0.01)


def _nobody() -> None:
    """Without an operator nobody waits for news."""
