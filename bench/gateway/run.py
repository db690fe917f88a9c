"""What the gateway adds to a request, beside what people use instead.

    make bench-gateway

The same requests at the same rate, now straight to a mock model server and now through the gateway, nginx, vLLM's own
router and LiteLLM; the difference is what each adds. Then the same with token streams. Writes bench/results/gateway.json;
README.md says how to read it. `--soak` sends a million requests through the gateway and watches its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graft
import soak
from measure import Length, Point, Seen, run
from peers import PEERS
from systems import ROOT, Cores, Running, System, machine, mock, started

RESULTS = ROOT / "bench" / "results" / "gateway.json"
SYSTEMS = (graft.GRAFT, *PEERS)
HELD = 0.95
"""A system that completes less than this share of what is asked, or fails one request in a hundred, is saturated."""


@dataclass(frozen=True)
class Pair:
    """A run through a system, and what the runs straight to the mock before and after it saw."""

    system: Seen
    direct: tuple[Seen, Seen]

    def added(self, kind: str, quantile: str) -> float:
        return self.system.load[kind][quantile] - statistics.mean(one.load[kind][quantile] for one in self.direct)

    def spread(self, kind: str, quantile: str) -> float:
        """How much the two direct runs differ: an added value below it is noise."""
        before, after = (one.load[kind][quantile] for one in self.direct)
        return abs(before - after)


def main() -> None:
    options = parse()
    cores = Cores.separate() if options.pin else Cores()
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs run here (load {busy:.1f}): added times will be noise, above all p99", flush=True)
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        direct = stack.enter_context(mock(folder, json.dumps(graft.agent_state().to_json()), cores))
        if options.soak:
            outcome = soak.soak(stack.enter_context(started(graft.GRAFT, folder, port_of(direct), cores)), options.soak_requests, cores)
            write(options.out, {"soak": {**outcome, "machine": machine(cores, busy), "versions": {"graft": graft.GRAFT.version()}}})
            if wrong := [name for name in ("requests", "streams") if not outcome[name]["flat"] or outcome[name]["load"]["failed"]]:
                raise SystemExit(f"memory grew, or requests failed: {', '.join(wrong)}")
            return
        chosen = [system for system in SYSTEMS if system.name in options.systems]
        rows = [row for system in chosen for row in measured(system, direct, options, cores)]
    table(rows)
    versions = {system.name: system.version() for system in chosen}
    write(options.out, {"results": rows, "machine": machine(cores, busy), "versions": versions, "method": method(options)})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [system.name for system in SYSTEMS]
    parser.add_argument("--systems", type=lambda text: text.split(","), default=names, help=f"by comma; default {','.join(names)}")
    parser.add_argument("--rates", type=numbers, default=(200, 1000, 2000), help="requests per second, by comma")
    parser.add_argument("--streams", type=numbers, default=(200, 1000), help="concurrent streams, by comma")
    parser.add_argument("--seconds", type=float, default=15, help="measured, of each run")
    parser.add_argument("--rounds", type=int, default=1, help="runs per system and rate; the median counts")
    parser.add_argument("--spacing", choices=("constant", "poisson"), default="constant")
    parser.add_argument("--pin", action="store_true", help="one core for the system, the others for mock and generator")
    parser.add_argument("--soak", action="store_true", help="memory of the gateway over a million requests, and nothing else")
    parser.add_argument("--soak-requests", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.systems) - set(names):
        parser.error(f"--systems: no such system: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options


def numbers(text: str) -> tuple[int, ...]:
    found = tuple(int(each) for each in text.split(",") if each)
    if any(each < 1 for each in found):
        raise argparse.ArgumentTypeError(f"{text}: each must be at least 1; nothing at all leaves them out")
    return found


def measured(system: System, direct: Running, options: argparse.Namespace, cores: Cores) -> Iterator[dict[str, Any]]:
    """Every point of one system, alone on the machine with the mock and the generator."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"graft-bench-{system.name}-")))
        running = stack.enter_context(started(system, folder, port_of(direct), cores))
        for stream, rates in ((False, options.rates), (True, options.streams)):
            saturated = False
            for point in (Point(rate, stream) for rate in rates):
                row = {"system": system.name, "rate": point.rate, "stream": stream}
                if saturated:
                    # It did not hold a lower rate: only queues would grow.
                    row |= {"added_p50_ms": None, "added_p99_ms": None, "saturated": True}
                else:
                    row |= summary(point, list(pairs(running, direct, point, options, cores)), options.seconds)
                    saturated = row["saturated"]
                print(line(row), flush=True)
                yield row


