"""What the door and the kubelet ask, over a real socket; how a pod goes; what the cache keeps."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from graft_api.fleet import LoadFailure
from graft_serving.agent import drain as draining
from graft_serving.agent import server
from graft_serving.agent import vllm as asking
from graft_serving.agent.cache import Cache
from graft_serving.agent.drain import Drain
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.state import Board, Picture
from graft_serving.agent.tokens import Answer
from graft_serving.agent.vllm import Vllm, VllmAwayError, VllmGoneError


class Door:
    """The agent's socket, and how many requests its vLLM still has."""

    def __init__(self) -> None:
        self.board = Board("boot", lambda: None)
        self.in_flight = 1
        self.drain = Drain(lambda: self.board.show(Picture(server="Draining")), self.count, 5)
        self.session: aiohttp.ClientSession | None = None

    async def count(self) -> int:
        if self.in_flight < 0:
            raise VllmGoneError("/metrics")
        return self.in_flight

    async def authenticate(self, header: str | None) -> Answer:
        return Answer(204 if header == "Bearer good" else 401, {"Cache-Control": "max-age=1"})

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        assert self.session
        async with self.session.get(f"http://agent{path}", headers=headers) as response:
            return response.status, await response.text()


@pytest.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setattr(server, "DRAIN_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(draining, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(draining, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(draining, "LINGER_SECONDS", 0.01)
    monkeypatch.setattr(server, "CLOSE_SECONDS", 0.1)
    door, socket = Door(), tmp_path / "agent.sock"
    socket.touch()  # of an earlier process
    task = asyncio.create_task(server.serve_socket(server.door_application(door.authenticate, door.board, door.drain), socket))
    async with asyncio.timeout(20):
        while not socket.is_socket():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as door.session:
        yield door
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_door_asks_who_knocks(door: Door) -> None:
    assert (await door.get("/auth", Authorization="Bearer good"))[0] == 204
    assert (await door.get("/auth"))[0] == 401


async def test_the_state_waits_for_a_change(door: Door) -> None:
    assert (await door.get("/graft/state"))[0] == 503, "nobody has looked at vLLM yet"
    door.board.open()
    assert '"serving":false' in (await door.get("/graft/state"))[1]
    waiting = asyncio.create_task(door.get(f"/graft/state?after={door.board.generation}"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    door.board.show(Picture(server="Serving", attempted=True))
    assert '"serving":true' in (await waiting)[1]
    assert (await door.get("/graft/state?after=x"))[0] == 400


async def test_a_pod_that_stays_is_not_drained(door: Door) -> None:
    assert (await door.get("/graft/drain"))[0] == 409


@pytest.mark.parametrize("left", [0, -1], ids=["nothing is in flight", "vLLM is gone"])
async def test_the_hook_waits_for_what_is_in_flight(door: Door, left: int) -> None:
    hook = asyncio.create_task(door.get("/graft/drain"))
    going = asyncio.create_task(door.drain.run())
    await asyncio.sleep(0.1)
    assert not hook.done()
    assert (await door.board.state(None, 0)).serving is False
    door.in_flight = left
    assert (await hook)[0] == 200
    await going


async def test_a_vllm_that_does_not_answer_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(draining, "LINGER_SECONDS", 0.01)
    looks = 0

    async def count() -> int:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise VllmAwayError("/metrics: TimeoutError")
        return 0

    await Drain(lambda: None, count, 0.5).run()
    assert looks == 3, "what is in flight is not cut off"


async def test_only_a_refused_connection_says_that_vllm_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MODELS_SECONDS", 0.1)
    async with aiohttp.ClientSession() as session:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            vllm = Vllm(session, f"http://127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(VllmAwayError) as busy:
                await vllm.in_flight()
            assert not isinstance(busy.value, VllmGoneError)
        with pytest.raises(VllmGoneError):
            await vllm.in_flight()


def test_the_cache_makes_room_from_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)
    for number, name in enumerate(("old", "loaded", "new")):
        (cache.begin(name, 30, list) / "file").write_bytes(b"x" * 30)
        os.utime(cache.commit(name), (number, number))
    cache.begin("next", 40, lambda: ["loaded"])
    assert cache.names() == {"loaded", "new"}
    with pytest.raises(VersionRefusedError) as refused:
        cache.begin("huge", 90, lambda: ["loaded"])
    assert refused.value.reason is LoadFailure.TOO_LARGE


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "", "A"])
def test_the_cache_takes_no_names_that_are_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(VersionRefusedError):
        Cache(tmp_path, 100).path(name)
