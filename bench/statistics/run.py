"""
Are the intervals what they say, and how fast are they?

    make bench-statistics            everything, several minutes
    python bench/statistics/run.py --quick          a quarter of the simulated tests
    python bench/statistics/run.py --only speed     one part: speed, harm, or a kind's name; the others stay as they were

Every number comes from the code that production runs. Prints tables and writes bench/results/statistics.json. Exits with 1 where a
bound of bounds.py is missed by what was run.
"""

# ruff: noqa: E402 - one BLAS thread, and that must be said before numpy is imported

from __future__ import annotations

import os

for library in ("OPENBLAS", "OMP", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from bounds import missed
from looks import CASES, false_alarms, hours_until_stopped
from simulation import Case, at_margin, cases, power, power_change
from speed import ARRIVING, REPLICATES, ours, pairs, scipys

RESULT = Path(__file__).parents[1] / "results" / "statistics.json"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--tests", type=int, default=2000)
    options = parser.parse_args()
    tests = options.tests // 4 if options.quick else options.tests
    # scipy warns that one replicate has no interval: it is only timed.
    warnings.simplefilter("ignore")
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    kinds: dict[str, Any] = result.setdefault("kinds", {})
    for kind in dict.fromkeys(case.kind for case in cases()):
        if wanted(options.only, kind):
            kinds[kind] = simulate(kind, [case for case in cases() if case.kind == kind], tests)
            save(result)
    if wanted(options.only, "harm"):
        result["harm"] = watch(tests)
        save(result)
    if wanted(options.only, "speed"):
        result |= measure()
        save(result)
    failed = missed(ran(result, options.only))
    print("\n".join(["", *failed]) if failed else "\nall bounds are met")
    sys.exit(1 if failed else 0)


def ran(result: dict[str, Any], only: list[str]) -> dict[str, Any]:
    """Return the parts of a result that this run measured."""
    part = {"kinds": {name: kind for name, kind in result["kinds"].items() if wanted(only, name)}}
    if wanted(only, "harm"):
        part["harm"] = result["harm"]
    if wanted(only, "speed"):
        part |= {name: result[name] for name in ("pairs_per_second", "ratio_to_scipy")}
    return part


def save(result: dict[str, Any]) -> None:
    """Write after every part: a long run that is broken off keeps what it has."""
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def wanted(only: list[str], part: str) -> bool:
    return not only or part in only


def simulate(kind: str, found: list[Case], tests: int) -> dict[str, Any]:
    """Simulate one kind: coverage and false pass at both roles' margins on each traffic, power on one pair per conversation."""
    # Quantiles need a product of 1,000 replicates with every bin: fewer tests keep the run to minutes.
    tests = tests // 2 if kind.startswith("quantile") else tests
    print(f"\n{kind}, {tests} tests each\n{'traffic':24} {'truth at':18} {'coverage':>9} {'false pass':>11} {'(upper)':>8} without")
    rows = []
    for case in found:
        for role, change in (("primary", -case.margin), ("guardrail", case.margin)):
            chance = np.random.default_rng([7, len(rows)])
            coverage, passed, without = at_margin(case, change, tests, chance)
            row = {
                "traffic": case.traffic,
                "role": role,
                "without_interval": without,
                "coverage": coverage.share,
                "false_pass": passed.share,
            }
            rows.append(row | {"false_pass_upper": passed.upper})
            rates = f"{coverage.share:9.2%} {passed.share:11.2%} {passed.upper:8.2%}"
            print(f"{case.traffic:24} {role + ' margin':18} {rates} {without or '':>4}", flush=True)
    shown, reference = power(found[0], power_change(found[0]), tests // 2, np.random.default_rng(11))
    print(f"power {shown.share:.1%}, reference on the same data {reference.share:.1%}", flush=True)
    return {
        "tests": tests,
        "coverage": max((row["coverage"] for row in rows), key=lambda share: abs(share - 0.95)),
        "false_pass": max(row["false_pass"] for row in rows),
        "false_pass_upper": max(row["false_pass_upper"] for row in rows),
        "power": shown.share,
        "reference_power": reference.share,
        "rows": rows,
    }


def watch(tests: int) -> dict[str, Any]:
    """Simulate a week of hourly looks."""
    tests = tests // 2
    print(f"\nharm, 168 hourly looks, {tests} tests each\n{'metric':26} {'truth':22} {'stopped':>8} {'(upper)':>8}")
    rows = []
    for name in CASES:
        for truth, at in (("no difference", 0.0), ("guardrail's margin", 1.0)):
            rate = false_alarms(name, at, tests, np.random.default_rng(3))
            rows.append({"metric": name, "truth": truth, "stopped": rate.share, "stopped_upper": rate.upper})
            print(f"{name:26} {truth:22} {rate.share:8.2%} {rate.upper:8.2%}", flush=True)
        hours = hours_until_stopped(name, 4.0, 40, np.random.default_rng(5))
        rows.append({"metric": name, "truth": "four margins worse", "median_hours": hours if np.isfinite(hours) else None})
        print(f"{name:26} {'four margins worse':22} median {hours:.0f} h", flush=True)
    return {"tests": tests, "rows": rows, "stopped": max(row["stopped"] for row in rows if "stopped" in row)}


def measure() -> dict[str, Any]:
    """Time a million pairs, alone on one core."""
    count, replicates = 1_000_000, 10
    print(f"\nspeed, {count:,} pairs, 5 metrics, {REPLICATES} replicates, one BLAS thread")
    rows = []
    for per in (1, 3, 5):
        for arriving in (ARRIVING, 65_536):
            found = ours(pairs(count, per, per), arriving)
            total = found.seconds_adding + found.seconds_reading
            rows.append({"pairs_per_cluster": per, "arriving": arriving, "pairs_per_second": count / total})
            rows[-1] |= {"seconds_adding": found.seconds_adding, "seconds_reading": found.seconds_reading}
            print(f"{per} per conversation, {arriving:6} at once: {count / total:12,.0f} pairs/s ({found.seconds_reading:.2f} s to read)")
    best = ours(pairs(count, 1, 1), 65_536)
    ours_seconds = best.seconds_adding + best.seconds_reading
    seconds, _ = scipys(pairs(count, 1, 1), replicates)
    print(f"scipy.stats.bootstrap: {seconds:,.0f} s, extrapolated to {REPLICATES} from {replicates} replicates; here {ours_seconds:.2f} s")
    print(f"ratio {seconds / ours_seconds:,.0f}: by resampling 1,024 groups of conversations instead of a million pairs")
    slowest = min(row["pairs_per_second"] for row in rows)
    return {
        "pairs_per_second": slowest,
        "ratio_to_scipy": seconds / ours_seconds,
        "scipy_replicates_measured": replicates,
        "speed": rows,
    }


if __name__ == "__main__":
    main()
