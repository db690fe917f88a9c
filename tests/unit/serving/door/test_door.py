from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from graft_api.dataplane import DRAIN_PATH, INFERENCE_PATHS, LIVE_PATH, NOT_STARTED_HEADER, STATE_PATH
from graft_serving.agent.tokens import Answer
from graft_serving.door.config import ASKED_SOCKET, DoorSettings, largest_body_bytes
from graft_serving.door.main import listen_address, prepare

CHAT = "/v1/chat/completions"
TOKEN = "a.b.c"
OLD = pytest.mark.asyncio(loop_scope="module")
"""Of tests that go on from what `aged` has waited for."""


async def until_status(door, token: str, status: int) -> None:
    async with asyncio.timeout(20):
        while (await door.ask("POST", CHAT, token)).status != status:  # noqa: ASYNC110 - the other side is a process
            await asyncio.sleep(0.05)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the other side is a process
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", INFERENCE_PATHS)
async def test_the_token_opens_the_inference_routes(door, path):
    reply = await door.ask("POST", path, TOKEN, b"{}")
    assert (reply.status, door.vllm.seen[0].raw_path, door.vllm.seen[0].method) == (200, path, "POST")


ADMIN = [
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/adapters",
    "/adapters/x",
    "/invocations",
    "/ping",
    "/metrics",
    "/health",
    "/version",
    "/v1/models",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
    "/pooling",
    "/score",
    "/sleep",
    "/wake_up",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/docs",
    "/openapi.json",
    "/auth",
    "/",
    "*",
]
DISGUISES = [
    "/v1//chat/completions",
    "//v1/chat/completions",
    "/v1/chat/completions/",
    "/v1/chat/completions/../../load_lora_adapter",
    "/v1/chat/../chat/completions",
    "/v1/chat/completions/..%2f..%2fload_lora_adapter",
    "/v1/chat/completions/%2e%2e/%2e%2e/load_lora_adapter",
    "/v1/%63hat/completions",
    "/v1/chat%2fcompletions",
    "/v1/./chat/completions",
    "/v1/chat/completions;/../../metrics",
    "/v1/chat/completions%00",
    "/v1/chat/completions%0d%0aX:y",
    "/v1/chat/completions#/metrics",
    "/v1/chat/completions?x=1",
    "/V1/chat/completions",
    "/v1\\chat\\completions",
    "http://vllm/metrics",
    "http://vllm/v1/load_lora_adapter",
    "/graft/state/",
    "/graft/state?after=1&x=2",
    "/graft/state?after=-1",
    "/graft/state?after=1%20",
    "/graft/drain?now=1",
    "/graft/livez/../../metrics",
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_whatever_is_not_ours_letter_by_letter_gets_nowhere(door, method):
    replies = {target: (await door.ask(method, target, TOKEN)).status for target in ADMIN + DISGUISES}
    assert {target: status for target, status in replies.items() if status not in {400, 404}} == {}
    assert (door.vllm.seen, door.agent.seen) == ([], [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "post", "PROPFIND"])
async def test_inference_is_asked_by_post_only(door, method):
    reply = await door.ask(method, CHAT, TOKEN)
    assert reply.status in {400, 405}
    assert reply.headers.get("allow", "POST") == "POST"
    assert door.vllm.seen == []


@pytest.mark.parametrize("path", [STATE_PATH, DRAIN_PATH, LIVE_PATH])
async def test_the_other_routes_are_asked_by_get_only(door, path):
    reply = await door.ask("POST", path, TOKEN)
    assert (reply.status, reply.headers["allow"]) == (405, "GET")
    assert (door.vllm.seen, door.agent.seen) == ([], [])


SMUGGLED = {
    "two lengths": b"Content-Length: 4\r\nContent-Length: 40\r\n\r\n",
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Content-Length : 4\r\n\r\n",
}


@pytest.mark.parametrize("rest", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_no_second_request_hides_in_the_first(door, rest):
    hidden = b"POST /v1/load_lora_adapter HTTP/1.1\r\nHost: x\r\n\r\n"
    await door.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\nConnection: close\r\n" + rest + hidden)
    assert [request.raw_path for request in door.vllm.seen if request.raw_path != "/v1/completions"] == []


STRANGERS = {
    "no header": {},
    "an empty header": {"Authorization": ""},
    "another scheme": {"Authorization": "Basic a.b.c"},
    "no JSON web token": {"Authorization": "Bearer secret"},
    "two tokens": {"Authorization": "Bearer a.b.c d.e.f"},
    "vLLM's own key": {"Authorization": "Bearer EMPTY"},
}


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS.keys())
async def test_who_shows_no_token_is_sent_away_without_asking_the_agent(door, headers):
    for method, path in (("POST", CHAT), ("GET", STATE_PATH)):
        reply = await door.ask(method, path, headers=headers)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert (door.vllm.seen, door.agent.seen) == ([], [])


async def test_a_refused_token_opens_nothing(door):
    for method, path in (("POST", CHAT), ("GET", STATE_PATH)):
        assert (await door.ask(method, path, "x.y.z")).status == 401
    assert door.vllm.seen == []
    assert [request.path for request in door.agent.seen] == ["/auth"]


async def test_the_kubelet_needs_no_token(door):
    assert (await door.ask("GET", LIVE_PATH)).status == 200
    assert (await door.ask("GET", DRAIN_PATH)).status == 200
    assert (door.vllm.seen[0].raw_path, door.agent.seen[0].raw_path) == ("/health", DRAIN_PATH)


@pytest.mark.parametrize("target", [STATE_PATH, f"{STATE_PATH}?after=17"])
async def test_the_state_is_the_agents(door, target):
    reply = await door.ask("GET", target, TOKEN)
    assert (reply.status, door.agent.seen[-1].raw_path) == (200, target)


async def test_vllm_sees_the_trace_and_not_the_token(door):
    sent = {"X-Request-Id": "r1", "Traceparent": "00-1", "Content-Type": "application/json", "Cookie": "c", "X-Forwarded-For": "1.2.3.4"}
    await door.ask("POST", CHAT, TOKEN, b"{}", sent)
    seen = {name.lower(): value for name, value in door.vllm.seen[0].headers.items()}
    assert seen == {
        "host": "localhost",
        "x-request-id": "r1",
        "traceparent": "00-1",
        "content-type": "application/json",
        "content-length": "2",
    }


async def test_an_answer_of_vllm_cannot_speak_for_the_door(door):
    async def tricky(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503, headers={NOT_STARTED_HEADER: "1", "X-Accel-Redirect": "/graft/livez"})

    door.vllm.handler = tricky
    reply = await door.ask("POST", CHAT, TOKEN)
    assert (reply.status, NOT_STARTED_HEADER in reply.headers, len(door.vllm.seen)) == (503, False, 1)


async def test_a_body_beyond_every_limit_is_refused_unread(door):
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {largest_body_bytes() + 1}\r\n\r\n".encode())
    assert (await asyncio.wait_for(reader.readline(), 20)).split()[1] == b"413"
    assert door.vllm.seen == []
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("path", [STATE_PATH, DRAIN_PATH, LIVE_PATH])
async def test_a_get_with_a_body_is_refused(door, path):
    assert (await door.ask("GET", path, TOKEN, b"some")).status == 413
    chunked = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await door.send(f"{chunked}4\r\nsome\r\n0\r\n\r\n".encode())).status == 413
    assert [request.path for request in (*door.vllm.seen, *door.agent.seen)] in ([], ["/auth"])


