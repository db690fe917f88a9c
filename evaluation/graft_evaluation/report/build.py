"""From what was read to the report. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from graft_api.collect import SideLine
from graft_api.comparison import Comparison, Kind, Limits, Metric, Outcome, Verdict
from graft_evaluation.paired.batch import Batch
from graft_evaluation.paired.reading import Moment, contrast
from graft_evaluation.paired.summary import Plan, Summary
from graft_evaluation.pairs.contrasts import INSTRUMENT, PRODUCTION
from graft_evaluation.pairs.recording import IDLE_SECONDS, Recording
from graft_evaluation.report.document import Answer, Histogram, MetricPlots, Period, Report, Tally, WorstPair

HOUR, DAY = 3600, 86_400
MOST_HOURS = 36
"""A longer test is drawn by the day."""
PERIOD_LIMITS = Limits(min_clusters=20, max_cluster_share=1.0)
"""A drawing decides nothing: a stretch may have few conversations, and one that is large."""
PERIOD_REPLICATES = 400
BINS = 24
LONGEST_TEXT = 4000
"""Characters of an answer or request that are shown."""


def report(read: Recording, compared: Comparison, verdict: Verdict, notes: Sequence[str] = ()) -> Report:
    """Return the report of a test. Takes some seconds of CPU for the intervals of each stretch."""
    asked = read.question
    pending = verdict.outcome is Outcome.PENDING
    return Report(
        test=asked.test,
        incumbent=asked.incumbent,
        candidate=asked.candidate,
        first=read.first,
        last=read.last,
        pairs=read.lines,
        limits=asked.limits,
        verdict=verdict,
        comparison=None if pending else compared,
        plots=[] if pending else list(_plots(read)),
        worst=[] if pending else list(_worst(read)),
        endings=_tallies(read.endings),
        scorer_failures=_tallies(read.failures),
        notes=list(notes),
    )


def _plots(read: Recording) -> Iterator[MetricPlots]:
    for name, plan in read.question.plans.items():
        if name == INSTRUMENT:
            continue
        batch = read.batch(name)
        periods = _periods(plan, batch, read.first, read.last)
        for index, metric in enumerate(plan.metrics):
            yield MetricPlots(
                contrast=name,
                metric=metric,
                periods=periods[index],
                histogram=histogram(metric, batch.incumbent[index], batch.candidate[index]),
            )


def _periods(plan: Plan, batch: Batch, first: int, last: int) -> list[list[Period]]:
    """Return for each metric the stretches in which there were pairs: whole hours or days of UTC."""
    length = HOUR if last - first <= MOST_HOURS * HOUR else DAY
    starts = batch.seconds // length * length
    found: list[list[Period]] = [[] for _ in plan.metrics]
    for start in np.unique(starts).tolist():
        for index, period in enumerate(_stretch(plan, _part(batch, starts == start), start, length)):
            found[index].append(period)
    return found


def _stretch(plan: Plan, batch: Batch, start: int, length: int) -> Iterator[Period]:
    summary = Summary(plan)
    summary.add(batch)
    read = contrast(summary, PERIOD_LIMITS, Moment(start + length + IDLE_SECONDS, length / HOUR), PERIOD_REPLICATES)
    for reading in read.metrics:
        period = Period(start=start, seconds=length, pairs=read.pairs, clusters=reading.clusters)
        if (estimate := reading.overall) is not None:
            update = {"pairs": estimate.pairs, "improvement": estimate.improvement, "low": estimate.low, "high": estimate.high}
            period = period.model_copy(update=update)
        yield period


def _part(batch: Batch, here: NDArray[np.bool_]) -> Batch:
    return Batch(batch.clusters[here], batch.first_turn[here], batch.seconds[here], batch.incumbent[:, here], batch.candidate[:, here])


def histogram(metric: Metric, incumbent: NDArray[np.float64], candidate: NDArray[np.float64]) -> Histogram:
    """Return both sides' values in the same bins; NaN on both sides is a pair that was not sampled."""
    sampled = ~(np.isnan(incumbent) & np.isnan(candidate))
    sides = [values[sampled] for values in (incumbent, candidate)]
    there = [values[np.isfinite(values)] for values in sides]
    edges, logarithmic = _edges(metric, np.concatenate(there))
    # Of a proportion the two values are in the middle of their bins; zeros have no logarithm and go with the smallest.
    bounds = [-0.5, 0.5, 1.5] if metric.kind is Kind.PROPORTION else edges
    counts = [np.histogram(np.clip(values, edges[0], edges[-1]), bounds)[0].tolist() for values in there]
    never = [len(all_of) - len(finite) for all_of, finite in zip(sides, there, strict=True)]
    return Histogram(
        logarithmic=logarithmic,
        edges=edges,
        incumbent=counts[0],
        candidate=counts[1],
        never_incumbent=never[0],
        never_candidate=never[1],
    )


def _edges(metric: Metric, values: NDArray[np.float64]) -> tuple[list[float], bool]:
    if metric.kind is Kind.PROPORTION or not len(values):
        return [0.0, 1.0], False
    low, high = float(values.min()), float(values.max())
    if metric.kind is Kind.QUANTILE and high > 0:
        low = max(float(values[values > 0].min()), high * 1e-6)
        low, high = (low, high) if high > low else (low / 1.1, high * 1.1)
        return np.geomspace(low, high, BINS + 1).tolist(), True
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    return np.linspace(low, high, BINS + 1).tolist(), False


def _worst(read: Recording) -> Iterator[WorstPair]:
    for metric in read.question.plans[PRODUCTION].metrics:
        for found in sorted(read.regressions.get(metric.name, ()), reverse=True):
            line = found.line
            incumbent, candidate = line.values[PRODUCTION][metric.name]
            yield WorstPair(
                metric=metric.name,
                by=found.by if math.isfinite(found.by) else None,
                request_id=line.request_id,
                conversation=line.conversation,
                at=line.at,
                request=None if line.request is None else _shortened(line.request),
                incumbent=_answer(line.production, incumbent),
                candidate=_answer(line.candidate, candidate),
            )


def _answer(side: SideLine, value: float | None) -> Answer:
    finite = value if value is not None and math.isfinite(value) else None
    if side.told is None:
        return Answer(ended=side.ended, seconds=side.seconds, value=finite)
    calls = [f"{name}({arguments})" for name, arguments in side.told.tool_calls or ()]
    return Answer(ended=side.ended, seconds=side.seconds, value=finite, text=_shortened("\n".join([side.told.text, *calls])))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} [{len(text) - LONGEST_TEXT} more characters]"


def _tallies(counts: Counter[tuple[str, str]]) -> list[Tally]:
    return [Tally(of=of, what=what, count=count) for (of, what), count in sorted(counts.items())]
