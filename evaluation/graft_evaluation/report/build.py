"""From what was read to the report. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from graft_api.collect import SideLine
from graft_api.comparison import Comparison, Limits, Outcome, Verdict
from graft_evaluation.paired.reading import Moment, contrast
from graft_evaluation.paired.summary import Summary
from graft_evaluation.pairs.contrasts import INSTRUMENT, PRODUCTION
from graft_evaluation.pairs.recording import Recording
from graft_evaluation.pairs.stretches import HOUR, Stretches
from graft_evaluation.pairs.values import Values
from graft_evaluation.report.document import Answer, Histogram, MetricPlots, Period, Report, Tally, WorstPair

PERIOD_LIMITS = Limits(min_clusters=20, max_cluster_share=1.0)
"""A drawing decides nothing: a stretch may have few conversations, and one that is large."""
PERIOD_REPLICATES = 400


def report(read: Recording, compared: Comparison, verdict: Verdict, notes: Sequence[str] = (), lost: Sequence[Tally] = ()) -> Report:
    """Return the report of a test; `lost`: by cause, where that is known. Takes some seconds of CPU for the intervals of each stretch."""
    asked = read.question
    pending = verdict.outcome is Outcome.PENDING
    return Report(
        test=asked.test,
        incumbent=asked.incumbent,
        candidate=asked.candidate,
        first=read.first,
        last=read.last,
        pairs=max(read.lines, compared.contrasts[0].pairs),
        limits=asked.limits,
        verdict=verdict,
        comparison=None if pending else compared,
        plots=[] if pending else list(_plots(read)),
        worst=[] if pending else list(_worst(read)),
        endings=_tallies(read.endings),
        scorer_failures=_tallies(read.failures),
        lost=list(lost),
        notes=list(notes),
    )


def _plots(read: Recording) -> Iterator[MetricPlots]:
    for name, plan in read.question.plans.items():
        if name == INSTRUMENT:
            continue
        periods = _periods(read.stretches[name])
        for index, metric in enumerate(plan.metrics):
            counts = histogram(read.values[name, metric.name])
            yield MetricPlots(contrast=name, metric=metric, periods=periods[index], histogram=counts)


def _periods(stretches: Stretches) -> list[list[Period]]:
    """Return for each metric the hours or days in which there were pairs."""
    found: list[list[Period]] = [[] for _ in stretches.plan.metrics]
    for start, summary in stretches.sums():
        for index, period in enumerate(_stretch(summary, start, stretches.seconds)):
            found[index].append(period)
    return found


def _stretch(summary: Summary, start: int, length: int) -> Iterator[Period]:
    read = contrast(summary, PERIOD_LIMITS, Moment(start + length, length / HOUR), PERIOD_REPLICATES)
    for reading in read.metrics:
        period = Period(start=start, seconds=length, pairs=read.pairs, clusters=reading.clusters)
        if (estimate := reading.overall) is not None:
            update = {"pairs": estimate.pairs, "improvement": estimate.improvement, "low": estimate.low, "high": estimate.high}
            period = period.model_copy(update=update)
        yield period


def histogram(values: Values) -> Histogram:
    """Return both sides' values in the same bins."""
    edges, (incumbent, candidate) = values.binned()
    return Histogram(
        logarithmic=values.logarithmic and len(incumbent) > 1,
        edges=edges,
        incumbent=incumbent,
        candidate=candidate,
        never_incumbent=values.never[0],
        never_candidate=values.never[1],
    )


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
                request=line.request,
                incumbent=_answer(line.production, incumbent),
                candidate=_answer(line.candidate, candidate),
            )


def _answer(side: SideLine, value: float | None) -> Answer:
    finite = value if value is not None and math.isfinite(value) else None
    return Answer(ended=side.ended, seconds=side.seconds, value=finite, text=None if side.told is None else side.told.text)


def _tallies(counts: Counter[tuple[str, str]]) -> list[Tally]:
    return [Tally(of=of, what=what, count=count) for (of, what), count in sorted(counts.items())]
