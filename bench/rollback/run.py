"""How fast a bad version is out of service: by the operator's routes, or its successor's, and by each gateway's own hard limits.

    make bench-rollback

Three gateways as processes, a mock model server, 500 requests per second in an open loop; and, by itself, the operator's process, killed
and started again beside a real API server. Writes bench/results/rollback.json;
README.md says how to read it. `--parts` measures some of it, and leaves the rest of the file as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))  # its mock and generator
sys.path.insert(0, str(Path(__file__).parent))

import graft
from cost import cost
from fleet import NEW, REPLICAS, Asked, Fleet, fleet, load
from leadership import leadership
from measure import await_event
from systems import ROOT, Cores, machine

from graft_api.routes import HardLimits

RESULTS = ROOT / "bench" / "results" / "rollback.json"
RATE = 500.0
LEAST_ROLLBACKS = 30
LIMITS = HardLimits()
"""The defaults: errors beyond 0.1 of at least 20 requests, in 30 s."""
RATES = {"0.1": HardLimits(error_share="0.05"), "0.5": LIMITS, "1.0": LIMITS}
"""Error rates, and the limits that they are beyond: 10 % are not beyond the default."""
PROMISED_MS = 1000.0
PROMISED_LOCALLY_MS = 2000.0

Found = dict[str, Any]


def main() -> None:
    options = parse()
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs run here (load {busy:.1f}): the highest values will be theirs", flush=True)
    kept: Found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in options.parts:
        found = PARTS[part](options)
        kept = {**kept, **{name: {**kept.get(name, {}), **value} if isinstance(value, dict) else value for name, value in found.items()}}
    kept |= {"requests_per_second": RATE, "machine": machine(Cores(), busy), "versions": {"graft": graft.GRAFT.version()}}
    table(kept)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(kept, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=f"by comma, of {','.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=90, help="of roll-backs, one after the other")
    parser.add_argument("--trips", type=int, default=20, help="how often a version is bad from its first request")
    parser.add_argument("--rounds", type=int, default=2, help="how often an error rate is detected; each gives a value per gateway")
    parser.add_argument("--blocks", type=int, default=2, help="of runs without and with a trip wire, for its cost")
    parser.add_argument("--kills", type=int, default=25, help="how often the operator is killed between ledger and routes")
    parser.add_argument("--beside", type=int, default=10, help="endpoints that its successor looks at as well")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts: no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return options


def rollbacks(options: argparse.Namespace) -> Found:
    """The new version serves well, and is rolled back all the same: whatever fails, fails for the switch."""
    late, chance = [], Random(1)  # noqa: S311 - spreads decisions over time
    with fleet() as target, load(target, RATE, options.seconds) as generator:
        until = time.monotonic() + options.seconds - 3
        while time.monotonic() < until:
            late.append(rolled_back(target, chance))
        result = await_event(generator, "result")
    assert len(late) >= LEAST_ROLLBACKS, f"{len(late)} roll-backs are too few: raise --seconds"
    return {
        "decision_to_last_bad_ms": quantiles(late),
        "failed_requests": sum(result["failed"].values()),
        "rollbacks": {"count": len(late), "requests": result["sent"], "lag_p99_ms": result["lag_ms"]["p99"]},
    }


def rolled_back(target: Fleet, chance: Random) -> float:
    """Return how many milliseconds after the decision the last request started on the version; 0 if none did."""
    target.trouble({})
    target.activate(LIMITS)
    target.until_asked(20)
    time.sleep(chance.random() * 0.2)
    decided = target.roll_back()
    return max(0.0, max(one.last_started for one in target.until_stopped()) - decided) / 1e6


def trips(options: argparse.Namespace) -> Found:
    """The new version fails from its first request on, and there is no operator. One value per gateway and trip."""
    late: list[float] = []
    with fleet() as target, load(target, RATE, options.trips * 4.0 + 10):
        for _ in range(options.trips):
            target.settle({NEW: 1.0})
            target.activate(LIMITS)
            target.until_asked(LIMITS.min_requests)
            late += map(after_the_limit, target.until_stopped())
    return {"local_trip_ms": {**quantiles(late), "count": len(late)}}


def after_the_limit(asked: Asked) -> float:
    """
    Return how many milliseconds after the answer that is beyond the limit the last request started; 0 if none did.

    All answers are bad, so that is the first one of which there are enough to conclude anything.
    """
    return max(0.0, asked.last_started - sorted(asked.bad_answered)[LIMITS.min_requests - 1]) / 1e6


def detection(rate: str) -> Callable[[argparse.Namespace], Found]:
    """
    Return the part in which a version begins to fail at this rate, after a whole window in which it was good, and from its first request.

    Of all gateways the last counts; of the rounds the median.
    """

    def measured(options: argparse.Namespace) -> Found:
        limits, late, early = RATES[rate], [], []
        seconds = options.rounds * (LIMITS.window_seconds + 60.0)
        with fleet() as target, load(target, RATE, seconds):
            for _ in range(options.rounds):
                early.append(detected(target, limits, float(rate), after=0.0))
                late.append(detected(target, limits, float(rate), after=limits.window_seconds + 1.0))
        return {"detection_seconds": {rate: middle(late)}, "detection_from_start_seconds": {rate: middle(early)}}

    return measured


def detected(target: Fleet, limits: HardLimits, rate: float, after: float) -> float:
    """Return the seconds from the first bad request of each gateway to the last one that it sent to the version; of all, the longest."""
    target.settle({} if after else {NEW: rate})
    target.activate(limits)
    if after:
        time.sleep(after)
        target.trouble({NEW: rate})
    target.until_asked(1)
    return max((one.last_started - min(one.bad_started)) / 1e9 for one in target.until_stopped())


def successions(options: argparse.Namespace) -> Found:
    """The operator is killed between the ledger that rolls a version back and the routes. One value per kill."""
    late = leadership(options.kills, options.beside)
    return {"leadership_to_completed_ms": {**quantiles(late), "count": len(late), "endpoints": options.beside + 1}}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """By the nearest rank."""
    ordered = sorted(values)
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[max(1, math.ceil(share * len(ordered))) - 1], 2) for name, share in ranks.items()}


def middle(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)


def table(found: Found) -> None:
    print(f"\n{RATE:.0f} requests/s over {REPLICAS} gateways, {LIMITS.window_seconds} s window")
    if "rollbacks" in found:
        count = f"{found['rollbacks']['count']} roll-backs, {found['failed_requests']} failed requests"
        print(line("decision to last request on the bad version", found["decision_to_last_bad_ms"], PROMISED_MS, count))
    if "local_trip_ms" in found:
        late = found["local_trip_ms"]
        print(line("beyond the limit to last request on it", late, PROMISED_LOCALLY_MS, f"{late['count']} trips"))
    if "leadership_to_completed_ms" in found:
        late = found["leadership_to_completed_ms"]
        print(line("lease acquired to routes completed", late, PROMISED_MS, f"{late['count']} kills, {late['endpoints']} endpoints"))
    for rate, seconds in sorted(found.get("detection_seconds", {}).items()):
        early = found["detection_from_start_seconds"][rate]
        share = f"{float(rate):.0%} errors, limit {RATES[rate].error_share}"
        print(f"{share:24} detected after {seconds:.1f} s; if bad from the start, after {early:.1f} s")
    if "trip_wire_cpu" in found:
        cpu = found["trip_wire_cpu"]
        print(f"CPU ms per request: {cpu['off_ms']:.4f} without, {cpu['on_ms']:.4f} with a trip wire (± {cpu['spread_ms']:.4f})")


def line(what: str, late: dict[str, float], most: float, count: str) -> str:
    values = "  ".join(f"{name} {late[name]:6.1f}" for name in ("p50", "p99", "max"))
    return f"{what + ', ms':50} {values}   {'' if late['max'] <= most else 'NOT '}within {most:.0f} ms; {count}"


def trip_wire_cost(options: argparse.Namespace) -> Found:
    return {"trip_wire_cpu": cost(options.blocks)}


PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "rollback": rollbacks,
    "trip": trips,
    **{rate: detection(rate) for rate in RATES},
    "cpu": trip_wire_cost,
    "leadership": successions,
}


if __name__ == "__main__":
    main()
