"""What can stand between a client and a model server, and how one is started for measuring."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from programs import program

ROOT = Path(__file__).parents[2]
MODELS = ("billing", "support")
"""Two domains, asked in turn. The mock answers under any name."""
VERSIONS = {model: (f"{model}-6f1d0a52c3b7e498", f"{model}-c09e44b1d25a7f63") for model in MODELS}
"""What vLLM calls the two arms of each."""
API_KEY = "sk-bench-0123456789abcdef0123456789abcdef"
START_SECONDS = 120.0


@dataclass(frozen=True)
class Launch:
    """How to start one system: its command once its files are written, and what differs in its environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """A proxy. `launch(folder, port, mock_port)` writes what it reads into the folder and says how to start it."""

    name: str
    version: Callable[[], str]
    launch: Callable[[Path, int, int], Launch]


@dataclass(frozen=True)
class Running:
    """Something that answers chat requests."""

    name: str
    url: str
    pid: int


@dataclass(frozen=True)
class Cores:
    """Which cores the measured system has, and which the mock and the generator. Empty: the kernel decides."""

    system: tuple[int, ...] = ()
    instruments: tuple[int, ...] = ()

    @classmethod
    def separate(cls) -> Cores:
        first, *others = sorted(os.sched_getaffinity(0))
        return cls((first,), tuple(others)) if others else cls()


def machine(cores: Cores, busy: float) -> dict[str, Any]:
    """Where a run was made; `busy` is the load before it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((text.split(":")[1].strip() for text in lines if text.startswith("model name")), ""),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pinning": f"system on core {cores.system}, the rest on {cores.instruments}" if cores.system else "none",
        "load_before": busy,
    }


def pinned(cores: tuple[int, ...], command: tuple[str, ...]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cores)), *command] if cores else [*command]


@contextmanager
def mock(folder: Path, state: str, cores: Cores) -> Iterator[Running]:
    """The upstream of every system. It answers GET /graft/state with `state`."""
    state_file = folder / "state.json"
    state_file.write_text(state)
    port = free_port()
    command = (str(program("mock")), "-listen", f"127.0.0.1:{port}", "-state", str(state_file))
    with process("direct", Launch(pinned(cores.instruments, command)), folder, port) as running:
        yield running


@contextmanager
def started(system: System, folder: Path, mock_port: int, cores: Cores) -> Iterator[Running]:
    port = free_port()
    launch = system.launch(folder, port, mock_port)
    with process(system.name, Launch(pinned(cores.system, launch.command), launch.environment), folder, port) as running:
        yield running


@contextmanager
def process(name: str, launch: Launch, folder: Path, port: int) -> Iterator[Running]:
    """Run it until the caller is done, from the first chat request that it answers. Ends the bench with its log where it answers none."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(launch.command, stdout=output, stderr=output, cwd=folder, env={**os.environ, **launch.environment})
    try:
        running = Running(name, f"http://127.0.0.1:{port}", child.pid)
        wait_until_answering(running, child, log)
        yield running
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until_answering(running: Running, child: subprocess.Popen[bytes], log: Path) -> None:
    body = json.dumps({"model": MODELS[0], "messages": [{"role": "user", "content": "Ready?"}], "max_tokens": 1}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"}
    request = urllib.request.Request(f"{running.url}/v1/chat/completions", body, headers)  # noqa: S310 - http to ourselves
    deadline = time.monotonic() + START_SECONDS
    answer = "nothing"
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - the same
                return
        except urllib.error.HTTPError as error:
            answer = f"{error.code} {error.read(300).decode(errors='replace')}"
        except OSError as error:
            answer = str(error)
        time.sleep(0.1)
    ended = f"ended with {child.returncode}" if child.returncode is not None else f"does not answer; last: {answer}"
    raise SystemExit(f"{running.name} {ended}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-20:]))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
