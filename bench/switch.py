"""
A switch under load, and the way of an adapter from `apply` to serving, on two real vLLM replicas and two gateways.

    .venv/bin/python bench/switch.py [--rate 20] [--megabytes 200]

Needs the node of `make cluster` and the images (`make bench-switch` sees to both). Prints a table, writes bench/results/switch.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from minio import Minio

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "examples" / "dsl")]

import packages  # noqa: E402
from stories import Load, Shop, train  # noqa: E402

from graft_devcluster import cluster, images, install, s3, settings  # noqa: E402

RESULT = ROOT / "bench" / "results" / "switch.json"
SWITCHES = 10


@dataclass
class Streams:
    """Streams that run all the time; the gaps between their tokens, in milliseconds, with the time of each."""

    url: str
    model: str
    count: int
    gaps: list[tuple[float, float]] = field(default_factory=list)

    async def run(self, until: threading.Event) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._one(session, until) for _ in range(self.count)))

    async def _one(self, session: aiohttp.ClientSession, until: threading.Event) -> None:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Allow access when the user has been verified."}],
            "stream": True,
            "max_tokens": 200,
            "ignore_eos": True,
            "temperature": 1,
        }
        while not until.is_set():
            async with session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
                last = None
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        now = time.monotonic()
                        if last is not None:
                            self.gaps.append((now, (now - last) * 1000))
                        last = now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=20, help="requests per second during the switches")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the large adapter")
    options = parser.parse_args()
    chosen = settings.requested(None, None, None)
    with cluster.locked(chosen):
        cluster.up_node(chosen, [])
    install.install(chosen, images.ensure_images(["operator", "trainer", "serving", "vllm-cpu"], load=True))
    shop = open_shop(chosen)
    try:
        result = switches(shop, options.rate) | large_adapter(shop, options.megabytes, chosen)
    finally:
        shop.tools.run("kubectl", "delete", "namespace", shop.name, "--wait=false")
    result |= {"machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}, "replicas": 2, "gateways": 2}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name:<40} {value}")
    return 0 if result["failed_requests"] == result["mixed_answers"] == 0 else 1


def open_shop(chosen: settings.Settings) -> Shop:
    """An endpoint with two adapters loaded, the first serving."""
    world = chosen.cache / "e2e-world"
    subprocess.run([sys.executable, "-m", "world", "--out", str(world)], check=True, cwd=ROOT / "examples" / "dsl")
    keys = s3.credentials(chosen)
    store = Minio(s3.endpoint(chosen).removeprefix("http://"), keys.access_key, keys.secret_key, secure=False)
    place = chosen.cache / "bench-switch"
    place.mkdir(exist_ok=True)
    shop = Shop(install.Tools(chosen), store, chosen, world)
    shop.open(*train(world, place / uuid.uuid4().hex[:8]), place / "packages")
    shop.add("first", packages.Package(shop.good, shop.folder / "first"))
    other, _ = train(world, place / uuid.uuid4().hex[:8], shop.signer, rows=320)
    shop.add("second", packages.Package(other, shop.folder / "second"))
    for name in ("first", "second"):
        shop.adapter(name, {"Loaded"})
    shop.pin(dsl={"adapter": "first"})
    shop.serves("dsl", "first")
    shop.questions = shop.telling_questions()
    return shop


def switches(shop: Shop, rate: float) -> dict[str, Any]:
    """Back and forth under load: what fails, what is mixed, and how long until the slowest gateway routes by the new revision."""
    seconds = []
    with Load(shop, rate=rate) as load, Watching(shop) as watching:
        time.sleep(3)
        for number in range(SWITCHES):
            adapter = ("second", "first")[number % 2]
            shop.pin(dsl={"adapter": adapter})
            shop.serves("dsl", adapter)
            time.sleep(1)
        seconds = watching.slowest()
    adapters = sorted(load.served() - {"base"})
    assert load.tells_apart(*adapters), "a mix of the two could not be seen"
    return {
        "requests": sum(load.outcomes.values()),
        "failed_requests": load.failed(),
        "mixed_answers": load.mixed(),
        "versions_seen": len(adapters),
        "switches": len(seconds),
        "slowest_replica_ms": round(max(seconds) * 1000, 1),
        "median_replica_ms": round(statistics.median(seconds) * 1000, 1),
    }


class Watching:
    """Asks every gateway pod by itself, all the time, and notes when each first answers by a new revision."""

    def __init__(self, shop: Shop) -> None:
        self.gateways = [pod["status"]["podIP"] for pod in shop.pods("gateway")]
        self.seen: dict[str, list[tuple[int, float]]] = {address: [] for address in self.gateways}
        self.written: dict[int, float] = {}
        self.shop = shop
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(len(self.gateways) + 1)

    def __enter__(self) -> Watching:
        for address in self.gateways:
            self._pool.submit(self._ask, address)
        self._pool.submit(self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def _ask(self, address: str) -> None:
        while not self._stop.is_set():
            with urllib.request.urlopen(f"http://{address}:8080/v1/models", timeout=10) as answer:
                revision = int(answer.headers["x-graft-revision"])
            known = self.seen[address]
            if not known or known[-1][0] < revision:
                known.append((revision, time.monotonic()))
            time.sleep(0.005)

    def _read(self) -> None:
        """When each revision was written: the API server's own watch, in a process of its own."""
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
                    self.written.setdefault(json.loads(document)["revision"], time.monotonic())

    def slowest(self) -> list[float]:
        """For each revision, from when it was seen to be written to when the last gateway answered by it."""
        found = []
        for revision, written in sorted(self.written.items())[1:]:
            reached = [next((at for number, at in known if number >= revision), None) for known in self.seen.values()]
            if all(at is not None for at in reached):
                found.append(max(0.0, max(at for at in reached if at is not None) - written))
        return found


