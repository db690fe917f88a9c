import asyncio
import json
from random import Random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from graft_api.fleet import ATTEMPT_SECONDS
from graft_serving.gateway.agent_poll import PollTimes
from graft_serving.gateway.discovery import Discovery, SlicesSource, StaticSource
from graft_serving.gateway.endpoint_slices import PodAddress
from graft_serving.gateway.pod_memory import PodMemory
from graft_serving.rotated_file import token_file

QUICK = PollTimes(connect=0.3, answer=0.6, agent_away=0.3, first_pause=0.01, longest_pause=0.05, apart=0.02)


class Book:
    """What discovery has said, as gateway/pods.py would keep it."""

    def __init__(self):
        self.pods = {}
        self.calls = []

    def update(self, name, address, serving, versions):
        self.pods[name] = (serving, set(versions))
        self.calls.append((name, address, serving))

    def remove(self, name):
        self.pods.pop(name, None)
        self.calls.append((name, None, None))


class FakeAgent:
    """A pod: door and agent in one. `status` is what the door says in the agent's place."""

    def __init__(self):
        self.boot, self.generation, self.serving, self.versions = "boot-1", 1, True, ["v1"]
        self.status = 200
        self.asked = []
        self.tokens = []
        self._news = asyncio.Event()

    def change(self, **fields):
        self.generation += 1
        for name, value in fields.items():
            setattr(self, name, value)
        self._news.set()
        self._news = asyncio.Event()

    def restart(self, **fields):
        self.boot, self.generation = "boot-2", 0
        self.change(**fields)

    async def state(self, request):
        self.asked.append(request.query.get("after"))
        self.tokens.append(request.headers["Authorization"])
        if self.status == 200 and request.query.get("after") == str(self.generation):
            try:
                async with asyncio.timeout(0.2):
                    await self._news.wait()
            except TimeoutError:
                pass
        if self.status != 200:
            return web.Response(status=self.status)
        body = {"boot": self.boot, "generation": self.generation, "serving": self.serving, "versions": self.versions}
        return web.json_response(body)

    def application(self):
        application = web.Application()
        application.router.add_get("/graft/state", self.state)
        return application


@pytest.fixture
async def agent():
    fake = FakeAgent()
    async with TestServer(fake.application()) as server:
        fake.server = server
        fake.address = f"127.0.0.1:{server.port}"
        yield fake


@pytest.fixture
def book():
    return Book()


@pytest.fixture
def discovery(book, tmp_path):
    (tmp_path / "token").write_text("token-1")
    return Discovery(book, token_file(tmp_path / "token"), Random(1), QUICK)  # noqa: S311 - jitter


class Script:
    """A source that says what a test wants."""

    async def run(self, discovery):
        self.known = discovery.known
        await asyncio.Event().wait()


@pytest.fixture
async def known(discovery, background, until):
    script = Script()
    background(discovery.run(script))
    await until(lambda: hasattr(script, "known"))
    return script.known


async def test_a_pod_is_what_its_agent_says(agent, known, book, until):
    known({"a": PodAddress(agent.address)})
    await until(lambda: book.pods == {"a": (True, {"v1"})})
    agent.change(versions=["v1", "v2"])
    await until(lambda: book.pods == {"a": (True, {"v1", "v2"})})
    agent.change(serving=False)
    await until(lambda: book.pods == {"a": (False, set())})
    assert agent.asked[:3] == [None, "1", "2"]


async def test_a_pod_that_left_the_slices_is_removed_and_asked_no_more(agent, known, book, until):
    known({"a": PodAddress(agent.address)})
    await until(lambda: book.pods)
    known({})
    assert book.pods == {}
    asked = len(agent.asked)
    agent.change()
    await asyncio.sleep(0.1)
    assert len(agent.asked) <= asked + 1
    assert book.pods == {}


async def test_a_terminating_pod_gets_no_new_requests_whatever_its_agent_says(agent, known, book, until):
    known({"a": PodAddress(agent.address)})
    await until(lambda: book.pods == {"a": (True, {"v1"})})
    known({"a": PodAddress(agent.address, terminating=True)})
    assert book.pods == {"a": (False, set())}
    agent.change(versions=["v2"])
    await until(lambda: len(book.calls) >= 3)
    assert book.pods == {"a": (False, set())}


async def test_another_pod_of_the_same_name_replaces_the_old_one(agent, known, book, until):
    known({"a": PodAddress("127.0.0.1:1")})
    known({"a": PodAddress(agent.address)})
    await until(lambda: book.pods == {"a": (True, {"v1"})})
    assert book.calls[0] == ("a", None, None)


async def test_the_state_of_a_restarted_agent_replaces_the_old_one_though_it_counts_from_one(agent, known, book, until):
    known({"a": PodAddress(agent.address)})
    await until(lambda: book.pods)
    for _ in range(3):
        agent.change()
    await until(lambda: agent.asked[-1] == "4")
    agent.status = 502
    agent.change()
    await until(lambda: len(agent.asked) > 8)
    agent.restart(versions=["v9"], generation=4, status=200)
    await until(lambda: book.pods == {"a": (True, {"v9"})})


