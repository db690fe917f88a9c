"""From what is committed to what the operator reads. Pure, and of committed pairs alone: a restart changes no number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from graft_api.collect import Compare
from graft_api.comparison import Comparison, Limits
from graft_api.tee import Dropped
from graft_evaluation.paired.summary import Summary
from graft_evaluation.pairs import contrasts
from graft_evaluation.report.document import Tally
from graft_serving.collector.commits import Progress, Sum, Total
from graft_serving.collector.comparing import CUT_OFF, INTERNAL, OVERLOAD, SHADOW_AWAY
from graft_serving.collector.numbers import CAME_LATE, NEVER_CAME, NO_LOSS, Numbers
from graft_serving.collector.segments import PairSum

MOST_BROKEN = 32
CAUSES: Mapping[str, str] = {
    Dropped.QUEUE_FULL: "a gateway's queue for the collector was full",
    Dropped.TOO_LARGE: "longer than a whole share of that queue",
    Dropped.COLLECTOR_AWAY: "the collector took nothing for too long",
    Dropped.REFUSED: "the collector refused it for good",
    Dropped.NOT_REPEATABLE: "no loss: asked again, it would act again, or mean something else",
    NEVER_CAME: "numbered by a gateway, and never came: one of the two was killed",
    CAME_LATE: "came more than an hour after its number was given out",
    OVERLOAD: "the shadow took less than came",
    SHADOW_AWAY: "the shadow was away for longer than a request may wait",
    INTERNAL: "a fault of the collector's own; its log has the kind",
    CUT_OFF: "the collector was stopped before the candidate had answered",
}
"""What each cause of a loss means."""


def comparison(compare: Compare, total: Total[Sum], scorers: Mapping[str, str], now: float) -> Comparison:
    """
    Return everything that a verdict is read from. Takes a second or so of CPU.

    `scorers`: metric -> what its author must change. `now`: seconds since 1970.
    """
    sums = {name: cast("PairSum", part).summary for name, part in total.sums.items()}
    found = contrasts.comparison(sums, compare.limits, int(now), total.progress.observed_seconds / 3600)
    told = [*_internal(total.progress, compare.limits), *_invalid(scorers, found, compare.limits)][:MOST_BROKEN]
    # Who is silent is silent at the commit: for minutes after it nobody writes down who was heard.
    return found.model_copy(update={"broken": told, "lost_pairs": lost_pairs(total.progress, total.ended)})


def nothing(compare: Compare) -> Comparison:
    """Return the comparison of a test that nothing was measured in."""
    return contrasts.comparison({name: Summary(plan) for name, plan in contrasts.plans(compare).items()}, compare.limits, 0, 0.0)


def lost(progress: Progress, now: float) -> dict[str, int]:
    """Return what was lost, by cause, of all domains and versions."""
    found = {**Numbers.read(progress.numbers).lost(now)}
    for cause, count in progress.lost.items():
        found[cause] = found.get(cause, 0) + count
    return dict(sorted(found.items()))


def losses(progress: Progress, now: float) -> list[Tally]:
    """Return what was lost, by cause, in words."""
    return [Tally(of=cause, what=CAUSES.get(cause, "a gateway's cause"), count=count) for cause, count in lost(progress, now).items()]


def lost_pairs(progress: Progress, now: float) -> int:
    """
    Return how many requests of this test were lost.

    Nobody knows whose an exchange is that never came: of those this test's share is taken to be its share of those that came.
    """
    unknown = sum(count for cause, count in Numbers.read(progress.numbers).lost(now).items() if cause not in NO_LOSS)
    share = progress.ours / progress.arrived if progress.arrived else 1.0
    return sum(progress.lost.values()) + math.ceil(unknown * share)


def _too_many(failed: int, of: int, limits: Limits) -> bool:
    """One odd request must not end a test of thousands."""
    return of >= limits.min_clusters and failed > limits.max_scorer_failures * of


def _internal(progress: Progress, limits: Limits) -> list[str]:
    count = progress.lost.get(INTERNAL, 0)
    if not _too_many(count, progress.ours, limits):
        return []  # it counts among the lost ones
    return [f"the collector itself failed on {count} requests; its log says where"]


def _invalid(scorers: Mapping[str, str], found: Comparison, limits: Limits) -> list[str]:
    """Return a sentence for each scorer that its author must change, once it has failed on too many pairs."""
    failing = {
        reading.metric.name
        for contrast in found.every()
        for reading in contrast.metrics
        if _too_many(reading.scorer_failures, reading.sampled(), limits)
    }
    return [f"the scorer of {name}: {why}"[:160] for name, why in sorted(scorers.items()) if name in failing]
