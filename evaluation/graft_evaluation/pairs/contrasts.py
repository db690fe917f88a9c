"""
From pair lines to what the verdict reads. Pure.

Whoever has the lines has the summaries: the collector itself adds up what it has written into a line, so that the same function
over committed lines, there or on somebody's laptop, comes to the same state bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from graft_api.collect import Compare, PairLine, Sides
from graft_api.comparison import Comparison, Limits, Metric
from graft_api.measures import HARDWARE
from graft_evaluation.paired import harm
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.hashing import conversation_keys
from graft_evaluation.paired.outcomes import worst
from graft_evaluation.paired.reading import Moment, contrast
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.scorers import TRANSIENT

PRODUCTION, CONTROL, INSTRUMENT = "production", "control", "instrument"
"""Names of the contrasts: production against candidate, both versions on the shadow, production against the shadow's incumbent."""
NEITHER: Sides = (None, None)
"""Sampled, and neither answer came."""


def plans(compare: Compare) -> dict[str, Plan]:
    """Return what is summed, by contrast: hardware only where both sides had the same, all else of production's own answers."""
    hardware = tuple(measured.metric for measured in compare.metrics if measured.measure in HARDWARE)
    quality = tuple(measured.metric for measured in compare.metrics if measured.measure not in HARDWARE)
    return planned(quality, hardware, compare.seed, control=float(compare.control_share) > 0)


def planned(quality: tuple[Metric, ...], hardware: tuple[Metric, ...], seed: int, *, control: bool) -> dict[str, Plan]:
    """Return what is summed; `control`: some requests are asked of the incumbent on the shadow too."""
    found = {PRODUCTION: Plan(PRODUCTION, quality, seed)}
    if control:
        found[INSTRUMENT] = Plan(INSTRUMENT, quality, seed)
        if hardware:
            found[CONTROL] = Plan(CONTROL, hardware, seed)
    return found


def add_lines(summary: Summary, lines: Sequence[PairLine]) -> None:
    """Add what `lines` say of one contrast to its summary."""
    add_tallies(summary, lines)
    batch = batch_of(summary.plan, lines)
    if len(batch):
        summary.add(batch)


def add_tallies(summary: Summary, lines: Sequence[PairLine]) -> None:
    """Add what is left out of one contrast, what scorers failed on, and which values came on neither side."""
    name, rows = summary.plan.name, {metric.name: row for row, metric in enumerate(summary.plan.metrics)}
    for line in lines:
        for metric, why in line.broken.get(name, {}).items():
            summary.fail(metric, transient=why in TRANSIENT)
        for metric, sides in line.values.get(name, {}).items():
            if sides == NEITHER and metric in rows:
                summary.missing[rows[metric]] += 1  # a batch has them as the worst, which does not say that they never came
        if name in line.exclusions:
            summary.exclude(*line.exclusions[name])


def summed(plan: Plan, lines: Sequence[PairLine]) -> Summary:
    """Return the summary of lines alone."""
    summary = Summary(plan)
    add_lines(summary, lines)
    return summary


def comparison(sums: Mapping[str, Summary], limits: Limits, now: int, hours: float) -> Comparison:
    """
    Return what summaries by contrast come to, nothing lost and nothing broken. Takes a second or so of CPU.

    `now`: seconds since 1970. `hours`: of observed time so far.
    """
    moment = Moment(now, hours, limits.idle_seconds, watched([summary.plan for summary in sums.values()]))
    found = {name: contrast(summary, limits, moment) for name, summary in sums.items()}
    return Comparison(contrasts=[found[name] for name in (PRODUCTION, CONTROL) if name in found], instrument=found.get(INSTRUMENT))


def watched(plans: Iterable[Plan]) -> int:
    """Return how many metrics are watched for harm. The instrument is the same model twice, in which there is none to look for."""
    return sum(len(harm.watched(plan)) for plan in plans if plan.name != INSTRUMENT)


def batch_of(plan: Plan, lines: Sequence[PairLine]) -> Batch:
    """Return the pairs of `lines` that belong to a contrast, in their order."""
    present = [line for line in lines if plan.name in line.values]
    values = np.full((2, len(plan.metrics), len(present)), np.nan)
    for row, metric in enumerate(plan.metrics):
        for column, line in enumerate(present):
            sides = line.values[plan.name].get(metric.name)
            if sides is not None:
                # Two absences are not an unsampled pair, which is how two NaN would read.
                values[:, row, column] = worst(metric) if sides == NEITHER else _numbers(sides)
    return Batch(
        clusters=conversation_keys([bytes.fromhex(line.conversation) for line in present]),
        first_turn=np.array([line.first_turn for line in present], dtype=np.bool_),
        seconds=np.array([line.at for line in present], dtype=np.int64),
        incumbent=values[0],
        candidate=values[1],
    )


def _numbers(sides: Sides) -> tuple[float, float]:
    incumbent, candidate = (np.nan if value is None else value for value in sides)
    return incumbent, candidate
