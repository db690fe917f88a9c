"""The two systems that are measured, each with mirroring on and off in one process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import graft
import peers
import yaml
from systems import API_KEY, MODELS, Cores, Launch, Running, System, free_port, mock, pinned, started

from graft_api.dataplane import ROUTES_KEY
from graft_api.tee import Measuring, Tee

SLOW_SECONDS = 10.0
SWITCH_SECONDS = 10.0
COLLECTORS = {"fast": 0.0, "slow": SLOW_SECONDS, "dead": None}
"""Seconds to each answer; None: nobody is there."""
PLAIN, SILENT = MODELS
"""LiteLLM's models without and with a silent one."""


class Switched(Protocol):
    """Something with mirroring that can be on or off."""

    running: Running

    def switch(self, *, on: bool) -> Sequence[str]:
        """Have it on or off from now on. Returns what the generator must be told for that."""

    def counts(self) -> tuple[int, int]:
        """Return how many requests should have been mirrored so far, and how many of them were not or will not be."""


@dataclass
class Gateway:
    """graft's gateway: routes with a tee, and routes without."""

    running: Running
    folder: Path
    metrics_port: int
    tee: Tee
    revision: int = 1

    def switch(self, *, on: bool) -> Sequence[str]:
        time.sleep(0.5)  # a collector that keeps up has everything by then
        self.revision += 1
        routes = graft.routes().model_copy(update={"revision": self.revision, "tee": self.tee if on else None})
        written = self.folder / "routes.new"
        written.write_text(json.dumps(routes.to_json()))
        written.replace(self.folder / "routes" / ROUTES_KEY)
        deadline = time.monotonic() + SWITCH_SECONDS
        while self._metrics()["graft_gateway_routes_revision"] != self.revision:
            if time.monotonic() > deadline:
                raise SystemExit("the gateway has not taken its routes")
            time.sleep(0.05)
        return ()

    def counts(self) -> tuple[int, int]:
        metrics = self._metrics()
        return int(metrics["graft_gateway_tee_chosen_total"]), int(metrics["graft_gateway_tee_dropped_total"])

    def _metrics(self) -> dict[str, float]:
        """Return sums over all labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found: dict[str, float] = {}
        for line in lines:
            if not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                name = series.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found


@dataclass
class LiteLlm:
    """LiteLLM's proxy with one model that has a `silent_model` and one that has none. The silent one is on a mock of its own."""

    running: Running
    production: Running
    shadow: Running
    asked = 0
    missed = 0
    before: tuple[int, int] | None = None

    def switch(self, *, on: bool) -> Sequence[str]:
        time.sleep(1.0)  # for what it does in the background
        now = served(self.production), served(self.shadow)
        if self.before is not None:
            asked, mirrored = (later - earlier - 1 for later, earlier in zip(now, self.before, strict=True))
            self.asked += asked
            self.missed += max(0, asked - mirrored)
        self.before = now if on else None
        return ("-model", SILENT if on else PLAIN)

    def counts(self) -> tuple[int, int]:
        return self.asked, self.missed


@contextmanager
def gateway(case: str, direct: Running, queue_bytes: int, cores: Cores) -> Iterator[Gateway]:
    """The gateway with a collector that is as `case` says."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graft-bench-")))
        port = free_port()
        delay = COLLECTORS[case]
        if delay is not None:
            stack.enter_context(sink(port, delay, cores))
        metrics_port = free_port()

        def launch(folder: Path, port: int, mock_port: int) -> Launch:
            plain = graft.launch(folder, port, mock_port)
            more = {"GRAFT_GATEWAY_METRICS_PORT": str(metrics_port), "GRAFT_GATEWAY_COLLECTOR_TOKEN": str(folder / "door-token")}
            return Launch(plain.command, {**plain.environment, **more})

        system = System("graft", graft.GRAFT.version, launch)
        running = stack.enter_context(started(system, folder, port_of(direct), cores))
        domains = [Measuring(domain=model, share=10_000, salt=model) for model in MODELS]
        yield Gateway(running, folder, metrics_port, Tee(collector=f"127.0.0.1:{port}", queue_bytes=queue_bytes, domains=domains))


@contextmanager
def litellm(direct: Running, cores: Cores) -> Iterator[LiteLlm]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graft-bench-")))
        (folder / "shadow").mkdir()
        shadow = stack.enter_context(mock(folder / "shadow", "{}", cores))

        def launch(folder: Path, port: int, mock_port: int) -> Launch:
            plain = peers.litellm(folder, port, mock_port)
            file = folder / "litellm.yaml"
            known = yaml.safe_load(file.read_text())
            file.write_text(yaml.safe_dump({**known, "model_list": models(mock_port, port_of(shadow))}))
            return plain

        running = stack.enter_context(started(System("litellm", lambda: peers.locked("litellm"), launch), folder, port_of(direct), cores))
        yield LiteLlm(running, direct, shadow)


def models(mock_port: int, shadow_port: int) -> list[dict[str, object]]:
    def at(port: int, **more: str) -> dict[str, str]:
        return {"model": f"hosted_vllm/{PLAIN}", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": "none", **more}

    return [
        {"model_name": PLAIN, "litellm_params": at(mock_port)},
        {"model_name": SILENT, "litellm_params": at(mock_port, silent_model="shadow")},
        {"model_name": "shadow", "litellm_params": at(shadow_port)},
    ]


@contextmanager
def sink(port: int, delay: float, cores: Cores) -> Iterator[None]:
    command = (sys.executable, str(Path(__file__).with_name("sink.py")), "--port", str(port), "--delay", str(delay))
    child = subprocess.Popen(pinned(cores.instruments, command))
    try:
        yield
    finally:
        child.terminate()
        child.wait()


def served(target: Running) -> int:
    """Ask a mock how many requests it has had; this one is one more."""
    body = json.dumps({"model": PLAIN, "messages": []}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"}
    request = urllib.request.Request(f"{target.url}/v1/chat/completions", body, headers)  # noqa: S310 - http to ourselves
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - the same
        return int(json.loads(answer.read())["id"].rsplit("-")[-1], 16)


def port_of(running: Running) -> int:
    return int(running.url.rsplit(":", 1)[1])
