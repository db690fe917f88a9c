"""Pure: what is known of a criterion, and what follows: met, not met, or unknown, with number and bound."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from graft_api.collect import OBSERVED_HOURS, ObservedReading
from graft_api.criteria import MIN_COVERAGE, Criterion, ObservedCriterion
from graft_api.schema import seconds_of
from graft_api.tuningpolicy import CriterionStatus

Z95 = 1.959963984540054
"""Two-sided 95 %: one end of the interval held against a threshold is a one-sided test at 2.5 %."""
STALE_SECONDS = 3600
"""By which the clocks of collector and operator may differ, and a reading be old."""
MOST_BROKEN = 0.1
"""Of the answers, that a scorer failed on: more, and the others say nothing about all."""
SLACK = 1.01
"""`increase` extrapolates, so that of two counters that are scraped together one may seem to have grown a little more."""


@dataclass(frozen=True)
class Measured:
    """What was found out about one criterion."""

    events: float | None = None
    """Answers that the criterion is about: wrong ones, right ones, or `bad`."""
    total: float | None = None
    value: float | None = None
    """Of a plain query."""
    coverage: float | None = None
    trouble: str = ""
    """Why nothing can be said."""
    fault: bool = False
    """Somebody must act, or something is away; else there is only too little yet."""


@dataclass(frozen=True)
class Evaluation:
    """One reading of all criteria of a policy."""

    at: datetime
    """To the microsecond: by it a launch knows the reading that it was decided by, also from one of another operator."""
    measured: Mapping[tuple[str, str], Measured]
    """By domain and criterion."""


def wilson(events: float, total: float) -> tuple[float, float]:
    """
    Return the 95 % score interval of a share, Wilson 1927 (J. Am. Stat. Assoc. 22:209).

    Counts need not be whole (Prometheus extrapolates). It takes answers for independent: conversations of many turns make it too narrow.
    """
    share = events / total
    shrink = 1 + Z95 * Z95 / total
    centre = (share + Z95 * Z95 / (2 * total)) / shrink
    half = Z95 * math.sqrt(share * (1 - share) / total + Z95 * Z95 / (4 * total * total)) / shrink
    return (0.0 if events == 0 else centre - half), (1.0 if events == total else centre + half)


def judge(criterion: Criterion, measured: Measured) -> CriterionStatus:
    """Hold what was measured against the threshold. Whatever is missing makes it Unknown."""
    if lacks := _lacks(criterion, measured):
        return _status(criterion, measured, "Unknown", lacks)
    if measured.value is not None:
        met = _beyond(criterion, measured.value, measured.value)
        told = f"{measured.value:.6g} over {criterion.window}, a plain number without an interval: it is {_held(criterion, met)}"
        return _status(criterion, measured, "Met" if met else "NotMet", told)
    assert measured.events is not None and measured.total is not None  # noqa: S101, PT018 - else something lacks
    low, high = wilson(measured.events, measured.total)
    met = _beyond(criterion, low, high)
    interval = f"{share(measured.events / measured.total)} [{share(low)}, {share(high)}] of {measured.total:,.0f} over {criterion.window}"
    end = "lower" if criterion.above is not None else "upper"
    told = f"{interval}: the {end} end is {_held(criterion, met)}"
    return _status(criterion, measured, "Met" if met else "NotMet", told, (low, high))


def share(value: float) -> str:
    """Say a share in per cent."""
    return f"{100 * value:.3g} %"


def of_collector(criterion: Criterion, domain: str, reading: ObservedReading | None, now: float) -> Measured:
    """Return what a collector's report says of a criterion. `now`: seconds since 1970."""
    wanted = criterion.observed
    assert wanted is not None  # noqa: S101 - the caller has seen to it
    if reading is None:
        told = "the endpoint's collector tells of no observations: is spec.collector.observe set, and is the collector running?"
        return Measured(trouble=told, fault=True)
    if (apart := abs(now - reading.at)) > STALE_SECONDS:
        told = f"what the collector tells is {apart / 3600:.1f} hours away from now: its store is away, or a clock is wrong"
        return Measured(trouble=told, fault=True)
    place = OBSERVED_HOURS.index(seconds_of(criterion.window) // 3600)
    found = next((counts for counts in reading.counts if (counts.domain, counts.score) == (domain, wanted.score)), None)
    if found is None:
        return Measured(trouble=_not_observed(domain, wanted, reading), fault=True)
    answers, broken = found.answers[place], found.broken[place]
    if broken > MOST_BROKEN * (answers + broken):
        told = f"the scorer failed on {broken:,} of {answers + broken:,} answers over {criterion.window}, at most 10 % may be left out"
        return Measured(total=answers, coverage=reading.covered[place], trouble=told, fault=True)
    wrong = min(found.wrong[place], answers)
    events = wrong if wanted.metric == "error_rate" else answers - wrong
    return Measured(events=events, total=answers, coverage=reading.covered[place])


def _not_observed(domain: str, wanted: ObservedCriterion, reading: ObservedReading) -> str:
    told = f"the endpoint's collector has no score {wanted.score} of domain {domain} that is right or wrong"
    if reading.left_out:
        return f"{told}; {reading.left_out} scores had no room in its report: observe fewer"
    return f"{told}: add it to spec.collector.observe of the ModelEndpoint"


def _lacks(criterion: Criterion, measured: Measured) -> str:
    """Return why nothing can be said, or nothing."""
    if measured.trouble:
        return measured.trouble
    if measured.coverage is None or measured.coverage < MIN_COVERAGE:
        covered = share(measured.coverage or 0.0)
        return f"data of {covered} of the {criterion.window}, at least {share(MIN_COVERAGE)} are needed"
    if measured.total is not None and measured.total < criterion.min_samples:
        return f"{measured.total:,.0f} samples over {criterion.window}, minSamples is {criterion.min_samples:,}"
    if measured.value is None and (measured.events is None or measured.total is None):
        return f"no samples over {criterion.window}, minSamples is {criterion.min_samples:,}"
    return ""


def _beyond(criterion: Criterion, low: float, high: float) -> bool:
    return low > criterion.threshold() if criterion.above is not None else high < criterion.threshold()


def _held(criterion: Criterion, met: bool) -> str:
    side = "above" if criterion.above is not None else "below"
    plain = criterion.promql is not None and criterion.promql.query is not None
    threshold = f"{criterion.threshold():.6g}" if plain else share(criterion.threshold())
    return f"{side} {threshold}" if met else f"not {side} {threshold}"


def _status(
    criterion: Criterion, measured: Measured, result: str, sentence: str, interval: tuple[float, float] | None = None
) -> CriterionStatus:
    value = measured.value
    if value is None and measured.total and measured.events is not None:
        value = measured.events / measured.total
    return CriterionStatus.model_validate(
        {
            "name": criterion.name,
            "result": result,
            "value": value,
            "low": interval[0] if interval else None,
            "high": interval[1] if interval else None,
            "samples": measured.total,
            "coverage": measured.coverage,
            "sentence": sentence[:512],
        }
    )
