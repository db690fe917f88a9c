# ruff: noqa: S311 -- jitter, nothing secret
"""The gateway as a process: files instead of a cluster, one pod, an operator; put together as `graft-serving gateway` does."""

import asyncio
import json
from random import Random

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from graft_runtime.environment import MissingSetting
from graft_serving.gateway.main import compose, config_from

ANSWER = {"id": "1", "model": "base", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


class World:
    """A pod's door with its agent, and the operator."""

    def __init__(self):
        self.serving, self.generation = False, 1
        self.reports = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.under_way = 0
        self.bad = ""
        self._news = asyncio.Event()

    def serve(self):
        self.serving, self.generation = True, self.generation + 1
        self._news.set()

    def application(self):
        application = web.Application()
        application.router.add_get("/graft/state", self._state)
        application.router.add_post("/v1/chat/completions", self._complete)
        application.router.add_post("/v1/namespaces/team/modelendpoints/prod/gateway", self._report)
        return application

    async def _state(self, request):
        if request.query.get("after") == str(self.generation):
            await self._news.wait()
            self._news.clear()
        versions = ["v1"] if self.serving else []
        return web.json_response({"boot": "b", "generation": self.generation, "serving": self.serving, "versions": versions})

    async def _complete(self, request):
        self.under_way += 1
        await self.hold.wait()
        self.under_way -= 1
        if (await request.json())["model"] == self.bad:
            return web.json_response({"error": {"message": "boom", "code": 500}}, status=500)
        return web.json_response(ANSWER)

    async def _report(self, request):
        self.reports.append(await request.json())
        return web.Response(status=204)


@pytest.fixture
async def world():
    made = World()
    async with TestServer(made.application()) as server:
        made.port = server.port
        yield made
        made._news.set()


def routed(routes, revision, version="v1", **more):
    arms = [{"version": version}] if version else [{}]
    known = {"name": "v1", "domain": "dsl", "adapter": "a", "digest": f"sha256:{'0' * 64}", "uri": "s3://b/a", "sizeBytes": 1}
    domain = {"domain": "dsl", "revision": revision, "salt": "s", "arms": arms, **more}
    return routes(revision, routes=[domain], versions=[known], gateway={"anonymous": True})


@pytest.fixture
def environ(world, tmp_path):
    for name in ("routes", "reports", "keys"):
        (tmp_path / name).mkdir()
    (tmp_path / "token").write_text("t")
    (tmp_path / "reports" / "token").write_text("t")
    (tmp_path / "pods.json").write_text(json.dumps([{"name": "pod-a", "address": f"127.0.0.1:{world.port}"}]))
    return {
        "GRAFT_NAMESPACE": "team",
        "GRAFT_ENDPOINT": "prod",
        "GRAFT_POD_NAME": "gateway-a",
        "GRAFT_REPORTS_URL": f"http://127.0.0.1:{world.port}",
        "GRAFT_REPORTS_DIRECTORY": str(tmp_path / "reports"),
        "GRAFT_ROUTES_DIRECTORY": str(tmp_path / "routes"),
        "GRAFT_STATIC_PODS": str(tmp_path / "pods.json"),
        "GRAFT_GATEWAY_HOST": "127.0.0.1",
        "GRAFT_GATEWAY_PORT": str(unused_port()),
        "GRAFT_GATEWAY_METRICS_PORT": str(unused_port()),
        "GRAFT_GATEWAY_KEYS": str(tmp_path / "keys"),
        "GRAFT_GATEWAY_DOOR_TOKEN": str(tmp_path / "token"),
        "GRAFT_GATEWAY_ACCEPT_SECONDS": "0",
        "GRAFT_DRAIN_SECONDS": "1",
    }


class Running:
    """A gateway that runs in this process."""

    def __init__(self, environ, session):
        config = config_from(environ)
        self.process = compose(config, None, Random(1))
        self.task = asyncio.ensure_future(self.process.run())
        self._session = session
        self._ports = config.settings.port, config.settings.metrics_port

    async def get(self, path):
        try:
            async with self._session.get(f"http://127.0.0.1:{self._ports[1]}{path}") as response:
                return response.status, await response.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def until_answer(self, path, status, words=""):
        async with asyncio.timeout(1.9):
            while (found := await self.get(path))[0] != status or words not in found[1]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def ask(self):
        body = {"model": "dsl", "messages": [{"role": "user", "content": "x"}]}
        async with self._session.post(f"http://127.0.0.1:{self._ports[0]}/v1/chat/completions", json=body) as response:
            return response.status, response.headers.get("x-graft-served-by")


@pytest.fixture
async def gateway(environ):
    async with aiohttp.ClientSession() as session:
        running = Running(environ, session)
        yield running
        running.process.stop()
        assert await running.task == 0


def mount(folder, routes):
    (folder / "new").write_text(json.dumps(routes.to_json()))
    (folder / "new").replace(folder / "routes" / "routes.json")


async def test_it_is_ready_when_it_could_serve_and_says_before_what_is_missing(gateway, world, routes, tmp_path):
    await gateway.until_answer("/readyz", 503, "failed routes: not known yet")
    assert await gateway.get("/livez") == (200, "ok\n")
    mount(tmp_path, routed(routes, 1))
    await gateway.until_answer("/readyz", 503, "failed pods: none of the known pods serves")
    world.serve()
    await gateway.until_answer("/readyz", 200)
    assert await gateway.ask() == (200, "v1@pod-a")
    status, metrics = await gateway.get("/metrics")
    assert status == 200
    assert 'graft_gateway_routes_revision{epoch="1"} 1.0' in metrics
    assert "process_resident_memory_bytes" in metrics


async def test_a_switch_is_acknowledged_and_the_end_of_the_drained_version_is_reported(gateway, world, routes, tmp_path, until):
    mount(tmp_path, routed(routes, 1))
    world.serve()
    await gateway.until_answer("/readyz", 200)
    world.hold.clear()
    asked = asyncio.ensure_future(gateway.ask())
    await until(lambda: world.under_way)
    mount(tmp_path, routed(routes, 2, version=None))
    await until(lambda: world.reports[-1]["revision"] == 2)
    assert world.reports[-1]["inFlight"] == {"v1": 1}
    assert world.reports[-1]["pods"] == {"base": 1, "v1": 1}
    world.hold.set()
    assert (await asked)[0] == 200
    await until(lambda: world.reports[-1]["inFlight"] == {})
    assert await gateway.ask() == (200, "base@pod-a")


async def test_a_version_beyond_its_hard_limit_is_taken_out_and_reported_at_once(gateway, world, routes, tmp_path, until):
    wire = {"version": "v1", "limits": {"minRequests": 5}}
    mount(tmp_path, routed(routes, 1, tripWire=wire))
    world.serve()
    await gateway.until_answer("/readyz", 200)
    world.bad = "v1"
    for _ in range(5):
        assert await gateway.ask() == (500, "v1@pod-a")
    assert await gateway.ask() == (200, "base@pod-a")
    await until(lambda: world.reports[-1]["trips"])
    [trip] = world.reports[-1]["trips"]
    assert {name: trip[name] for name in ("domain", "version", "metric", "requests")} == {
        "domain": "dsl", "version": "v1", "metric": "errors", "requests": 5
    }  # fmt: skip


async def test_sigterm_lets_requests_end_and_says_that_it_drains(gateway, world, routes, tmp_path, until):
    mount(tmp_path, routed(routes, 1))
    world.serve()
    await gateway.until_answer("/readyz", 200)
    world.hold.clear()
    asked = asyncio.ensure_future(gateway.ask())
    await until(lambda: world.under_way)
    gateway.process.stop()
    await gateway.until_answer("/readyz", 503, "failed process: stopping")
    await until(lambda: world.reports[-1]["draining"])
    world.hold.set()
    assert (await asked)[0] == 200
    assert await gateway.task == 0


def test_without_a_cluster_it_says_what_is_missing(environ):
    del environ["GRAFT_STATIC_PODS"]
    with pytest.raises(MissingSetting, match="GRAFT_STATIC_PODS"):
        config_from(environ)
