"""The short form of `make bench-statistics`: the same simulation with few tests, and what it is held against."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

BENCH = Path(__file__).parents[4] / "bench" / "statistics"
KINDS = {
    "proportion": 100,
    "relative proportion": 100,
    "rare proportion": 50,
    "rare relative proportion": 40,
    "mean": 100,
    "relative mean": 100,
    "mean, rare worst": 40,
    "relative mean, rare worst": 40,
    "quantile 0.5": 16,
    "quantile 0.95": 16,
    "quantile 0.95 in seconds": 16,
}
"""Simulated tests of each, so that all of them take a second."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """Modules of the benchmark by name, which is no package."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    names = ("bounds", "traffic", "simulation", "looks")
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(BENCH))
        for name in set(names) - before:
            del sys.modules[name]


def test_every_kind_is_simulated(bench: dict[str, ModuleType]) -> None:
    assert list(KINDS) == list(bench["simulation"].QUESTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_the_truth_and_do_not_pass_at_the_margin(bench: dict[str, ModuleType], kind: str) -> None:
    simulation, tests = bench["simulation"], KINDS[kind]
    plain, _, heavy = simulation.cases(kind)
    simulation.confirm(plain, 1, np.random.default_rng(2))
    for case, change in ((plain, -plain.margin), (heavy, heavy.margin)):
        coverage, passed, without = simulation.at_margin(case, change, tests, np.random.default_rng(17))
        print(f"{kind:26} {case.traffic:22} {change:8g} {coverage.share:8.1%} {passed.share:8.1%} {without}")

        assert without <= 0.05 * tests
        # What 95 % coverage, and 2.5 % at the margin, give in all but one of 10,000 seeds.
        assert coverage.hits >= stats.binom(coverage.tests, 0.95).ppf(1e-4)
        assert passed.hits <= stats.binom(tests, 0.025).ppf(1 - 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_power_is_that_of_what_the_field_uses(bench: dict[str, ModuleType], kind: str) -> None:
    tests = KINDS[kind] * 3 // 5
    ours, reference = bench["simulation"].power(bench["simulation"].cases(kind)[0], tests, np.random.default_rng(11))
    print(f"{kind:26} {ours.share:8.1%} {reference.share:8.1%}")

    # An improvement to be shown in most tests. The same pairs: the two differ in few of them.
    assert reference.hits >= stats.binom(tests, 0.6).ppf(1e-4)
    assert ours.hits >= reference.hits - max(0.05 * tests, 3)


@pytest.mark.parametrize("name", ["proportion", "mean, rare worst"])
def test_looking_only_where_harm_can_be_shown_misses_none(bench: dict[str, ModuleType], name: str) -> None:
    looks = bench["looks"]
    metric, truth, shape = looks.CASES[name]
    stopped = []
    for at in (1.0, 6.0):
        hours = [looks.stopped_at(metric, looks.moved(metric, truth, at), shape, np.random.default_rng(1), every=every) for every in (0, 1)]
        assert hours[0] == hours[1]
        stopped.append(hours[0])

    assert stopped[0] is None
    assert stopped[1] is not None


def a_kind(**changed: float) -> dict[str, Any]:
    row = {"traffic": "t", "role": "primary", "coverage": 0.951, "without_interval": 0, "false_pass": 0.025, "false_pass_upper": 0.027}
    kind = {"tests": 20_000, "power": 0.8, "reference_power": 0.81, "rows": [row]}
    for name, value in changed.items():
        (row if name in row else kind)[name] = value
    return {"kinds": {"mean": kind}}


@pytest.mark.parametrize(
    ("result", "says"),
    [
        pytest.param(a_kind(), None, id="all is well"),
        pytest.param(a_kind(coverage=0.934), "coverage 93.40%", id="too little is covered"),
        pytest.param(a_kind(coverage=0.966), "coverage 96.60%", id="or too much"),
        pytest.param(a_kind(coverage=float("nan")), "coverage nan%", id="or no interval was there to cover anything"),
        pytest.param(a_kind(without_interval=1001), "1001 of 20000 tests had no interval", id="or was there too seldom"),
        pytest.param(a_kind(false_pass=0.03, false_pass_upper=0.036), "3,", id="too few tests: so many are needed"),
        pytest.param(a_kind(false_pass=0.04, false_pass_upper=0.043), "at most 3.5% may be", id="too many false passes: none help"),
        pytest.param(a_kind(power=0.75), "power 75.0%", id="less power than the reference"),
        pytest.param({"harm": {"rows": [{"metric": "m", "truth": "t", "stopped": 0.02, "stopped_upper": 0.03}]}}, "up to 3.00%", id="harm"),
        pytest.param({"pairs_per_second": 19_999.0, "ratio_to_scipy": 51.0}, "19,999 pairs/s", id="too slow"),
        pytest.param({"pairs_per_second": 20_001.0, "ratio_to_scipy": 49.0}, "49 times", id="too slow beside scipy"),
    ],
)
def test_what_is_missed_is_said(bench: dict[str, ModuleType], result: dict[str, Any], says: str | None) -> None:
    found = bench["bounds"].missed(result)

    assert len(found) == (says is not None)
    assert says is None or says in found[0]


@pytest.mark.parametrize("share", [0.025, 0.03, 0.032])
def test_so_many_tests_are_needed_for_the_upper_bound(bench: dict[str, ModuleType], share: float) -> None:
    bounds = bench["bounds"]
    needed = bounds.tests_needed(share, 0.035)

    upper = [stats.beta.ppf(0.95, share * tests + 1, tests * (1 - share)) for tests in (needed * 0.98, needed)]
    assert upper[0] > 0.035 >= upper[1]
    assert bounds.tests_needed(0.035, 0.035) is None
