"""What it costs production to mirror every request.

    make bench-mirroring

The same requests at the same rate go through graft's gateway without and with its tee, in blocks of off, on, on, off, so that
whatever drifts on this machine cancels. The collector is a sink that is fast, answers each batch after 10 s, or is not there. Beside
it LiteLLM's `silent_model`, at a rate that it holds. Writes bench/results/mirroring.json; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))  # its mock, generator and peers
sys.path.insert(0, str(Path(__file__).parent))

import graft
import peers
from measure import Length, Point, Seen, run
from mirrored import COLLECTORS, Switched, gateway, litellm
from systems import ROOT, Cores, Running, machine, mock

RESULTS = ROOT / "bench" / "results" / "mirroring.json"
CASES = (*COLLECTORS, "litellm")
ORDER = (False, True, True, False)
LIMIT_MS = 0.5


@dataclass(frozen=True)
class Block:
    """Two runs without and two with mirroring, one after the other."""

    off: tuple[Seen, ...]
    on: tuple[Seen, ...]

    def added(self, quantile: str) -> float:
        """Return by how many ms the quantile of latency is higher with mirroring."""
        return mean_of(self.on, quantile) - mean_of(self.off, quantile)


def main() -> None:
    options = parse()
    cores = Cores.separate() if options.pin else Cores()
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs run here (load {busy:.1f}): the bounds will be wide", flush=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        for case in options.cases:
            with mock(Path(temporary), json.dumps(graft.agent_state().to_json()), cores) as direct:
                found[case] = measured(case, direct, options, cores)
    table(found)
    versions = {"graft": graft.GRAFT.version(), "litellm": peers.locked("litellm")}
    write(options.out, found, {"machine": machine(cores, busy), "versions": versions})
    if missed := [case for case in found if case in COLLECTORS and (found[case]["added_p99_ms_upper"] or math.inf) > LIMIT_MS]:
        raise SystemExit(f"the upper bound of what mirroring adds to p99 is above {LIMIT_MS} ms: {', '.join(missed)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(CASES), help=f"by comma; default {','.join(CASES)}")
    parser.add_argument("--blocks", type=int, default=20, help="of four runs each")
    parser.add_argument("--seconds", type=float, default=10, help="measured, of each run")
    parser.add_argument("--warm-up", type=float, default=3, help="not measured, of each run")
    parser.add_argument("--rate", type=int, default=1000, help="requests per second")
    parser.add_argument("--litellm-rate", type=int, default=50, help="likewise; one worker holds some 150 without mirroring")
    parser.add_argument(
        "--queue-mib", type=int, default=16, help="of the tee: small, so that it is full for half of a run with a dead collector"
    )
    parser.add_argument("--pin", action="store_true", help="one core for the system, the others for mock, generator and sink")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"--cases: no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return options


def measured(case: str, direct: Running, options: argparse.Namespace, cores: Cores) -> dict[str, Any]:
    """Return one case's row."""
    rate = options.litellm_rate if case == "litellm" else options.rate
    opened: AbstractContextManager[Switched]
    opened = litellm(direct, cores) if case == "litellm" else gateway(case, direct, options.queue_mib << 20, cores)
    with opened as system:
        seen = list(blocks(case, system, Point(rate, stream=False), options, cores))
        chosen, dropped = system.counts()
    return summary(seen, rate, options.seconds, dropped / max(1, chosen))


def blocks(case: str, system: Switched, point: Point, options: argparse.Namespace, cores: Cores) -> Iterator[Block]:
    length = Length(options.warm_up, options.seconds)
    extra = system.switch(on=False)
    run(system.running, point, length, cores, extra)  # connections, caches: belongs to neither
    for number in range(options.blocks):
        runs: dict[bool, list[Seen]] = {False: [], True: []}
        before = False
        for on in ORDER:
            if on != before:
                extra = system.switch(on=on)
            before = on
            runs[on].append(run(system.running, point, length, cores, extra))
        block = Block(tuple(runs[False]), tuple(runs[True]))
        print(f"{case:8} block {number + 1:2}  p50 {block.added('p50'):+7.3f}  p99 {block.added('p99'):+7.3f} ms", flush=True)
        yield block


def summary(seen: Sequence[Block], rate: int, seconds: float, dropped_share: float) -> dict[str, Any]:
    off, on = ([one for block in seen for one in runs(block)] for runs in (lambda block: block.off, lambda block: block.on))
    p50, p99 = ([block.added(quantile) for block in seen] for quantile in ("p50", "p99"))
    return {
        "rate": rate,
        "blocks": len(seen),
        "seconds": seconds,
        "added_p50_ms": round(statistics.mean(p50), 4),
        "added_p50_ms_upper": upper(p50),
        "added_p99_ms": round(statistics.mean(p99), 4),
        "added_p99_ms_upper": upper(p99),
        "cpu_ms_per_request": cpu(on, seconds),
        "cpu_ms_per_request_off": cpu(off, seconds),
        "dropped_share": round(dropped_share, 5),
        "p99_ms": round(mean_of(on, "p99"), 3),
        "p99_ms_off": round(mean_of(off, "p99"), 3),
        "rss_mib": round(max(one.rss_mib for one in on), 1),
        "failed": sum(one.failed for one in (*off, *on)),
        "achieved_rate": round(statistics.mean(one.load["achieved_rate"] for one in on), 1),
    }


def upper(added: Sequence[float]) -> float | None:
    """Return the one-sided upper 95 % bound of the mean over blocks (Student's t: blocks are independent, runs of one are not)."""
    if len(added) < 2:
        return None
    error = statistics.stdev(added) / math.sqrt(len(added))
    return round(statistics.mean(added) + float(stats.t.ppf(0.95, len(added) - 1)) * error, 4)


def mean_of(runs: Sequence[Seen], quantile: str) -> float:
    return statistics.mean(one.load["latency_ms"][quantile] for one in runs)


def cpu(runs: Sequence[Seen], seconds: float) -> float:
    done = sum(one.load["achieved_rate"] * seconds for one in runs)
    return round(sum(one.cpu_seconds for one in runs) * 1000 / max(1, done), 4)


def table(found: dict[str, Any]) -> None:
    names = ("collector", "rate", "p50", "p99", "p99 upper", "CPU off", "CPU on", "dropped", "RSS MiB", "failed")
    print(f"\nwhat mirroring adds, ms; upper is the 95 % bound, at most {LIMIT_MS} is wanted of graft's; CPU ms per request")
    print("".join(f"{name:>10}" for name in names))
    for case, row in found.items():
        bound = row["added_p99_ms_upper"]
        cells = (
            *(case, row["rate"], f"{row['added_p50_ms']:.3f}", f"{row['added_p99_ms']:.3f}", "-" if bound is None else f"{bound:.3f}"),
            *(f"{row['cpu_ms_per_request_off']:.3f}", f"{row['cpu_ms_per_request']:.3f}", f"{row['dropped_share']:.2%}"),
            *(f"{row['rss_mib']:.0f}", row["failed"]),
        )
        print("".join(f"{cell:>10}" for cell in cells))


def write(path: Path, found: dict[str, Any], about: dict[str, Any]) -> None:
    """Replace the cases that were measured now, and leave the others."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cases": {**known.get("cases", {}), **found}, **about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
