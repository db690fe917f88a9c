"""From a summary to what the verdict reads."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import Comparison, Contrast, Estimate, Exclusion, Limits, MetricReading
from graft_evaluation.paired import harm, heaviest
from graft_evaluation.paired.forecast import hours_to_detect
from graft_evaluation.paired.hashing import poisson_weights
from graft_evaluation.paired.resampling import TooLittleError, Weights, of_bins, of_sums
from graft_evaluation.paired.summary import COLUMNS, FIRST, LATER, PAIRS, Summary

REPLICATES = 1000
MOST_CONTRASTS = next(limit.max_length for limit in Comparison.model_fields["contrasts"].metadata if hasattr(limit, "max_length"))
"""Of one comparison."""


@dataclass(frozen=True)
class Moment:
    """When a summary is read."""

    now: int
    """Seconds since the epoch."""
    hours: float
    """Of observed time so far."""
    idle_seconds: int = Limits().idle_seconds
    """A conversation with nothing new for so long is closed."""
    watched: int | None = None
    """Metrics that are watched for harm in all contrasts together: they share one error. None: as many as in this contrast, in
    as many contrasts as a comparison may have."""


def contrast(summary: Summary, limits: Limits, moment: Moment, replicates: int = REPLICATES) -> Contrast:
    """Return everything that is known of one contrast. Intervals are found only where there are enough conversations, and no heavy one."""
    plan, table = summary.plan, summary.sample.table()
    pairs, clusters, share = int(summary.pairs.sum()), table.distinct(), largest_share(summary)
    refusal = _refusal(limits, clusters, share)
    watched = len(harm.watched(plan)) * MOST_CONTRASTS if moment.watched is None else moment.watched
    harms = harm.read(plan, table, moment.now, moment.idle_seconds, watched)
    weights = poisson_weights(plan.seed, replicates, plan.buckets)
    readings = []
    for index, metric in enumerate(plan.metrics):
        reading = MetricReading(
            metric=metric,
            clusters=measured_conversations(summary, index),
            pairs=int(_pairs(summary, index).sum()),
            missing_incumbent=int(summary.missing[index, 0]),
            missing_candidate=int(summary.missing[index, 1]),
            scorer_failures=summary.tallies.scorer_failures[metric.name],
            transient_failures=summary.tallies.transient_failures[metric.name],
            harm=harms.get(metric.name),
            reason=refusal,
        )
        readings.append(reading if refusal else _estimated(reading, summary, weights, limits, moment.hours))
    return Contrast(
        name=plan.name,
        pairs=pairs,
        first_turn_pairs=int(summary.pairs[FIRST]),
        clusters=clusters,
        clusters_estimated=table.level > 0,
        largest_cluster_share=share,
        exclusions=_exclusions(summary),
        metrics=readings,
    )


def largest_share(summary: Summary) -> float:
    """Return the largest conversation's share of pairs: exactly while all conversations are kept, else the sketch's upper bound."""
    pairs, table = int(summary.pairs.sum()), summary.sample.table()
    if not pairs:
        return 0.0
    largest = int(table.sums[:, 0].max()) if table.level == 0 else heaviest.largest(summary.sketch)
    return min(largest / pairs, 1.0)


def measured_share(summary: Summary, index: int) -> float:
    """
    Return the largest conversation's share of the pairs of one metric.

    Of a proportion or mean it is counted, among the conversations that are kept. Of a quantile it is not known and 0.
    """
    plan, table = summary.plan, summary.sample.table()
    pairs = int(_pairs(summary, index).sum())
    if index not in plan.summed or not pairs or not len(table):
        return 0.0
    return min(int(table.sums[:, 1 + COLUMNS * plan.summed.index(index) + PAIRS].max()) / pairs, 1.0)


def measured_conversations(summary: Summary, index: int) -> int:
    """Return how many conversations have a value of one metric: of a proportion or mean counted, of a sampled quantile estimated."""
    plan, table = summary.plan, summary.sample.table()
    if index in plan.summed:
        return int((table.sums[:, 1 + COLUMNS * plan.summed.index(index) + PAIRS] > 0).sum()) << table.level
    pairs = _pairs(summary, index).sum(axis=0)
    if int(pairs.sum()) == int(summary.pairs.sum()) or pairs.all():
        return table.distinct()
    return min(_conversations(pairs), table.distinct())


def _pairs(summary: Summary, index: int) -> NDArray[np.int64]:
    """Return one metric's pairs, shape [strata, buckets]."""
    plan = summary.plan
    found: NDArray[np.int64]
    if index in plan.summed:
        found = summary.sums[plan.summed.index(index), :, :, PAIRS]
        return found
    found = summary.bins[plan.binned.index(index), :, 0].sum(axis=2, dtype=np.int64)
    return found


def _conversations(pairs: NDArray[np.int64]) -> int:
    """
    Return how many conversations there are by the buckets that they occupy, from pairs of shape [buckets].

    Linear counting: Whang, Vander-Zanden and Taylor 1990, ACM Trans. Database Syst. 15:208. Never more than pairs; where no bucket
    is free there is nothing to count by, and it is the pairs.
    """
    total, occupied = int(pairs.sum()), int((pairs > 0).sum())
    if occupied == len(pairs):
        return total
    return min(round(-len(pairs) * math.log1p(-occupied / len(pairs))), total)


def _refusal(limits: Limits, clusters: int, share: float) -> str | None:
    if clusters < limits.min_clusters:
        return f"{clusters} conversations, {limits.min_clusters} are needed"
    if share > limits.max_cluster_share:
        return f"one conversation is {share:.1%} of the pairs, at most {limits.max_cluster_share:.1%} may be"
    return None


def _estimated(reading: MetricReading, summary: Summary, weights: Weights, limits: Limits, hours: float) -> MetricReading:
    metric = reading.metric
    index = summary.plan.metrics.index(metric)
    if reading.clusters < limits.min_clusters:
        reason = f"{reading.clusters} conversations were measured, {limits.min_clusters} are needed"
        return reading.model_copy(update={"reason": reason})
    share = measured_share(summary, index)
    if share > limits.max_cluster_share:
        reason = f"one conversation is {share:.1%} of the measured pairs, at most {limits.max_cluster_share:.1%} may be"
        return reading.model_copy(update={"reason": reason})
    try:
        overall = _estimate(summary, index, (FIRST, LATER), weights)
    except TooLittleError as little:
        return reading.model_copy(update={"reason": str(little)})
    update = {"overall": overall, "hours_to_detect": hours_to_detect(metric, overall, hours)}
    # Openings are recognised by a hash of what was said: conversations that open alike are one, with many first turns.
    if _conversations(_pairs(summary, index)[FIRST]) >= limits.min_clusters:
        with contextlib.suppress(TooLittleError):
            update["first_turn"] = _estimate(summary, index, (FIRST,), weights)
    return reading.model_copy(update=update)


def _estimate(summary: Summary, index: int, strata: Sequence[int], weights: Weights) -> Estimate:
    plan = summary.plan
    metric = plan.metrics[index]
    if index in plan.binned:
        return of_bins(metric, summary.bins[plan.binned.index(index), list(strata)].sum(axis=0, dtype=np.uint32), weights)
    place = plan.summed.index(index)
    sums, alone = (kept[place, list(strata)].sum(axis=0) for kept in (summary.sums, summary.alone))
    return of_sums(metric, sums, weights, alone)


def _exclusions(summary: Summary) -> list[Exclusion]:
    found = sorted(summary.tallies.exclusions.items())
    return [Exclusion.model_validate({"cause": cause, "side": side, "count": count}) for (cause, side), count in found]
