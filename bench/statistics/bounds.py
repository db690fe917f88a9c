"""What the numbers must reach, and which do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from statsmodels.stats.proportion import proportion_confint

COVERAGE, COVERAGE_WITHIN = 0.95, 0.015
FALSE_PASS_UPPER = 0.035
"""Of the one-sided 95 % bound."""
HARM_STOPPED = 0.01
"""Likewise."""
WATCH_BREACHED = 0.01
"""Likewise."""
POWER_WITHIN = 0.05
WITHOUT = 0.05
"""Share of tests in which there is no interval: what the others cover says little where they are few."""
PAIRS_PER_SECOND = 20_000
RATIO_TO_SCIPY = 50


@dataclass(frozen=True)
class Rate:
    """A share of simulated tests."""

    hits: int
    tests: int

    @property
    def share(self) -> float:
        return self.hits / self.tests if self.tests else math.nan

    @property
    def upper(self) -> float:
        """What the truth is at most, at 95 %; 1 where nothing was simulated."""
        return _upper(self.hits, self.tests) if self.tests else 1.0


def tests_needed(share: float, bound: float) -> int | None:
    """Return how many tests put the upper bound of this observed share to `bound`, within a hundredth; None: no number does."""
    if not share < bound:
        return None
    low, high = 0, 1
    while _upper(share * high, high) > bound:
        low, high = high, 2 * high
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if _upper(share * middle, middle) > bound else (low, middle)
    return high


def _upper(hits: float, tests: int) -> float:
    """Return the one-sided 95 % bound of Clopper and Pearson 1934 (Biometrika 26:404)."""
    return float(proportion_confint(hits, tests, alpha=0.10, method="beta")[1])


def missed(result: dict[str, Any]) -> list[str]:
    """Return what a result misses, in words; parts that were not run are not missed."""
    return [*_kinds(result.get("kinds", {})), *_harm(result), *_watch(result), *_speed(result)]


def _kinds(kinds: dict[str, Any]) -> Iterator[str]:
    for name, kind in kinds.items():
        for row in kind["rows"]:
            yield from _row(f"{name}, {row['traffic']}, {row['role']}", row, kind["tests"])
        # Not `>`, here and below: no number at all is a miss.
        if not kind["reference_power"] - kind["power"] <= POWER_WITHIN:
            yield f"{name}: power {kind['power']:.1%}, the reference has {kind['reference_power']:.1%}"


def _row(name: str, row: dict[str, Any], tests: int) -> Iterator[str]:
    if not abs(row["coverage"] - COVERAGE) <= COVERAGE_WITHIN:
        yield f"{name}: coverage {row['coverage']:.2%}, {COVERAGE:.0%} within {COVERAGE_WITHIN:.1%} is wanted"
    if not row["without_interval"] <= WITHOUT * tests:
        yield f"{name}: {row['without_interval']} of {tests} tests had no interval, at most {WITHOUT:.0%} may"
    if not row["false_pass_upper"] <= FALSE_PASS_UPPER:
        yield f"{name}: false passes up to {row['false_pass_upper']:.2%}, {_at_most(row['false_pass'], FALSE_PASS_UPPER)}"


def _harm(result: dict[str, Any]) -> Iterator[str]:
    for row in result.get("harm", {}).get("rows", []):
        if not row.get("stopped_upper", 0.0) <= HARM_STOPPED:
            name, upper = f"harm, {row['metric']}, {row['truth']}", row["stopped_upper"]
            yield f"{name}: up to {upper:.2%} of harmless tests are stopped, {_at_most(row['stopped'], HARM_STOPPED)}"


def _watch(result: dict[str, Any]) -> Iterator[str]:
    for row in result.get("watch", {}).get("rows", []):
        if not row["breached_upper"] <= WATCH_BREACHED:
            told = f"up to {row['breached_upper']:.2%} of versions that are no worse are taken out"
            yield f"watch, {row['case']}: {told}, {_at_most(row['breached'], WATCH_BREACHED)}"
    for row in result.get("watch", {}).get("detected", []):
        if row["p90_conversations"] is None:
            yield f"watch, {row['errors']:.0%} errors: one in ten is not found"


def _at_most(share: float, bound: float) -> str:
    needed = tests_needed(share, bound)
    wanted = f"at most {bound:.1%} may be"
    return wanted if needed is None else f"{wanted}; if {share:.2%} is the truth, {needed:,} tests show it"


def _speed(result: dict[str, Any]) -> Iterator[str]:
    if "pairs_per_second" in result and not result["pairs_per_second"] >= PAIRS_PER_SECOND:
        yield f"speed: {result['pairs_per_second']:,.0f} pairs/s, {PAIRS_PER_SECOND:,} are wanted"
    if "ratio_to_scipy" in result and not result["ratio_to_scipy"] >= RATIO_TO_SCIPY:
        yield f"speed: {result['ratio_to_scipy']:.0f} times scipy's, {RATIO_TO_SCIPY} are wanted"
