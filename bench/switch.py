"""
A switch under load, and the way of an adapter from `apply` to serving, on two real vLLM replicas and two gateways.

    .venv/bin/python bench/switch.py [--rate 8] [--away 600]

Needs the node of `make cluster` and the images (`make bench-switch` sees to both). Prints a table, writes bench/results/switch.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from minio import Minio

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "examples" / "dsl")]

import packages  # noqa: E402
from place import EXAMPLE  # noqa: E402
from stories import ALLOWED, Load, Shop, ask, train  # noqa: E402
from wide import RANK, large, large_package, wide_world  # noqa: E402

from graft_devcluster import cluster, images, install, s3, settings  # noqa: E402

RESULT = ROOT / "bench" / "results" / "switch.json"
SWITCHES = 10
SWITCHED_WITHIN_MS = 1000.0
AGENT_ADDS_SECONDS = 2.0
"""To the bytes' own way from the store: the operator's part, verification, vLLM's loading and the probes."""
PARTS = ("switches", "away", "large")
STARTED_WITHIN = 900.0
"""Seconds for two vLLMs with slots of the highest rank, which they fill once at their start."""


@dataclass
class Streams:
    """Streams that run all the time; the gaps between their tokens, in milliseconds, with the time of each."""

    url: str
    model: str
    count: int
    gaps: list[tuple[float, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Streams:
        self._pool = ThreadPoolExecutor(1)
        self._running = self._pool.submit(lambda: asyncio.run(self._run()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._running.result(60)  # raises what ended a stream: gaps that nobody measured are none

    async def _run(self) -> None:
        async with aiohttp.ClientSession(headers=ALLOWED) as session:
            await asyncio.gather(*(self._one(session) for _ in range(self.count)))

    async def _one(self, session: aiohttp.ClientSession) -> None:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Allow access when the user has been verified."}],
            "stream": True,
            "max_tokens": 200,
            "ignore_eos": True,
            "temperature": 1,
        }
        while not self._stop.is_set():
            async with session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                last = None
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        now = time.monotonic()
                        if last is not None:
                            self.gaps.append((now, (now - last) * 1000))
                        last = now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rate", type=float, default=8, help="requests per second during the switches: two vLLMs on two cores answer some 15"
    )
    parser.add_argument("--away", type=float, default=600, help="seconds for which the operator is away under load")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=f"by comma; default {','.join(PARTS)}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts: no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    chosen = settings.requested(None, None, None)
    with cluster.locked(chosen):
        cluster.up_node(chosen, [])
    install.install(chosen, images.ensure_images(["operator", "trainer", "serving", "vllm-cpu"], load=True))
    if {"switches", "away"} & set(options.parts):
        with shop_of(chosen, "e2e-world") as shop:
            small_adapters(shop)
            if "switches" in options.parts:
                write(switches(shop, options.rate))
            if "away" in options.parts:
                write(operator_away(shop, options.away))
    if "large" in options.parts:
        with shop_of(chosen, "e2e-world") as shop:
            write(large_adapter(shop))
    result = json.loads(RESULT.read_text())
    for name, value in result.items():
        print(f"{name:<40} {value}")
    return 0 if kept(result) else 1


def write(found: dict[str, Any]) -> None:
    """Keep what a part found as soon as it is there, beside what other parts found."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    machine = {"cpus": os.cpu_count(), "load_after": round(os.getloadavg()[0], 1)}
    RESULT.write_text(json.dumps(known | found | {"replicas": 2, "gateways": 2, "machine": machine}, indent=1) + "\n")


def kept(result: dict[str, Any]) -> bool:
    """Whether every promise with a bound was measured, now or before, and kept."""
    nothing = ("failed_requests", "mixed_answers", "operator_away_failed_requests", "revisions_not_reached")
    bounds = dict.fromkeys(nothing, 0.0) | {"slowest_replica_ms": SWITCHED_WITHIN_MS, "agent_adds_seconds": AGENT_ADDS_SECONDS}
    broken = {name: result.get(name, "not measured") for name, bound in bounds.items() if result.get(name, math.inf) > bound}
    for name, found in broken.items():
        print(f"NOT KEPT: {name} is {found}, at most {bounds[name]:g} is promised")
    return not broken


@contextmanager
def shop_of(chosen: settings.Settings, world: str) -> Iterator[Shop]:
    """A namespace of its own, gone at the end: two endpoints at a time are too much for a small machine."""
    place = chosen.cache / world
    subprocess.run([sys.executable, "-m", "world", "--out", str(place)], check=True, cwd=ROOT / "examples" / "dsl")
    keys = s3.credentials(chosen)
    store = Minio(s3.endpoint(chosen).removeprefix("http://"), keys.access_key, keys.secret_key, secure=False)
    shop = Shop(install.Tools(chosen), store, chosen, place)
    try:
        yield shop
    finally:
        shop.tools.run("kubectl", "delete", "namespace", shop.name, "--timeout=400s")


def small_adapters(shop: Shop) -> None:
    """Open the endpoint with two adapters loaded, the first serving."""
    place = new_folder(shop)
    shop.open(*train(shop.world, place / "first"), place / "packages")
    shop.add("first", packages.Package(shop.good, shop.folder / "first"))
    other, _ = train(shop.world, place / "second", shop.signer, rows=320)
    shop.add("second", packages.Package(other, shop.folder / "second"))
    for name in ("first", "second"):
        shop.adapter(name, {"Loaded"})
    shop.pin(dsl={"adapter": "first"})
    shop.serves("dsl", "first")
    shop.questions = shop.telling_questions()


def new_folder(shop: Shop) -> Path:
    place: Path = shop.chosen.cache / "bench-switch" / uuid.uuid4().hex[:8]
    place.mkdir(parents=True)
    return place


def switches(shop: Shop, rate: float) -> dict[str, Any]:
    """Back and forth under load: what fails, what is mixed, and how long until the slowest gateway routes by the new revision."""
    pinned = []
    with Load(shop, rate=rate) as load, Watching(shop) as watching:
        time.sleep(3)
        for number in range(SWITCHES):
            adapter = ("second", "first")[number % 2]
            pinned.append(time.time())
            shop.pin(dsl={"adapter": adapter})
            shop.serves("dsl", adapter)
            time.sleep(1)
    seconds, missed = watching.slowest()
    whole = [watching.reached_after(moment) for moment in pinned]
    adapters = sorted(load.served() - {"base"})
    assert len(adapters) == 2, f"served by {adapters}"
    assert load.tells_apart(*adapters), "a mix of the two could not be seen"
    return {
        "requests": sum(load.outcomes.values()),
        "requests_per_second": rate,
        "failed_requests": load.failed(),
        "mixed_answers": load.mixed(),
        "versions_seen": len(adapters),
        "switches": len(seconds),
        "slowest_replica_ms": round(max(seconds) * 1000, 1),
        "median_replica_ms": round(statistics.median(seconds) * 1000, 1),
        "revisions_not_reached": missed,
        "pin_to_slowest_replica_ms": round(max(whole) * 1000, 1),
    }


class Watching:
    """When each revision was written, and when each gateway routes by it: its own words, for whoever asks it all the time slows it down."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.written: dict[int, float] = {}
        self.accepted: list[list[tuple[int, float]]] = []
        """Of each gateway: revisions, and when it had them; seconds since 1970."""
        self._stop = threading.Event()
        self._reading = threading.Thread(target=self._read)

    def __enter__(self) -> Watching:
        self._reading.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._reading.join()
        self.accepted = [self._words(pod["metadata"]["name"]) for pod in self.shop.pods("gateway")]

    def _read(self) -> None:
        """The API server's own watch, in a process of its own."""
        arguments = ["get", "configmap", "prod-routes", "-n", self.shop.name, "--watch", "-o", "jsonpath={.data.routes\\.json}{'\\x1e'}"]
        command = ["kubectl", *arguments]
        with subprocess.Popen(command, env=dict(self.shop.tools.environment()), stdout=subprocess.PIPE) as process:
            threading.Thread(target=lambda: (self._stop.wait(), process.kill()), daemon=True).start()
            assert process.stdout
            text = b""
            while piece := os.read(process.stdout.fileno(), 65536):
                text += piece
                *documents, text = text.split(b"\x1e")
                for document in documents:
                    self.written.setdefault(json.loads(document)["revision"], time.time())

    def _words(self, pod: str) -> list[tuple[int, float]]:
        said = self.shop.tools.run("kubectl", "logs", pod, "-n", self.shop.name).splitlines()
        lines = [json.loads(line) for line in said if '"routes accepted"' in line]
        return [(line["revision"], datetime.fromisoformat(line["time"]).timestamp()) for line in lines]

    def slowest(self) -> tuple[list[float], int]:
        """For each revision, from the first sign that it was written to when the last gateway had it; and how many one never had."""
        found, missed = [], 0
        for revision, seen in sorted(self.written.items())[1:]:
            reached = [next((at for number, at in known if number >= revision), None) for known in self.accepted]
            times = [at for at in reached if at is not None]
            missed += len(times) < len(reached)
            found.append(max(times, default=seen) - min([seen, *times]))
        return found, missed

    def reached_after(self, moment: float) -> float:
        """From a change of the spec to when the last gateway had a newer revision: the operator's part is in it."""
        return max(next((at for _, at in known if at > moment), math.inf) for known in self.accepted) - moment


def large_adapter(shop: Shop) -> dict[str, Any]:
    """From `apply` to loaded on both replicas, beside a plain parallel copy of the same bytes; and what other streams notice."""
    place = new_folder(shop)
    shop.world = wide_world(shop.world, place / "world")
    server = yaml.safe_load((EXAMPLE / "modelendpoint.yaml").read_text())["spec"]["server"] | {"maxLoraRank": RANK}
    server["podTemplate"]["resources"]["limits"]["memory"] = "9Gi"
    shop.open(*large_package(shop.world, place / "large"), place / "packages", STARTED_WITHIN, server=server)
    package, another = (large(packages.Package(shop.good, shop.folder / name)) for name in ("large", "another"))
    (another.path / "README.md").write_text("Another digest.\n")
    for name, made in (("large", package), ("another", another)):
        shop.upload(made.finish(shop.signer), name)
    transfer = copy_seconds(shop, "large")
    loaded, serving, steps = brought(shop, "large", package)
    with Streams(shop.url(), "other", 4) as streams:
        time.sleep(10)
        began = time.monotonic()
        beside, _, steps_beside = brought(shop, "another", another)
        for number in range(6):  # every pod's first use, whichever these go to
            ask(shop.url(), "dsl", f"Rule {number}: allow access when the user has been verified.", max_tokens=2)
        time.sleep(2)
        ended = time.monotonic()
    quiet = [gap for at, gap in streams.gaps if at < began]
    busy = [gap for at, gap in streams.gaps if began <= at <= ended]
    return {
        "adapter_bytes": package.size,
        "s3_transfer_seconds": round(transfer, 2),
        "apply_to_loaded_seconds": round(loaded, 2),
        "apply_to_serving_seconds": round(serving, 2),
        "loaded_to_transfer_ratio": round(loaded / transfer, 2),
        "agent_adds_seconds": round(loaded - transfer, 2),
        "agent_steps_seconds": steps,
        "apply_to_loaded_seconds_beside_streams": round(beside, 2),
        "agent_steps_seconds_beside_streams": steps_beside,
        "other_streams_gap_ms_before": summary(quiet),
        "other_streams_gap_ms_while_loading_and_first_used": summary(busy),
    }


def brought(shop: Shop, name: str, package: packages.Package) -> tuple[float, float, dict[str, float]]:
    """Seconds from `apply` to loaded on both replicas and to serving, and of each step of the agents."""
    began = time.monotonic()
    shop.add(name, package, upload=False)
    status = shop.adapter(name, {"Loaded", "Serving"}, poll=0.02)
    loaded = time.monotonic() - began
    shop.pin(dsl={"adapter": name})
    shop.serves("dsl", name)
    return loaded, time.monotonic() - began, slowest_steps(shop, status["version"])


def slowest_steps(shop: Shop, version: str) -> dict[str, float]:
    """What the agents say of each step; of both replicas the longer one."""
    found: dict[str, float] = {}
    for pod in shop.pods("server"):
        said = shop.tools.run("kubectl", "logs", pod["metadata"]["name"], "-c", "agent", "-n", shop.name).splitlines()
        for line in (json.loads(line) for line in said if '"ready"' in line):
            if line.get("version") == version:
                found |= {step: max(found.get(step, 0.0), seconds) for step, seconds in line["seconds"].items()}
    return found


def operator_away(shop: Shop, seconds: float) -> dict[str, Any]:
    """Requests that fail while no operator runs at all."""
    operator = ("kubectl", "scale", "deployment", "-n", "graft-system", "--all")
    shop.tools.run(*operator, "--replicas=0")
    try:
        with Load(shop, rate=5) as load:
            time.sleep(seconds)
    finally:
        shop.tools.run(*operator, "--replicas=1")
    shop.ready()
    print("\n".join(load.problems[:20]))
    return {
        "operator_away_seconds": seconds,
        "operator_away_requests": sum(load.outcomes.values()),
        "operator_away_failed_requests": load.failed(),
    }


def copy_seconds(shop: Shop, name: str) -> float:
    """Both replicas' bytes, 8 parts at a time each, thrown away: what the store and this machine can do."""
    parts = []
    for entry in shop.store.list_objects(shop.bucket, prefix=f"packages/{name}/", recursive=True):
        parts += [(entry.object_name, offset) for offset in range(0, entry.size or 1, 16 << 20)]

    def fetch(part: tuple[str, int]) -> int:
        answer = shop.store.get_object(shop.bucket, part[0], offset=part[1], length=16 << 20)
        try:
            return sum(len(piece) for piece in answer.stream(1 << 20))
        finally:
            answer.close()
            answer.release_conn()

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(fetch, [*parts, *parts]))
    return time.monotonic() - began


def summary(gaps: list[float]) -> dict[str, float]:
    ordered = sorted(gaps)
    if not ordered:
        return {}
    return {"p50": round(ordered[len(ordered) // 2], 1), "p99": round(ordered[int(len(ordered) * 0.99)], 1), "max": round(ordered[-1], 1)}


if __name__ == "__main__":
    sys.exit(main())
