"""What a collector does with what it gets: pairs per second, processor time, memory.

    .venv/bin/python bench/mirroring/collector.py

graft's gateway sends every exchange of a domain to the collector's process, which asks a shadow server as a ShadowTest would have it,
measures both answers, and commits the pairs to versitygw. The shadow is fast, takes 10 s for each answer, or is not there. Writes
bench/results/collector.json; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestServer

# The generator, the mock, and what stands for a collector's cluster in the tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "bench/gateway"))
sys.path.insert(0, str(Path(__file__).parents[2] / "bench/mirroring"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests/trainer"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests/unit/serving/collector"))

import graft
import s3world
from collector_process import Cluster, Program, token
from collector_world import committed, settings
from measure import Length, Point, cpu_seconds, rss_mib, run
from mirrored import SLOW_SECONDS, port_of
from programs import program
from systems import MODELS, ROOT, VERSIONS, Cores, Launch, Running, System, free_port, machine, mock, started

from graft_api.collect import CollectorSettings
from graft_api.dataplane import ROUTES_KEY
from graft_api.routes import Arm
from graft_api.tee import Measuring, Tee
from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox
from graft_serving.collector.store import open_store

RESULTS = ROOT / "bench" / "results" / "collector.json"
DOMAIN = MODELS[0]
INCUMBENT, CANDIDATE = VERSIONS[DOMAIN]
SHADOWS = {"fast": 0.01, "slow": SLOW_SECONDS, "dead": None}
"""Seconds to each answer; None: nobody is there."""
EVERYTHING = Measuring(domain=DOMAIN, share=10_000, salt=DOMAIN)
CORES = Cores()
PATIENCE_SECONDS = 60.0


def main() -> None:
    options = parse()
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs run here (load {busy:.1f}): rates will be lower", flush=True)
    rows = []
    for shadow, rates in {"fast": options.rates, "slow": options.rates[:1], "dead": options.rates[:1]}.items():
        for rate in rates:
            rows.append(asyncio.run(measured(shadow, rate, Length(options.warm_up, options.seconds))))
            print(json.dumps(rows[-1]), flush=True)
            document = {"rows": rows, "machine": machine(CORES, busy), "versions": {"graft": graft.GRAFT.version()}}
            options.out.write_text(json.dumps(document, indent=1) + "\n")
    table(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rates",
        type=lambda text: [int(each) for each in text.split(",")],
        default=[100, 200, 1000],
        help="exchanges per second, by comma",
    )
    parser.add_argument("--seconds", type=float, default=60, help="measured, of each run")
    parser.add_argument("--warm-up", type=float, default=5, help="not measured, of each run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


async def measured(shadow: str, rate: int, length: Length) -> dict[str, Any]:
    """Return the row of one collector's life."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graft-bench-"))) for _ in range(4)]
        home, gateway_folder, mock_folder, s3_folder = folders
        s3 = stack.enter_context(s3world.started(Toolbox(cache_root()).path("versitygw"), s3_folder))
        store, credentials = f"s3://{s3.bucket('measured')}/t", s3.credentials(home / "credentials")
        direct = stack.enter_context(mock(mock_folder, json.dumps(graft.agent_state().to_json()), CORES))
        document = told(store, f"127.0.0.1:{stack.enter_context(shadow_server(SHADOWS[shadow]))}")
        async with TestServer(Cluster().application()) as cluster:
            collector = Program(home, str(cluster.make_url("")).rstrip("/"), document, GRAFT_CREDENTIALS_DIRECTORY=str(credentials))
            await collector.start()
            await says(collector, lambda metrics: "graft_compare_commit" in metrics)
            running = stack.enter_context(
                gateway(gateway_folder, direct, Tee(collector=f"127.0.0.1:{collector.port}", domains=[EVERYTHING]))
            )
            seen = await life(collector, running, Point(rate, stream=False), length, to_the_end=shadow == "fast")
            if await collector.end(signal.SIGTERM) != 0:
                raise SystemExit(f"the collector did not end well:\n{(home / 'log').read_text()[-2000:]}")
        compare = document.compare
        assert compare is not None
        _, lines = await asyncio.to_thread(committed, open_store(store, credentials), compare)
        return row(shadow, rate, seen, len(lines))


@dataclass(frozen=True)
class Life:
    """What the collector's process did while exchanges came."""

    seconds: float
    cpu_seconds: float
    rss_mib: list[float]
    metrics: dict[str, float]
    failed_in_production: int


