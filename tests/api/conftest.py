"""A real API server with etcd, once per session. No controllers: nothing creates pods, nothing collects garbage."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from graft_devcluster.apitier import ApiServer
from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import NAMESPACES

sys.path.insert(0, str(Path(__file__).parent))  # its modules beside it: pytest's importlib mode adds no folder

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def kubectl_on_path() -> Iterator[None]:
    """The kubectl of the cluster's own version, whatever the machine has."""
    folder = Toolbox(cache_root()).path("kubectl").parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """Shared by all tests of the session: whoever interrupts it takes `disturbed_api_server` instead."""
    with ApiServer() as server:
        yield server


@pytest.fixture(scope="module")
def disturbed_api_server() -> Iterator[ApiServer]:
    """An API server of the module's own, to be paused and stopped."""
    with ApiServer() as server:
        yield server


@pytest.fixture(scope="session")
def aside() -> Iterator[Callable[..., Awaitable[Any]]]:
    """
    Run something slow beside the event loop: `await aside(server.stop_api_server)`.

    In one thread for the whole session: the API server dies with the thread that started it.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield lambda call: asyncio.get_running_loop().run_in_executor(executor, call)


@pytest.fixture(scope="session")
def kubeconfig(api_server: ApiServer) -> Path:
    return api_server.kubeconfig


@pytest.fixture(scope="module")
def definitions(api_server: ApiServer) -> None:
    """The CRDs of this checkout, established and served: for a moment after the first, the API server answers 429."""
    command = ["kubectl", "--kubeconfig", str(api_server.kubeconfig)]
    crds = Path(__file__).parents[2] / "crds"
    subprocess.run([*command, "apply", "--server-side", "-f", str(crds)], check=True, capture_output=True)
    subprocess.run([*command, "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"], check=True, capture_output=True)
    kinds = ",".join(f"{path.stem.partition('_')[2]}.graft.dev" for path in crds.glob("*.yaml"))
    deadline = time.monotonic() + 30
    while (got := subprocess.run([*command, "get", kinds, "-A"], capture_output=True)).returncode:
        assert time.monotonic() < deadline, got.stderr.decode()


@pytest.fixture
async def kube(kubeconfig: Path) -> AsyncIterator[Kube]:
    """A client with every right."""
    async with Kube(load_credentials(kubeconfig)) as client:
        yield client


@pytest.fixture
async def namespace(kube: Kube) -> str:
    """A namespace of the test's own. It stays: without a namespace controller it would never finish deleting."""
    name = f"test-{int(time.time())}-{next(_numbers)}"
    await kube.create(NAMESPACES, {"metadata": {"name": name}})
    return name


@pytest.fixture
def until() -> Callable[..., Awaitable[Any]]:
    """Wait for a condition: `await until(lambda: seen)`. Awaits what it returns, ends with its first true value."""

    async def wait(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        async with asyncio.timeout(seconds):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.02)

    return wait
