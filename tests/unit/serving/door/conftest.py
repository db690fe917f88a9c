"""A door as it is in a pod: a real nginx, with servers in the places of vLLM and of the agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from graft_serving.agent.tokens import Answer
from graft_serving.door.config import DoorSettings
from graft_serving.door.main import prepare

NOBODY = 65_532
PAST = 2.05
"""Seconds after which what nginx keeps for one second is over."""
KNOWN = "max-age=1, stale-while-revalidate=60, stale-if-error=60"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Reply:
    """What came back, by its bytes."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Stub:
    """An HTTP server that can go away and come back."""

    handler: Handler
    seen: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    runner: web.ServerRunner | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        return await self.handler(request)

    async def start(self, *, port: int | None = None, socket: Path | None = None) -> None:
        self.runner = web.ServerRunner(web.Server(self.handle, handler_cancellation=True), shutdown_timeout=0.05)
        await self.runner.setup()
        if socket is None:
            await web.TCPSite(self.runner, "127.0.0.1", port, reuse_address=True).start()
            return
        await web.UnixSite(self.runner, str(socket)).start()
        os.chmod(socket, 0o777)  # noqa: PTH101, S103 - the door runs as another user when the tests run as root

    async def stop(self) -> None:
        if self.runner:
            await self.runner.cleanup()
            self.runner = None


@dataclass
class Door:
    """The process and what stands behind it."""

    port: int
    server_port: int
    socket: Path
    directory: Path
    vllm: Stub
    agent: Stub
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    async def ask(
        self,
        method: str,
        target: str,
        token: str | None = None,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Reply:
        """Send exactly this target, from this address."""
        lines = {"Host": "x", "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
        if token:
            lines["Authorization"] = f"Bearer {token}"
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
        return await self.send(head.encode() + body, address)

    async def send(self, raw: bytes, address: str = "127.0.0.1") -> Reply:
        """Send these bytes and read until the door closes."""
        text = await self.exchange(raw, address)
        head, _, rest = text.partition(b"\r\n\r\n")
        first, *fields = head.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in fields)
        return Reply(int(first.split()[1]), {name.lower(): value for name, value in pairs}, rest)

    async def exchange(self, raw: bytes, address: str = "127.0.0.1") -> bytes:
        """Return all that comes back for these bytes until the door closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
        try:
            writer.write(raw)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture(scope="session")
def nginx() -> None:
    if shutil.which("nginx") and Path("/usr/lib/nginx/modules/ngx_http_set_misc_module.so").exists():
        return
    message = "NGINX IS NOT INSTALLED, THE DOOR IS NOT TESTED: apt-get install nginx libnginx-mod-http-set-misc"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Short enough for a socket, and open to the user of the containers."""
    path = Path(tempfile.mkdtemp(prefix="door", dir="/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


async def served(request: web.Request) -> web.StreamResponse:
    return web.json_response({"path": request.raw_path, "method": request.method, "headers": dict(request.headers)})


@pytest.fixture
async def door(nginx: None) -> AsyncIterator[Door]:
    """Everything is up; the token `a.b.c` opens."""
    with short_directory() as directory:
        async with a_door(directory) as house:
            yield house


STORIES = {
    "the agent is away": KNOWN,
    "the agent cannot say": KNOWN,
    "the agent hangs": KNOWN,
    "the token is refused by now": KNOWN,
    "the token has expired": "max-age=1, stale-while-revalidate=0, stale-if-error=0",
    "the token was refused": KNOWN,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def aged(nginx: None) -> AsyncIterator[dict[str, Door]]:
    """
    One door for each story: it knows `a.b.c`, has refused `x.y.z`, and what it knows is old.

    nginx counts in whole seconds, so what holds for one is over after two: they wait for that together.
    """
    async with contextlib.AsyncExitStack() as stack:
        doors = {}
        for story, control in STORIES.items():
            doors[story] = house = await stack.enter_async_context(a_door(stack.enter_context(short_directory())))
            house.answers["a.b.c"] = Answer(204, {"Cache-Control": control})
        for house in doors.values():
            assert [(await house.ask("POST", "/v1/completions", token)).status for token in ("a.b.c", "x.y.z")] == [200, 401]
        await asyncio.sleep(PAST)
        yield doors


@contextlib.asynccontextmanager
async def a_door(directory: Path) -> AsyncIterator[Door]:
    """A door and what stands behind it, for the token `a.b.c`."""

    async def authenticate(request: web.Request) -> web.StreamResponse:
        if request.path != "/auth":
            return web.json_response({"path": request.raw_path})
        token = request.headers["Authorization"].removeprefix("Bearer ")
        house.asked.append(token)
        answer = house.answers.get(token, Answer(401, {"Cache-Control": "max-age=1"}))
        return web.Response(status=answer.status, headers=answer.headers)

    house = Door(free_port(), free_port(), directory / "agent.sock", directory / "door", Stub(served), Stub(authenticate))
    house.answers["a.b.c"] = Answer(204, {"Cache-Control": "max-age=30, stale-while-revalidate=60, stale-if-error=60"})
    await house.vllm.start(port=house.server_port)
    await house.agent.start(socket=house.socket)
    with open_door(house):
        await until_open(house)
        yield house
        await house.vllm.stop()
        await house.agent.stop()


@contextlib.contextmanager
def open_door(house: Door) -> Iterator[None]:
    settings = DoorSettings(
        f"127.0.0.1:{house.port}", str(house.socket), str(house.directory), "5e" * 32, f"127.0.0.1:{house.server_port}", connections=256
    )
    command = prepare(settings)
    user = NOBODY if os.geteuid() == 0 else None
    if user:
        for path in (house.directory, house.directory / "nginx.conf"):
            os.chown(path, NOBODY, NOBODY)
    log = house.directory.parent / "door.log"
    with log.open("wb") as errors:
        house.process = subprocess.Popen(command, stderr=errors, user=user, group=user, extra_groups=[] if user else None)
    try:
        yield
    finally:
        house.process.terminate()
        assert house.process.wait(5) == 0, log.read_text()


async def until_open(house: Door) -> None:
    assert house.process
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", house.port)
        except ConnectionRefusedError:
            assert house.process.poll() is None, (house.directory.parent / "door.log").read_text()
            await asyncio.sleep(0.01)
            continue
        writer.close()
        await writer.wait_closed()
        return
    raise AssertionError("the door did not open")