@pytest.mark.parametrize("chunked", [False, True])
async def test_many_at_once_do_not_get_into_each_others_way(door, chunked):
    async def body():
        yield b"{}"

    async def one(session: aiohttp.ClientSession) -> int:
        async with session.post(url(door), data=body() if chunked else b"{}", headers=bearer()) as answer:
            return answer.status

    door.answers[TOKEN] = Answer(204, {"Cache-Control": "no-store"})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=40)) as session:
        assert set(await asyncio.gather(*(one(session) for _ in range(180)))) == {200}
    assert len(door.asked) == 180


async def test_a_large_body_is_passed_on_and_never_written_to_a_file(door):
    async def measure(request: web.Request) -> web.StreamResponse:
        held.extend(path.name for path in (door.directory / "client_body").rglob("*"))
        return web.json_response({"length": len(await request.read())})

    held: list[str] = []
    door.vllm.handler = measure
    async with aiohttp.ClientSession() as session, session.post(url(door), data=b"x" * 900_000, headers=bearer()) as answer:
        assert await answer.json() == {"length": 900_000}
    assert held == []


def url(door) -> str:
    return f"http://127.0.0.1:{door.port}{CHAT}"


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


class Stream:
    """An answer whose chunks are let out one by one."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self.broken = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while (chunk := await self.chunks.get()) is not None:
                await response.write(chunk)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled.set()
            raise
        if self.broken:
            assert request.transport
            request.transport.abort()
        return response


async def test_a_stream_arrives_chunk_by_chunk(door):
    door.vllm.handler = stream = Stream()
    async with aiohttp.ClientSession() as session:
        stream.chunks.put_nowait(b"data: 0\n\n")
        async with session.post(url(door), headers=bearer()) as answer:
            for index in range(5):
                assert await asyncio.wait_for(answer.content.readany(), 20) == b"data: %d\n\n" % index
                stream.chunks.put_nowait(b"data: %d\n\n" % (index + 1))
            stream.chunks.put_nowait(None)
            assert await answer.content.read() == b"data: 5\n\n"


async def test_a_client_that_leaves_is_gone_for_vllm_too(door):
    door.vllm.handler = stream = Stream()
    stream.chunks.put_nowait(b"data: 0\n\n")
    async with aiohttp.ClientSession() as session, session.post(url(door), headers=bearer()) as answer:
        await answer.content.readany()
    await asyncio.wait_for(stream.cancelled.wait(), 20)


async def test_a_client_that_leaves_before_the_first_byte_is_gone_too(door):
    left = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        try:
            await asyncio.sleep(60)
        finally:
            left.set()
        return web.Response()

    door.vllm.handler = slow
    async with aiohttp.ClientSession() as session:
        with contextlib.suppress(TimeoutError):
            await session.post(url(door), headers=bearer(), timeout=aiohttp.ClientTimeout(total=0.2))
    await asyncio.wait_for(left.wait(), 20)


async def test_a_stream_that_breaks_does_not_look_complete(door):
    door.vllm.handler = stream = Stream()
    stream.broken = True
    stream.chunks.put_nowait(b"data: 0\n\n")
    async with aiohttp.ClientSession() as session, session.post(url(door), headers=bearer()) as answer:
        await answer.content.readany()
        stream.chunks.put_nowait(None)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()


async def test_what_never_reached_vllm_says_so_and_works_again_after_its_restart(door):
    assert (await door.ask("POST", CHAT, TOKEN)).status == 200
    await door.vllm.stop()
    away = await door.ask("POST", CHAT, TOKEN)
    assert (away.status, away.headers.get(NOT_STARTED_HEADER)) == (503, "1")
    assert (await door.ask("GET", LIVE_PATH)).status == 503
    await door.vllm.start(port=door.server_port)
    assert (await door.ask("POST", CHAT, TOKEN)).status == 200


async def test_what_broke_before_the_first_byte_does_not_say_so(door):
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    door.vllm.handler = hang_up
    broken = await door.ask("POST", CHAT, TOKEN, b"{}")
    assert (broken.status, NOT_STARTED_HEADER in broken.headers, len(door.vllm.seen)) == (502, False, 1)


async def test_an_idle_connection_that_was_closed_as_the_request_went_out_does_not_say_so(door):
    await door.vllm.stop()
    served = 0

    async def closes_on_the_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        while await reader.readuntil(b"\r\n\r\n"):
            served += 1
            if served > 1:
                writer.transport.abort()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    raw = await asyncio.start_server(closes_on_the_second, "127.0.0.1", door.server_port)
    async with raw:
        assert (await door.ask("POST", CHAT, TOKEN)).status == 200
        stale = await door.ask("POST", CHAT, TOKEN)
        assert (stale.status, NOT_STARTED_HEADER in stale.headers, served) == (502, False, 2)


async def test_an_accepted_token_is_asked_about_once(door):
    for _ in range(20):
        assert (await door.ask("POST", CHAT, TOKEN)).status == 200
    assert door.asked == [TOKEN]


async def test_a_refused_token_is_not_asked_about_each_time(door):
    for _ in range(5):
        assert (await door.ask("POST", CHAT, "x.y.z")).status == 401
    assert len(door.asked) < 5


@OLD
async def test_a_refused_token_is_asked_about_again_soon(aged):
    door = aged["the token was refused"]
    door.answers["x.y.z"] = door.answers[TOKEN]
    assert (await door.ask("POST", CHAT, "x.y.z")).status == 200


@OLD
async def test_an_agent_that_is_away_interrupts_nobody_it_knew(aged):
    door = aged["the agent is away"]
    await door.agent.stop()
    for _ in range(5):
        assert (await door.ask("POST", CHAT, TOKEN)).status == 200
    stranger = await door.ask("POST", CHAT, "n.e.w")
    assert (stranger.status, stranger.headers.get(NOT_STARTED_HEADER)) == (503, "1")
    await door.agent.start(socket=door.socket)
    door.answers["n.e.w"] = door.answers[TOKEN]
    assert (await door.ask("POST", CHAT, "n.e.w")).status == 200


@OLD
async def test_an_agent_that_cannot_say_interrupts_nobody_it_knew(aged):
    door = aged["the agent cannot say"]
    door.answers[TOKEN] = Answer(503, {"Cache-Control": "no-store"})
    for _ in range(3):
        assert (await door.ask("POST", CHAT, TOKEN)).status == 200
    await until(lambda: door.asked.count(TOKEN) > 1)


@OLD
async def test_an_agent_that_hangs_holds_up_nobody_it_knew(aged):
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    door = aged["the agent hangs"]
    door.agent.handler, before = hang, len(door.agent.seen)
    # Each on a connection of its own: the one whose answer is stale is held until the agent has had its two seconds.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=1)) as session:
        for _ in range(5):
            async with session.post(url(door), headers=bearer()) as answer:
                assert answer.status == 200
                await answer.read()
    assert len(door.agent.seen) == before + 1


@OLD
async def test_a_token_that_is_refused_by_now_is_out_after_its_time(aged):
    door = aged["the token is refused by now"]
    del door.answers[TOKEN]
    await door.ask("POST", CHAT, TOKEN)
    await until(lambda: door.asked.count(TOKEN) == 2)
    await until_status(door, TOKEN, 401)


@OLD
async def test_a_token_is_out_when_it_has_expired_even_without_an_agent(aged):
    door = aged["the token has expired"]
    await door.agent.stop()
    assert (await door.ask("POST", CHAT, TOKEN)).status == 503


async def test_no_token_and_no_query_lies_in_a_file_or_in_the_log(door):
    await door.ask("POST", CHAT, TOKEN)
    await door.vllm.stop()
    await door.ask("POST", CHAT, TOKEN)
    await door.ask("POST", f"{CHAT}?secret", TOKEN)
    kept = [path for path in (door.directory / "callers").iterdir() if path.is_file()]
    assert len(kept) == 1
    log = (door.directory.parent / "door.log").read_bytes()
    assert b"Connection refused" in log
    assert not any(word in text for word in (TOKEN.encode(), b"secret") for text in (kept[0].read_bytes(), log))


@pytest.mark.parametrize(
    ("environment", "address"), [({"GRAFT_POD_IP": "10.0.0.7"}, "0.0.0.0:8000"), ({"GRAFT_POD_IP": "fd00::7"}, "[::]:8000")]
)
def test_the_door_listens_in_the_pods_own_family(environment, address):
    assert listen_address(environment) == address


def test_what_a_door_that_was_killed_left_does_not_stop_the_next_one(tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / ASKED_SOCKET))
    prepare(DoorSettings("127.0.0.1:1", str(tmp_path / "agent.sock"), str(tmp_path), "5e" * 32))
    assert not (tmp_path / ASKED_SOCKET).exists()