def pairs(running: Running, direct: Running, point: Point, options: argparse.Namespace, cores: Cores) -> Iterator[Pair]:
    # Streams take the first half of the warm-up to start, and the gateway's own connections come up with them.
    length = Length(warm_up=6 if point.stream else 3, measured=options.seconds)
    extra = ("-spacing", options.spacing)
    before = run(direct, point, length, cores, extra)
    for _ in range(options.rounds):
        through = run(running, point, length, cores, extra)
        after = run(direct, point, length, cores, extra)
        yield Pair(through, (before, after))
        before = after


def summary(point: Point, seen: Sequence[Pair], seconds: float) -> dict[str, Any]:
    """One row: added values, or None where the system could not keep up."""
    kind = "delay_ms" if point.stream else "latency_ms"
    saturated = any(not holds(pair, point) for pair in seen)
    row: dict[str, Any] = {"added_p50_ms": None, "added_p99_ms": None, "saturated": saturated}
    done = [pair.system.load["chunks"] if point.stream else pair.system.load["achieved_rate"] * seconds for pair in seen]
    cpu = sum(pair.system.cpu_seconds for pair in seen) * 1000 / max(1, sum(done))
    row["cpu_ms_per_chunk" if point.stream else "cpu_ms_per_request"] = round(cpu, 4)
    if not saturated:
        row |= added("", kind, seen)
        if point.stream:
            row |= added("ttft_", "ttft_ms", seen) | added("gap_", "gap_ms", seen)
    for quantile in ("p50", "p99", "max"):
        row[f"{quantile}_ms"] = median(pair.system.load[kind][quantile] for pair in seen)
    row["direct_p50_ms"] = median(one.load[kind]["p50"] for pair in seen for one in pair.direct)
    row["direct_p99_ms"] = median(one.load[kind]["p99"] for pair in seen for one in pair.direct)
    row["direct_spread_p50_ms"] = median(pair.spread(kind, "p50") for pair in seen)
    row["direct_spread_p99_ms"] = median(pair.spread(kind, "p99") for pair in seen)
    row["achieved_rate"] = median(pair.system.load["chunk_rate" if point.stream else "achieved_rate"] for pair in seen)
    row["ok"] = sum(pair.system.load["ok"] for pair in seen)
    row["failed"] = dict(sum((Counter(pair.system.load["failed"]) for pair in seen), Counter()))
    row["rss_mib"] = round(max(pair.system.rss_mib for pair in seen), 1)
    return row


def holds(pair: Pair, point: Point) -> bool:
    """Whether the system kept up: all requests in time, all streams at the mock's own pace."""
    load = pair.system.load
    if pair.system.failed > 0.01 * max(1, load["ok"] + pair.system.failed):
        return False
    if point.stream:
        # A stream that is slower than its tokens come falls behind by more than one of them.
        return bool(load["chunk_rate"] >= HELD * pair.direct[0].load["chunk_rate"] and load["delay_ms"]["p50"] < 50)
    return bool(load["achieved_rate"] >= HELD * point.rate)


def added(prefix: str, kind: str, seen: Sequence[Pair]) -> dict[str, float]:
    return {f"{prefix}added_{quantile}_ms": median(pair.added(kind, quantile) for pair in seen) for quantile in ("p50", "p99")}


def median(values: Iterator[float]) -> float:
    return round(statistics.median(values), 3)


def line(row: dict[str, Any]) -> str:
    start = f"{row['system']:12} {row['rate']:,} {'streams' if row['stream'] else 'requests/s'}".ljust(31)
    if row["saturated"]:
        reached = f" at {row['achieved_rate']:,.0f}/s, failed: {row['failed'] or 'none'}" if "achieved_rate" in row else ""
        return f"{start} saturated{reached}"
    cpu = row["cpu_ms_per_chunk" if row["stream"] else "cpu_ms_per_request"]
    latency = f"{row['added_p50_ms']:8.2f} {row['added_p99_ms']:8.2f}   ±{row['direct_spread_p99_ms']:5.2f}"
    first = f"   first token {row['ttft_added_p50_ms']:.2f} / {row['ttft_added_p99_ms']:.2f}" if row["stream"] else ""
    return f"{start} {latency} {cpu:10.3f} {row['rss_mib']:8.0f}{first}"


def table(rows: Sequence[dict[str, Any]]) -> None:
    print("\nadded ms per request, or per token of a stream; ± is how much the direct p99 itself moved; CPU ms per request or token")
    print(f"{'system':12} {'load':18} {'p50':>8} {'p99':>8}   {'±p99':>6} {'CPU ms':>10} {'RSS MiB':>8}")
    for row in rows:
        print(line(row))


def method(options: argparse.Namespace) -> dict[str, Any]:
    return {"seconds": options.seconds, "rounds": options.rounds, "spacing": options.spacing, "mock_delay_ms": 10, "tokens_per_second": 20}


def port_of(running: Running) -> int:
    return int(running.url.rsplit(":", 1)[1])


def write(path: Path, found: dict[str, Any]) -> None:
    """Replace what was measured now, and leave what another mode measured."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**kept, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
