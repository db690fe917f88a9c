"""What a trip wire costs a request: one gateway, its routes now without and now with one, in blocks of off, on, on, off."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import graft
from measure import Length, Point, run
from systems import MODELS, VERSIONS, Cores, Launch, System, free_port, mock, started

from graft_api.dataplane import ROUTES_KEY
from graft_api.routes import HardLimits, Routes, TripWire

ORDER = (False, True, True, False)
POINT = Point(rate=1000, stream=False)
LENGTH = Length(warm_up=2.0, measured=8.0)
LIMITS = HardLimits(latency_seconds="5")


def cost(blocks: int) -> dict[str, float]:
    """Return CPU milliseconds per request without and with a wire on every domain, and the standard error of their difference."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graft-bench-")))
        direct = stack.enter_context(mock(folder, json.dumps(graft.agent_state().to_json()), Cores()))
        (folder / "gateway").mkdir()
        metrics_port, revision = free_port(), 1

        def launch(folder: Path, port: int, mock_port: int) -> Launch:
            plain = graft.launch(folder, port, mock_port)
            return Launch(plain.command, {**plain.environment, "GRAFT_GATEWAY_METRICS_PORT": str(metrics_port)})

        system = System("graft", graft.GRAFT.version, launch)
        running = stack.enter_context(started(system, folder / "gateway", int(direct.url.rsplit(":", 1)[1]), Cores()))
        used: dict[bool, list[float]] = {False: [], True: []}
        for watched in ORDER * blocks:
            revision += 1
            apply(folder / "gateway" / "routes", routes(revision, watched=watched), metrics_port)
            seen = run(running, POINT, LENGTH, Cores())
            assert not seen.failed, f"requests failed: {seen.load['failed']}"
            used[watched].append(1000 * seen.cpu_seconds / (POINT.rate * LENGTH.measured))
    off, on = used[False], used[True]
    spread = (statistics.variance(off) / len(off) + statistics.variance(on) / len(on)) ** 0.5
    return {
        "off_ms": round(statistics.mean(off), 4),
        "on_ms": round(statistics.mean(on), 4),
        "spread_ms": round(spread, 4),
        "runs": len(off) + len(on),
    }


def routes(revision: int, *, watched: bool) -> Routes:
    plain = graft.routes()
    changed = {"revision": revision}
    if watched:
        wires = {model: TripWire(version=VERSIONS[model][1], instead=VERSIONS[model][0], limits=LIMITS) for model in MODELS}
        return plain.model_copy(
            update={**changed, "routes": [route.model_copy(update={"trip_wire": wires[route.domain]}) for route in plain.routes]}
        )
    return plain.model_copy(update=changed)


def apply(folder: Path, wanted: Routes, metrics_port: int) -> None:
    """Write the routes, and wait until the gateway has them."""
    (folder / "new").write_text(json.dumps(wanted.to_json()))
    (folder / "new").replace(folder / ROUTES_KEY)
    says = f'graft_gateway_routes_revision{{epoch="{wanted.epoch}"}} {wanted.revision}'
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as answer:
            if says in answer.read().decode():
                return
        time.sleep(0.1)
    raise SystemExit("the gateway has not taken its routes")
