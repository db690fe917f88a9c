"""
Are the intervals what they say, and how fast are they?

    make bench-statistics            everything, about an hour on one core
    python bench/statistics/run.py --quick                 a tenth of the simulated tests: too few for some of the bounds
    python bench/statistics/run.py --tests 6000            so many; 5,856 are enough where 3.1 % pass falsely, see bounds.tests_needed
    python bench/statistics/run.py --kinds mean speed      parts: kinds of metric, harm, watch, speed; the others stay as they were

Every number comes from the code that production runs. Prints tables and writes bench/results/statistics.json after every part.
Exits with 1 where a bound of bounds.py is missed by what was run, also where that is for want of tests.
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
import watches
from bounds import COVERAGE, FALSE_PASS_UPPER, missed, tests_needed
from looks import CASES, TESTS, false_alarms, hours_until_stopped
from simulation import QUESTIONS, Case, at_margin, cases, confirm, power
from speed import ARRIVING, REPLICATES, ours, pairs, scipys

RESULT = Path(__file__).parents[1] / "results" / "statistics.json"


PARTS = (*QUESTIONS, "harm", "watch", "speed")
QUICK = 10
POWER_TESTS = 2000
"""Two rates on the same data differ by chance by half a point at most."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kinds", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--tests", type=int, help="simulated tests of each row, in place of each kind's own number")
    options = parser.parse_args()
    # scipy warns that one replicate has no interval: it is only timed.
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {}
    for part in options.kinds:
        found = ran(part, options.tests, QUICK if options.quick else 1)
        save(found)
        result = {**result, **found, "kinds": result.get("kinds", {}) | found.get("kinds", {})}
    failed = missed(result)
    print("\n".join(["", *failed]) if failed else "\nall bounds are met")
    sys.exit(1 if failed else 0)


def ran(part: str, tests: int | None, fraction: int) -> dict[str, Any]:
    """Run one part, with so many tests or a fraction of its own number, and return what it adds to the result."""
    if part == "speed":
        return measure()
    if part == "harm":
        return {"harm": harm(tests or TESTS // fraction)}
    if part == "watch":
        return {"watch": watch(tests or watches.TESTS // fraction)}
    return {"kinds": {part: simulate(part, tests or QUESTIONS[part].tests // fraction)}}


def save(found: dict[str, Any]) -> None:
    """Write after every part: a long run that is broken off keeps what it has, and two may run beside each other."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    kinds = result.get("kinds", {}) | found.get("kinds", {})
    ordered = {name: kinds[name] for name in PARTS if name in kinds}
    aside = RESULT.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps({**result, **found, "kinds": ordered}, indent=2) + "\n")
    aside.replace(RESULT)


def simulate(kind: str, tests: int) -> dict[str, Any]:
    """Simulate one kind: coverage and false pass at both roles' margins on each traffic, power on one pair per conversation."""
    print(f"\n{kind}, {tests:,} tests each\n{'traffic':24} {'truth at':18} {'coverage':>9} {'false pass':>11} {'(upper)':>8} without")
    rows: list[dict[str, Any]] = []
    for case in cases(kind):
        confirm(case, 3, np.random.default_rng(2))
        for role, change in (("primary", -case.margin), ("guardrail", case.margin)):
            rows.append(_row(case, role, change, tests, np.random.default_rng([7, len(rows)])))
    power_tests = min(tests, POWER_TESTS)
    shown, reference = power(cases(kind)[0], power_tests, np.random.default_rng(11))
    print(f"power {shown.share:.1%}, reference on the same data {reference.share:.1%}", flush=True)
    return {
        "tests": tests,
        "power_tests": power_tests,
        "coverage": max((row["coverage"] for row in rows), key=lambda share: abs(share - COVERAGE)),
        "false_pass": max(row["false_pass"] for row in rows),
        "false_pass_upper": max(row["false_pass_upper"] for row in rows),
        "power": shown.share,
        "reference_power": reference.share,
        "rows": rows,
    }


def _row(case: Case, role: str, change: float, tests: int, chance: np.random.Generator) -> dict[str, Any]:
    coverage, passed, without = at_margin(case, change, tests, chance)
    rates = f"{coverage.share:9.2%} {passed.share:11.2%} {passed.upper:8.2%}"
    print(f"{case.traffic:24} {role + ' margin':18} {rates} {without or '':>4}", flush=True)
    return {
        "traffic": case.traffic,
        "role": role,
        "without_interval": without,
        "coverage": coverage.share,
        "false_pass": passed.share,
        "false_pass_upper": passed.upper,
        "tests_needed": tests_needed(passed.share, FALSE_PASS_UPPER),
    }


def harm(tests: int) -> dict[str, Any]:
    """Simulate a week of hourly looks."""
    print(f"\nharm, 168 hourly looks, {tests:,} tests each\n{'metric':26} {'truth':22} {'stopped':>8} {'(upper)':>8}")
    rows: list[dict[str, Any]] = []
    for name in CASES:
        for truth, at in (("no difference", 0.0), ("guardrail's margin", 1.0)):
            rate = false_alarms(name, at, tests, 3)
            rows.append({"metric": name, "truth": truth, "stopped": rate.share, "stopped_upper": rate.upper})
            print(f"{name:26} {truth:22} {rate.share:8.2%} {rate.upper:8.2%}", flush=True)
        hours = hours_until_stopped(name, 4.0, 40, 5)
        rows.append({"metric": name, "truth": "four margins worse", "median_hours": hours if np.isfinite(hours) else None})
        print(f"{name:26} {'four margins worse':22} median {hours:.0f} h", flush=True)
    upper = max(row["stopped_upper"] for row in rows if "stopped" in row)
    return {"tests": tests, "rows": rows, "stopped": max(row["stopped"] for row in rows if "stopped" in row), "stopped_upper": upper}


def watch(tests: int) -> dict[str, Any]:
    """Simulate watches of new versions."""
    print(f"\nwatch, {watches.LOOKS:,} looks, {tests:,} watches each\n{'no worse than allowed':36} {'breached':>9} {'(upper)':>8}")
    rows: list[dict[str, Any]] = []
    for name in watches.CASES:
        rate = watches.false_breaches(name, tests)
        rows.append({"case": name, "breached": rate.share, "breached_upper": rate.upper})
        print(f"{name:36} {rate.share:9.2%} {rate.upper:8.2%}", flush=True)
    print(f"\n{'errors on the new version, 1 % before':38} {'share of traffic':>17} {'conversations':>14} {'(9 of 10)':>10}")
    detected: list[dict[str, Any]] = []
    for steps in (watches.WATCH, watches.FIRST):
        for share in watches.DETECTED:
            middle, late = watches.conversations_until(share, steps, max(tests // 10, 10))
            detected.append({"errors": share, "new_share": steps[0][1], "median_conversations": _finite(middle)})
            detected[-1] |= {"p90_conversations": _finite(late)}
            print(f"{share:38.0%} {steps[0][1]:17.0%} {middle:14,.0f} {late:10,.0f}", flush=True)
    upper = max(row["breached_upper"] for row in rows)
    return {"tests": tests, "looks": watches.LOOKS, "breached_upper": upper, "rows": rows, "detected": detected}


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def measure() -> dict[str, Any]:
    """Time a million pairs, alone on one core."""
    count, replicates = 1_000_000, 10
    print(f"\nspeed, {count:,} pairs, 5 metrics, {REPLICATES} replicates, one BLAS thread")
    rows: list[dict[str, Any]] = []
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
