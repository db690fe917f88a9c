import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

sys.path.insert(0, str(Path(__file__).parent))

import collector_world


@pytest.fixture
async def shadow() -> AsyncIterator[collector_world.FakeShadow]:
    fake = collector_world.FakeShadow()
    async with TestServer(fake.application()) as server:
        fake.url = f"127.0.0.1:{server.port}"
        yield fake


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[None]]:
    """Wait until something is true."""

    async def until(true: Callable[[], object], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 - it is somebody else's state
                await asyncio.sleep(0.005)

    return until


@pytest.fixture
async def start(shadow: collector_world.FakeShadow, tmp_path: Path) -> AsyncIterator[Any]:
    """Start a collector; it is killed when the test is over."""
    running = []

    async def begin(**changes: Any) -> collector_world.World:
        own = {name: changes.pop(name) for name in ("clock", "room", "store", "writer", "run_directory") if name in changes}
        world = collector_world.World(collector_world.settings(f"file://{tmp_path}/store", shadow.url, **changes), **own)
        running.append(world)
        await world.start()
        return world

    yield begin
    for world in running:
        await world.kill()
