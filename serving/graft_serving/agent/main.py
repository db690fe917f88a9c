"""The agent's composition root: what there is, and who runs."""

import secrets
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from random import SystemRandom

import aiohttp

from graft_runtime.environment import MissingSetting
from graft_runtime.health import Checks, HealthServer
from graft_runtime.process import Process, Service, run_process
from graft_serving.agent.cache import Cache
from graft_serving.agent.drain import Drain
from graft_serving.agent.fetcher import Fetcher
from graft_serving.agent.loader import Loader, Surroundings
from graft_serving.agent.server import door_application, serve_socket
from graft_serving.agent.settings import Settings, settings_from
from graft_serving.agent.state import Board
from graft_serving.agent.store import open_store
from graft_serving.agent.tokens import TokenVerifier, callers_of
from graft_serving.agent.vllm import Vllm
from graft_serving.cluster import ApiServer, api_address_from
from graft_serving.operator_client import OperatorClient, report_target
from graft_serving.routes_source import RoutesSource

KEYS_FILE = "cluster-keys.json"
"""In the run directory: the API server's public keys, for a restart while it is away."""


def run(environ: Mapping[str, str]) -> int:
    """Look after the pod's vLLM until SIGTERM. Returns the exit code; raises `MissingSetting`."""
    return run_process(partial(_main, settings_from(environ), environ))


async def _main(settings: Settings, environ: Mapping[str, str]) -> int:
    me, random = settings.identity, SystemRandom()
    address = api_address_from(environ)
    if address is None:
        raise MissingSetting("there is no API server: KUBERNETES_SERVICE_HOST is not set")
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(ApiServer(address, random))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32)))
        vllm = Vllm(session, settings.vllm_url)
        client = OperatorClient(report_target(me.reports_url, me.namespace, me.endpoint, "agent", me.reports_directory), random)
        board = Board(secrets.token_hex(8), client.changed, random.getrandbits(40))
        cache = Cache(settings.adapters, settings.cache_bytes)
        fetcher = Fetcher(cache, partial(open_store, credentials=settings.credentials), time.monotonic)
        routes = RoutesSource(me.namespace, me.endpoint, me.routes_directory, api)
        around = Surroundings(vllm, cache, fetcher, board, settings.server, lambda: routes.watched, time.monotonic, random)
        loader = Loader(around)
        drain = Drain(loader.drain, vllm.in_flight, settings.drain_seconds)
        opens = callers_of(me.namespace, me.endpoint, settings.door_account, settings.drift_account)
        tokens = TokenVerifier(api.get, opens, settings.run_directory / KEYS_FILE, time.time)
        ready = Checks(ready={"adapters": lambda: None if loader.ready() else "vLLM does not serve, or what is routed was not tried yet"})
        services = [
            Service("health", HealthServer(None, ready, "", settings.health_port).run),
            Service("socket", lambda: serve_socket(door_application(tokens.answer, board, drain), settings.socket)),
            Service("routes", lambda: routes.run(loader.apply)),
            Service("loader", loader.run, drain.run),
        ]
        if me.reports_url:
            services.append(Service("reports", lambda: client.run(board.report)))
        return await Process(services).run()
