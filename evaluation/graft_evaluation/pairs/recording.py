"""
All that is kept of pairs while they are read: sums by the hour or day, counts of values, and the few pairs to look at.

It does not grow with the number of pairs, but for one bit of each: a folder, or a store, may hold more than any memory.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from graft_api.collect import PairLine, SideLine, Sides, Told
from graft_api.comparison import Comparison, Contrast, Direction, Kind, Metric
from graft_api.schema import Invalid
from graft_evaluation.paired.batch import REACH
from graft_evaluation.paired.outcomes import Answer, worst
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.pairs.contrasts import INSTRUMENT, PRODUCTION, comparison
from graft_evaluation.pairs.question import Question, answerable
from graft_evaluation.pairs.recorded import Place
from graft_evaluation.pairs.seen import Seen
from graft_evaluation.pairs.stretches import HOUR, Stretches
from graft_evaluation.pairs.unknown import Unknown
from graft_evaluation.pairs.values import Values

CHUNK = 4096
"""Lines that are added up at once, without their content."""
MOST_HOURS = 36
"""A longer test is summed and drawn by the day."""
LONGEST_TEXT = 4000
"""Characters of an answer or request that are kept to be looked at."""
REGRESSIONS = 5
"""Of each metric."""
MOST_REASONS = 32
SIDES = ("production", "candidate", "incumbent")


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
    stretches: dict[str, Stretches]
    """By contrast."""
    values: dict[tuple[str, str], Values]
    """By contrast and metric, of what is drawn."""
    sums: dict[str, Summary] = field(default_factory=dict)
    """Of all pairs, once they are read."""
    seen: Seen = field(default_factory=Seen)
    named: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Contrast -> metrics that any pair names."""
    regressions: dict[str, list[Regression]] = field(default_factory=lambda: defaultdict(list))
    """Metric of production's contrast -> a heap of its worst pairs."""
    endings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(side, how its answer ended) -> pairs."""
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(metric, why its scorer failed) -> pairs."""
    unknown: Unknown = field(default_factory=Unknown)
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
        limits = self.question.limits
        found = comparison(self.sums, limits, self.last + limits.idle_seconds, self.hours)
        found = found.model_copy(update={"lost_pairs": self.question.lost_pairs})
        return _without_forecast(found) if self.question.replayed else found


def _without_forecast(compared: Comparison) -> Comparison:
    contrasts = [_unforecast(contrast) for contrast in compared.contrasts]
    instrument = None if compared.instrument is None else _unforecast(compared.instrument)
    return compared.model_copy(update={"contrasts": contrasts, "instrument": instrument})


def _unforecast(contrast: Contrast) -> Contrast:
    return contrast.model_copy(update={"metrics": [found.model_copy(update={"hours_to_detect": None}) for found in contrast.metrics]})


def recording(asked: Question, pairs: Iterable[tuple[Place, PairLine]], unknown: Unknown | None = None) -> Recording:
    """
    Return everything that pairs say; `unknown` has what their reader did not know.

    Raises `Invalid` for a value that its metric cannot have, and where there are no pairs.
    """
    found = gathered(asked, pairs, unknown)
    if not found.lines:
        raise Invalid(["there are no pairs in these files; name the folder of a test that has run"])
    found.question = answerable(asked, found.named)
    found.stretches = {name: found.stretches[name] for name in found.question.plans}
    found.sums = {name: stretches.total() for name, stretches in found.stretches.items()}
    for exclusion in asked.exclusions:
        found.sums[PRODUCTION].exclude(exclusion.cause, exclusion.side, exclusion.count)
    return found


def gathered(asked: Question, pairs: Iterable[tuple[Place, PairLine]], unknown: Unknown | None = None) -> Recording:
    """Return what pairs say, also where there are none, and without the sum of all. Raises `Invalid` as `recording`."""
    found = Recording(
        asked,
        {name: Stretches(plan) for name, plan in asked.plans.items()},
        {(name, m.name): Values(m) for name, plan in asked.plans.items() if name != INSTRUMENT for m in plan.metrics},
        unknown=unknown or Unknown(),
    )
    fresh = _noted(found, pairs)
    while chunk := list(islice(fresh, CHUNK)):
        _add(found, chunk)
    return found