async def life(collector: Program, running: Running, point: Point, length: Length, *, to_the_end: bool) -> Life:
    """`to_the_end`: until it has asked the shadow about all that came, or for as long again."""
    pid = collector.process.pid
    rss = [rss_mib(pid)]

    async def watch() -> None:
        while True:
            rss.append(await asyncio.to_thread(rss_mib, pid))
            await asyncio.sleep(0.5)

    watching = asyncio.ensure_future(watch())
    before, began = cpu_seconds(pid), time.monotonic()
    seen = await asyncio.to_thread(run, running, point, length, CORES, ("-model", DOMAIN))
    if to_the_end:
        with contextlib.suppress(TimeoutError):
            await says(collector, lambda metrics: metrics["graft_compare_waiting"] == 0)
    used, seconds = cpu_seconds(pid) - before, time.monotonic() - began
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return Life(seconds, used, rss, await asyncio.to_thread(sums, collector.health_port), seen.failed)


def row(shadow: str, rate: int, seen: Life, pairs: int) -> dict[str, Any]:
    exchanges = seen.metrics["graft_collector_exchanges_total"]
    return {
        "shadow": shadow,
        "rate": rate,
        "seconds": round(seen.seconds, 1),
        "exchanges": int(exchanges),
        "pairs": pairs,
        "pairs_per_second": round(pairs / seen.seconds, 1),
        "not_compared": {cause: int(count) for cause, count in causes(seen.metrics)},
        "cpu_ms_per_exchange": round(seen.cpu_seconds * 1000 / max(1, exchanges), 3),
        "cores": round(seen.cpu_seconds / seen.seconds, 3),
        "rss_mib_before": round(seen.rss_mib[0], 1),
        "rss_mib_most": round(max(seen.rss_mib), 1),
        "held_mib": round(seen.metrics["graft_collector_held_bytes"] / 2**20, 1),
        "failed_in_production": seen.failed_in_production,
    }


def told(store: str, address: str) -> CollectorSettings:
    """A ShadowTest of four metrics, everything else by default."""
    return settings(
        store,
        address,
        domain=DOMAIN,
        incumbent=INCUMBENT,
        candidate=CANDIDATE,
        shadow={"concurrency": 16, "timeoutSeconds": 300},
        segments={"seconds": 10},
    )


@contextmanager
def shadow_server(delay: float | None) -> Iterator[int]:
    """The port of a server that answers each request after so long."""
    port = free_port()
    if delay is None:
        yield port
        return
    child = subprocess.Popen([str(program("mock")), "-listen", f"127.0.0.1:{port}", "-delay", f"{delay}s"])
    try:
        yield port
    finally:
        child.terminate()
        child.wait()


@contextmanager
def gateway(folder: Path, direct: Running, tee: Tee) -> Iterator[Running]:
    """The gateway, with everything on the incumbent, and a tee."""
    routes = graft.routes()
    (asked, *_) = routes.routes
    asked = asked.model_copy(update={"arms": [Arm(version=INCUMBENT, weight=10_000)]})

    def launch(folder: Path, port: int, mock_port: int) -> Launch:
        plain = graft.launch(folder, port, mock_port)
        teed = routes.model_copy(update={"routes": [asked, *routes.routes[1:]], "tee": tee})
        (folder / "routes" / ROUTES_KEY).write_text(json.dumps(teed.to_json()))
        (folder / "collector-token").write_text(token())
        return Launch(plain.command, {**plain.environment, "GRAFT_GATEWAY_COLLECTOR_TOKEN": str(folder / "collector-token")})

    with started(System("graft", graft.GRAFT.version, launch), folder, port_of(direct), CORES) as running:
        yield running


async def says(collector: Program, what: Callable[[dict[str, float]], bool]) -> None:
    """Wait until its metrics are like that."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(OSError, KeyError):  # not up yet
                if what(await asyncio.to_thread(sums, collector.health_port)):
                    return
            await asyncio.sleep(0.2)


def sums(port: int) -> dict[str, float]:
    """Return what a process says in metrics: each series, and the sum over all labels under its bare name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            for name in {series, series.partition("{")[0]}:
                found[name] = found.get(name, 0.0) + float(value)
    return found


def causes(metrics: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Why exchanges were not compared, and how many."""
    for name, value in metrics.items():
        if name.startswith("graft_compare_lost_total{") and value:
            yield name.split('"')[1], value
    if missing := metrics["graft_compare_missing"]:
        yield "never-came", missing


def table(rows: Sequence[dict[str, Any]]) -> None:
    names = ("shadow", "rate", "exchanges", "pairs/s", "CPU ms", "cores", "RSS MiB", "most")
    print("\nof the collector's process: CPU ms per exchange, cores in use, memory at the start and at most")
    print("".join(f"{name:>11}" for name in names) + "  not compared")
    for one in rows:
        cells = (
            *(one["shadow"], one["rate"], one["exchanges"], one["pairs_per_second"], f"{one['cpu_ms_per_exchange']:.2f}"),
            *(f"{one['cores']:.2f}", f"{one['rss_mib_before']:.0f}", f"{one['rss_mib_most']:.0f}"),
        )
        left = ", ".join(f"{cause} {count}" for cause, count in one["not_compared"].items())
        print("".join(f"{cell:>11}" for cell in cells) + f"  {left or '-'}")


if __name__ == "__main__":
    main()
