"""From a summary to what the verdict reads."""

import contextlib
import math
from dataclasses import dataclass

import numpy as np

from graft_api.comparison import Contrast, Estimate, Exclusion, Limits, MetricReading
from graft_evaluation.paired import harm, heaviest
from graft_evaluation.paired.forecast import hours_to_detect
from graft_evaluation.paired.hashing import poisson_weights
from graft_evaluation.paired.resampling import TooLittleError, Weights, of_bins, of_sums
from graft_evaluation.paired.summary import FIRST, LATER, PAIRS, Summary

REPLICATES = 1000


@dataclass(frozen=True)
class Moment:
    """When a summary is read."""

    now: int
    """Seconds since the epoch."""
    hours: float
    """Of observed time so far."""
    idle_seconds: int = 1800
    """A conversation with nothing new for so long is closed."""


def contrast(summary: Summary, limits: Limits, moment: Moment, replicates: int = REPLICATES) -> Contrast:
    """Return everything that is known of one contrast. Intervals are found only where there are enough conversations, and no heavy one."""
    plan, table = summary.plan, summary.sample.table()
    pairs, clusters, share = int(summary.pairs.sum()), table.distinct(), largest_share(summary)
    refusal = _refusal(limits, clusters, share)
    harms = harm.read(plan, table, moment.now, moment.idle_seconds)
    weights = poisson_weights(plan.seed, replicates, plan.buckets)
    readings = []
    for index, metric in enumerate(plan.metrics):
        reading = MetricReading(
            metric=metric,
            clusters=measured_conversations(summary, index),
            missing_incumbent=int(summary.missing[index, 0]),
            missing_candidate=int(summary.missing[index, 1]),
            scorer_failures=summary.tallies.scorer_failures[metric.name],
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


def measured_conversations(summary: Summary, index: int) -> int:
    """
    Return how many conversations have a value of one metric.

    Of a proportion or mean they are counted. Of a quantile that is sampled they are estimated from the occupied buckets (linear
    counting: Whang, Vander-Zanden and Taylor 1990, ACM Trans. Database Syst. 15:208).
    """
    plan, table = summary.plan, summary.sample.table()
    if index in plan.summed:
        return int((table.sums[:, 1 + 4 * plan.summed.index(index) + PAIRS] > 0).sum()) << table.level
    pairs = summary.bins[plan.binned.index(index), :, 0].sum(axis=(0, 2))
    occupied = int((pairs > 0).sum())
    if int(pairs.sum()) == int(summary.pairs.sum()) or occupied == plan.buckets:
        return table.distinct()
    return min(round(-plan.buckets * math.log1p(-occupied / plan.buckets)), table.distinct())


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
    try:
        overall = _estimate(summary, index, (FIRST, LATER), weights)
    except TooLittleError as little:
        return reading.model_copy(update={"reason": str(little)})
    update = {"overall": overall, "hours_to_detect": hours_to_detect(metric, overall, hours)}
    # A conversation opens once: first turns are as many conversations as pairs.
    if summary.pairs[FIRST] >= limits.min_clusters:
        with contextlib.suppress(TooLittleError):
            update["first_turn"] = _estimate(summary, index, (FIRST,), weights)
    return reading.model_copy(update=update)


def _estimate(summary: Summary, index: int, strata: tuple[int, ...], weights: Weights) -> Estimate:
    plan = summary.plan
    metric = plan.metrics[index]
    if index in plan.binned:
        return of_bins(metric, summary.bins[plan.binned.index(index), list(strata)].sum(axis=0, dtype=np.uint32), weights)
    return of_sums(metric, summary.sums[plan.summed.index(index), list(strata)].sum(axis=0), weights)


def _exclusions(summary: Summary) -> list[Exclusion]:
    found = sorted(summary.tallies.exclusions.items())
    return [Exclusion.model_validate({"cause": cause, "side": side, "count": count}) for (cause, side), count in found]
