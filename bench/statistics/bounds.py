"""What the numbers must reach, and which do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COVERAGE, COVERAGE_WITHIN = 0.95, 0.015
FALSE_PASS_UPPER = 0.035
"""Of the one-sided 95 % bound."""
HARM_STOPPED = 0.01
POWER_WITHIN = 0.05
PAIRS_PER_SECOND = 20_000
RATIO_TO_SCIPY = 50


def missed(result: dict[str, Any]) -> list[str]:
    """Return what a result misses, in words; parts that were not run are not missed."""
    return [*_kinds(result.get("kinds", {})), *_others(result)]


def _kinds(kinds: dict[str, Any]) -> Iterator[str]:
    for name, kind in kinds.items():
        if abs(kind["coverage"] - COVERAGE) > COVERAGE_WITHIN:
            yield f"{name}: coverage {kind['coverage']:.2%}, {COVERAGE:.0%} within {COVERAGE_WITHIN:.1%} is wanted"
        if kind["false_pass_upper"] > FALSE_PASS_UPPER:
            yield f"{name}: false passes up to {kind['false_pass_upper']:.2%}, at most {FALSE_PASS_UPPER:.1%} may be"
        if kind["reference_power"] - kind["power"] > POWER_WITHIN:
            yield f"{name}: power {kind['power']:.1%}, the reference has {kind['reference_power']:.1%}"


def _others(result: dict[str, Any]) -> Iterator[str]:
    if "harm" in result and result["harm"]["stopped"] > HARM_STOPPED:
        yield f"harm: {result['harm']['stopped']:.2%} of harmless tests are stopped, at most {HARM_STOPPED:.0%} may be"
    if "pairs_per_second" in result and result["pairs_per_second"] < PAIRS_PER_SECOND:
        yield f"speed: {result['pairs_per_second']:,.0f} pairs/s, {PAIRS_PER_SECOND:,} are wanted"
    if "ratio_to_scipy" in result and result["ratio_to_scipy"] < RATIO_TO_SCIPY:
        yield f"speed: {result['ratio_to_scipy']:.0f} times scipy's, {RATIO_TO_SCIPY} are wanted"
