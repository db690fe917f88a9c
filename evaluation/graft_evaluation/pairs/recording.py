"""All that is kept of pairs while they are read: sums, numbers per pair for the drawings, and the few pairs to look at."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from graft_api.collect import PairLine, Sides
from graft_api.comparison import Comparison, Direction, Kind, Metric
from graft_api.schema import Invalid
from graft_evaluation.paired.batch import REACH, Batch
from graft_evaluation.paired.outcomes import worst
from graft_evaluation.paired.reading import Moment
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.pairs.contrasts import PRODUCTION, add_lines, batch_of, comparison
from graft_evaluation.pairs.question import Question, answerable
from graft_evaluation.pairs.recorded import Place

CHUNK = 4096
"""Lines that are added up at once."""
REGRESSIONS = 5
"""Of each metric."""
MOST_REASONS = 32
IDLE_SECONDS = Moment(0, 0.0).idle_seconds


@dataclass(order=True)
class Regression:
    """A pair whose candidate did worse."""

    by: float
    order: int
    """Earlier pairs are greater: of equals the first are kept."""
    line: PairLine = field(compare=False)


@dataclass
class Recording:
    """What was read so far."""

    question: Question
    sums: dict[str, Summary]
    batches: dict[str, list[Batch]] = field(default_factory=lambda: defaultdict(list))
    regressions: dict[str, list[Regression]] = field(default_factory=lambda: defaultdict(list))
    """Metric of production's contrast -> a heap of its worst pairs."""
    endings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(side, how its answer ended) -> pairs."""
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(metric, why its scorer failed) -> pairs."""
    lines: int = 0
    repeated: int = 0
    """Lines with the boot and number of an earlier one: counted once."""
    first: int = 0
    last: int = 0
    """Seconds since 1970."""

    @property
    def hours(self) -> float:
        """From the first pair to the last."""
        return (self.last - self.first) / 3600

    def comparison(self) -> Comparison:
        """Return what a verdict is read from. The recording is over, so every conversation in it is closed."""
        found = comparison(self.sums, self.question.limits, Moment(self.last + IDLE_SECONDS, self.hours))
        return found.model_copy(update={"lost_pairs": self.question.lost_pairs})

    def batch(self, contrast: str) -> Batch:
        """Return all pairs of a contrast."""
        parts = self.batches[contrast] or [batch_of(self.question.plans[contrast], [])]
        return Batch(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("clusters", "first_turn", "seconds")),
            *(np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("incumbent", "candidate")),
        )


def recording(asked: Question, pairs: Iterable[tuple[Place, PairLine]]) -> Recording:
    """Return everything that pairs say. Raises `Invalid` for a value that its metric cannot have, and where there are no pairs."""
    found = Recording(asked, {name: Summary(plan) for name, plan in asked.plans.items()})
    seen: dict[str, set[str]] = defaultdict(set)
    known: set[tuple[str, int]] = set()
    source = iter(pairs)
    while chunk := list(islice(source, CHUNK)):
        _add(found, [_checked(place, line, asked) for place, line in chunk], known, seen)
    if not found.lines:
        raise Invalid(["there are no pairs in these files; name the folder of a test that has run"])
    found.question = answerable(asked, seen)
    found.sums = {name: found.sums[name] for name in found.question.plans}
    for exclusion in asked.exclusions:
        found.sums[PRODUCTION].exclude(exclusion.cause, exclusion.side, exclusion.count)
    return found


def _add(found: Recording, chunk: list[PairLine], known: set[tuple[str, int]], seen: dict[str, set[str]]) -> None:
    lines = []
    for line in chunk:
        if (line.boot, line.number) in known:
            found.repeated += 1
            continue
        known.add((line.boot, line.number))
        lines.append(line)
        _note(found, line, seen)
    for name, summary in found.sums.items():
        add_lines(summary, lines)
        batch = batch_of(summary.plan, lines)
        if len(batch):
            found.batches[name].append(batch)


def _note(found: Recording, line: PairLine, seen: dict[str, set[str]]) -> None:
    found.first, found.last = min(found.first, line.at) if found.lines else line.at, max(found.last, line.at)
    found.lines += 1
    for side in ("production", "candidate", "incumbent"):
        if (answer := getattr(line, side)) is not None:
            found.endings[side, answer.ended] += 1
    for name, metrics in line.values.items():
        seen[name] |= metrics.keys()
    for metrics_broken in line.broken.values():
        for metric, why in metrics_broken.items():
            # Why is free text: beyond so many kinds of it they are one kind.
            key = (metric, why) if (metric, why) in found.failures or len(found.failures) < MOST_REASONS else (metric, "other causes")
            found.failures[key] += 1
    for metric_of in found.question.plans[PRODUCTION].metrics:
        _keep_if_worst(found, metric_of, line)


def _keep_if_worst(found: Recording, metric: Metric, line: PairLine) -> None:
    sides = line.values.get(PRODUCTION, {}).get(metric.name)
    if sides is None or (by := worsening(metric, sides)) <= 0:
        return
    heap = found.regressions[metric.name]
    heapq.heappush(heap, Regression(by, -found.lines, line))
    if len(heap) > REGRESSIONS:
        heapq.heappop(heap)


def worsening(metric: Metric, sides: Sides) -> float:
    """Return by how much the candidate did worse, in the metric's unit; an answer that never came did the worst."""
    incumbent, candidate = (worst(metric) if value is None else value for value in sides)
    if incumbent == candidate:
        return 0.0
    return candidate - incumbent if metric.direction is Direction.LOWER else incumbent - candidate


def _checked(place: Place, line: PairLine, asked: Question) -> PairLine:
    for name, plan in asked.plans.items():
        problems = [problem for metric in plan.metrics if (problem := _problem(plan, metric, line))]
        if problems:
            raise Invalid([f"{place}: values.{name}.{problem}" for problem in problems])
    return line


def _problem(plan: Plan, metric: Metric, line: PairLine) -> str | None:
    for value in line.values.get(plan.name, {}).get(metric.name) or ():
        if value is not None and (why := _impossible(metric, value)):
            return f"{metric.name}: {value:g} {why}"
    return None


def _impossible(metric: Metric, value: float) -> str | None:
    if math.isnan(value):
        return "is no number; write null for an answer that never came"
    if metric.kind is Kind.PROPORTION and value not in (0, 1):
        return "is neither 0 nor 1, as a Proportion's values are; is it a Mean?"
    if metric.kind is Kind.QUANTILE and value < 0:
        return "is negative, and a Quantile is of what never is"
    if metric.kind is Kind.MEAN and not abs(value) <= REACH * metric.resolution:
        return f"is beyond {REACH * metric.resolution:g}; give the metric a coarser resolution"
    return None
