import asyncio

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from graft_runtime.health import Checks, HealthServer


@pytest.fixture
async def ask():
    """Start a server and return how to ask it: status and text."""
    tasks = []
    async with aiohttp.ClientSession() as session:

        async def start(registry, checks):
            server = HealthServer(registry, checks, "127.0.0.1", 0)
            tasks.append(asyncio.ensure_future(server.run()))
            async with asyncio.timeout(2):
                await server.started.wait()

            async def get(path):
                async with session.get(f"http://127.0.0.1:{server.port}{path}") as response:
                    return response.status, await response.text()

            return get

        yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_ready_says_what_is_missing_and_live_does_not_mind(ask):
    wrong = {"routes": "not known yet"}
    get = await ask(None, Checks(ready={"routes": lambda: wrong.get("routes"), "pods": lambda: None}))
    assert await get("/readyz") == (503, "ok pods\nfailed routes: not known yet\nfailed\n")
    assert await get("/livez") == (200, "ok\n")
    wrong.clear()
    assert await get("/readyz") == (200, "ok pods\nok routes\nok\n")


async def test_what_a_restart_can_cure_is_not_live(ask):
    get = await ask(None, Checks(live={"watches": lambda: "pods"}))
    assert await get("/livez") == (503, "failed watches: pods\nfailed\n")
    assert (await get("/readyz"))[0] == 200


async def test_metrics_are_those_of_the_registry_and_without_one_there_are_none(ask):
    registry = CollectorRegistry()
    Gauge("graft_things", "Things.", registry=registry).set(3)
    status, text = await (await ask(registry, Checks()))("/metrics")
    assert (status, "graft_things 3.0" in text) == (200, True)
    assert (await (await ask(None, Checks()))("/metrics"))[0] == 404