def _noted(found: Recording, pairs: Iterable[tuple[Place, PairLine]]) -> Iterator[PairLine]:
    """Yield lines that come for the first time, without their content: of a chunk of long ones it is too much to hold."""
    for place, line in pairs:
        if found.seen.add(line.boot, line.number):
            _note(found, _checked(place, line, found.question))
            yield _without_content(line)
        else:
            found.repeated += 1


def _add(found: Recording, chunk: list[PairLine]) -> None:
    for name, stretches in found.stretches.items():
        if found.last - found.first > MOST_HOURS * HOUR:
            stretches.widen()
        batch = stretches.add(chunk)
        for index, metric in enumerate(stretches.plan.metrics):
            if (values := found.values.get((name, metric.name))) is not None:
                values.add(batch.incumbent[index], batch.candidate[index])


def _note(found: Recording, line: PairLine) -> None:
    found.first, found.last = min(found.first, line.at) if found.lines else line.at, max(found.last, line.at)
    found.lines += 1
    found.unknown.note(line, found.question.plans)
    for side in SIDES:
        if (answer := getattr(line, side)) is not None:
            found.endings[side, answer.ended] += 1
    for name, metrics in line.values.items():
        found.named[name] |= metrics.keys()
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
    if len(heap) < REGRESSIONS:
        heapq.heappush(heap, Regression(by, -found.lines, _shortened(line)))
    elif (by, -found.lines) > (heap[0].by, heap[0].order):
        heapq.heapreplace(heap, Regression(by, -found.lines, _shortened(line)))


def worsening(metric: Metric, sides: Sides) -> float:
    """Return by how much the candidate did worse, in the metric's unit; an answer that never came did the worst."""
    incumbent, candidate = (worst(metric) if value is None else value for value in sides)
    if incumbent == candidate:
        return 0.0
    return candidate - incumbent if metric.direction is Direction.LOWER else incumbent - candidate


def _shortened(line: PairLine) -> PairLine:
    """Return a line with as much of its content as is looked at; tool calls stand below an answer's text."""
    update: dict[str, object] = {"production": _side(line.production), "candidate": _side(line.candidate)}
    return line.model_copy(update=update | {"request": None if line.request is None else _short(line.request)})


def _side(side: SideLine) -> SideLine:
    if side.told is None:
        return side
    calls = [f"{name}({arguments})" for name, arguments in side.told.tool_calls or ()]
    return side.model_copy(update={"told": Told(text=_short("\n".join([side.told.text, *calls])))})


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} [{len(text) - LONGEST_TEXT} more characters]"


def _without_content(line: PairLine) -> PairLine:
    told = {name: side.model_copy(update={"told": None}) for name in SIDES if (side := getattr(line, name)) and side.told is not None}
    return line.model_copy(update={**told, "request": None}) if told or line.request is not None else line


def _checked(place: Place, line: PairLine, asked: Question) -> PairLine:
    if asked.strict and (problems := [problem for name in SIDES for problem in _answer_problems(name, getattr(line, name))]):
        raise Invalid([f"{place}: {problem}" for problem in problems])
    for name, plan in asked.plans.items():
        problems = [problem for metric in plan.metrics if (problem := _problem(plan, metric, line))]
        if problems:
            raise Invalid([f"{place}: values.{name}.{problem}" for problem in problems])
    return line


def _answer_problems(name: str, side: SideLine | None) -> Iterator[str]:
    if side is None:
        return
    if side.ended not in {answer.value for answer in Answer}:
        yield f"{name}.ended: {side.ended!r} is none of {', '.join(Answer)}"
    for field_name, seconds in (("seconds", side.seconds), ("firstByteSeconds", side.first_byte_seconds)):
        if seconds is not None and not 0 <= seconds < math.inf:
            yield f"{name}.{field_name}: {seconds:g} is no time that an answer can take"


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