async def test_a_pod_keeps_what_it_had_while_only_its_agent_is_away(agent, known, book, until):
    known({"a": PodAddress(agent.address)})
    await until(lambda: book.pods)
    agent.change(status=503)
    await until(lambda: len(agent.asked) > 5)
    assert book.pods == {"a": (True, {"v1"})}
    await until(lambda: book.pods == {"a": (False, set())})  # but not for ever
    agent.change(status=200)
    await until(lambda: book.pods == {"a": (True, {"v1"})})


def test_an_agent_is_away_for_longer_than_its_first_attempt_may_take():
    assert PollTimes().agent_away > ATTEMPT_SECONDS


async def test_a_pod_that_does_not_answer_serves_nothing(agent, known, book, until):
    known({"a": PodAddress(agent.address)})
    await until(lambda: book.pods)
    await agent.server.close()
    await until(lambda: book.pods == {"a": (False, set())})
    assert [call for call in book.calls if call[2] is False] == [("a", agent.address, False)]


async def test_a_refused_token_is_read_again(agent, known, book, until, tmp_path):
    agent.status = 401
    known({"a": PodAddress(agent.address)})
    await until(lambda: len(agent.asked) > 2)
    assert book.pods == {}
    (tmp_path / "token").write_text("token-two")
    agent.change(status=200)
    await until(lambda: book.pods == {"a": (True, {"v1"})})
    assert agent.tokens[0] == "Bearer token-1"
    assert agent.tokens[-1] == "Bearer token-two"


async def test_an_agent_that_does_not_wait_is_not_asked_in_a_circle(agent, known, book, until):
    async def at_once(self, request):
        self.asked.append(None)
        return web.json_response({"boot": "b", "generation": 1, "serving": True, "versions": []})

    agent.state = None
    eager = type("Eager", (FakeAgent,), {"state": at_once})()
    async with TestServer(eager.application()) as server:
        known({"a": PodAddress(f"127.0.0.1:{server.port}")})
        await asyncio.sleep(0.2)
        assert 2 <= len(eager.asked) <= 0.2 / QUICK.apart + 2
        known({})


def endpoint_slice(*pods, **conditions):
    endpoints = [
        {"addresses": [f"10.0.0.{number}"], "targetRef": {"kind": "Pod", "name": name}, "conditions": conditions} for number, name in pods
    ]
    return {"endpoints": endpoints}


async def test_pods_of_the_slices_stay_known_while_the_api_server_is_away(fake_api, api, background, until, tmp_path):
    said = []

    class Listener:
        def known(self, pods):
            said.append(sorted(pods))

    background(SlicesSource(api, "team", "prod", PodMemory(tmp_path / "pods.json")).run(Listener()))
    await until(lambda: said == [[]])
    fake_api.put("prod-server-1", **endpoint_slice((1, "a"), (2, "b")))
    await until(lambda: said[-1] == ["a", "b"])
    fake_api.broken = True
    fake_api.cut()
    await asyncio.sleep(0.1)
    assert said[-1] == ["a", "b"]
    fake_api.broken = False
    fake_api.delete("prod-server-1")
    await until(lambda: said[-1] == [])
    assert fake_api.watches[0]["labelSelector"] == "kubernetes.io/service-name=prod-server,graft.dev/modelendpoint=prod"


async def test_a_gateway_that_is_restarted_while_the_api_server_is_away_still_knows_its_pods(api, fake_api, background, until, tmp_path):
    memory, said = tmp_path / "pods.json", []

    class Listener:
        def known(self, pods):
            said.append({name: pod.address for name, pod in pods.items()})

    fake_api.put("prod-server-1", **endpoint_slice((1, "a"), (2, "b")))
    background(SlicesSource(api, "team", "prod", PodMemory(memory)).run(Listener()))
    await until(lambda: said and len(said[-1]) == 2 and memory.exists())
    fake_api.broken = True
    fake_api.cut()
    before, said[:] = said[-1], []
    background(SlicesSource(api, "team", "prod", PodMemory(memory)).run(Listener()))
    await until(lambda: said == [before])
    fake_api.broken = False
    fake_api.delete("prod-server-1")
    await until(lambda: said[-1] == {} and PodMemory(memory).recall() == {})


@pytest.mark.parametrize("content", [None, b"", b"[{", b'{"a": 1}', b"[1]"])
def test_what_is_remembered_of_no_pods_is_none(tmp_path, content):
    memory = tmp_path / "pods.json"
    if content is not None:
        memory.write_bytes(content)
    assert PodMemory(memory).recall() == {}


def test_a_pod_that_is_about_to_go_is_not_remembered(tmp_path):
    memory = PodMemory(tmp_path / "pods.json")
    memory.keep({"a": PodAddress("10.0.0.1:8000"), "b": PodAddress("10.0.0.2:8000", terminating=True)})
    assert memory.recall() == {"a": PodAddress("10.0.0.1:8000")}


async def test_static_pods_are_read_again_when_the_file_changes(agent, discovery, background, book, until, tmp_path):
    file = tmp_path / "pods.json"
    file.write_text(json.dumps([{"name": "a", "address": agent.address}]))
    background(discovery.run(StaticSource(file, poll_seconds=0.02)))
    await until(lambda: book.pods == {"a": (True, {"v1"})})
    file.write_text("broken")
    await asyncio.sleep(0.05)
    assert book.pods == {"a": (True, {"v1"})}
    file.write_text("[]")
    await until(lambda: book.pods == {})