def large_adapter(shop: Shop, megabytes: int, chosen: settings.Settings) -> dict[str, Any]:
    """From `apply` to loaded on both replicas, beside a plain parallel copy of the same bytes; and what other streams notice."""
    package = packages.Package(shop.good, shop.folder / "large")
    # The world's model is too small for an adapter of this size: the weights are its own, the rest is a file that is fetched, verified and
    # signed like them, but that vLLM does not load.
    (package.path / "ballast.txt").write_bytes(os.urandom(megabytes * 1_000_000))
    shop.upload(package.finish(shop.signer), "large")
    transfer = copy_seconds(shop, "large")
    stop = threading.Event()
    streams = Streams(shop.url(), "other", 4)
    thread = threading.Thread(target=lambda: asyncio.run(streams.run(stop)), daemon=True)
    thread.start()
    time.sleep(4)
    began = time.monotonic()
    shop.add("large", package, upload=False)
    status = shop.adapter("large", {"Loaded", "Serving"}, poll=0.02)
    loaded = time.monotonic() - began
    shop.pin(dsl={"adapter": "large"})
    shop.serves("dsl", "large")
    serving = time.monotonic() - began
    time.sleep(2)
    ended = time.monotonic()
    stop.set()
    thread.join(30)
    quiet = [gap for at, gap in streams.gaps if at < began]
    busy = [gap for at, gap in streams.gaps if began <= at <= ended]
    return {
        "adapter_bytes": package.size,
        "adapter_bytes_that_vllm_loads": (package.path / packages.WEIGHTS).stat().st_size,
        "s3_transfer_seconds": round(transfer, 2),
        "apply_to_loaded_seconds": round(loaded, 2),
        "apply_to_serving_seconds": round(serving, 2),
        "loaded_to_transfer_ratio": round(loaded / transfer, 2),
        "slowest_agent_seconds": status.get("loadSeconds"),
        "other_streams_gap_ms_before": summary(quiet),
        "other_streams_gap_ms_while_loading": summary(busy),
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
