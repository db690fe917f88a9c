"""Pure: what is wrong with the scorers of an endpoint: those that cannot ask whom they must, and those that keep failing."""

from collections.abc import Iterator

from graft_api.collect import CollectorReport, ObservedCounts
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.scorers import Scorer

MOST_BROKEN = 0.1
"""Share of answers: beyond it TuningPolicies do not believe the rest either."""
LEAST = 20
"""Answers and failures of an hour: of fewer nothing is said."""
LAST_HOUR = 0
"""Index into `OBSERVED_HOURS`."""
SHOWN = 3


def unaskable(spec: ModelEndpointSpec) -> str | None:
    """Return the scorers whose token the collector does not get, with field and what to do; None: all get theirs."""
    known = {variable.name for variable in (spec.collector.env if spec.collector else None) or []}
    found = [
        f"spec.{place}.{field} names {token}"
        for place, scorer in _scorers(spec)
        for field, token in scorer.tokens().items()
        if token not in known
    ]
    if not found:
        return None
    more = f" (and {len(found) - SHOWN} more)" if len(found) > SHOWN else ""
    return f"{'; '.join(found[:SHOWN])}{more}, which is not among spec.collector.env: add it there, with a secretKeyRef"


def failing(said: CollectorReport | None) -> str | None:
    """Return the scorers that fail on too many of production's answers; None: none does, as far as is known."""
    counts = said.observed.counts if said and said.observed else []
    found = [f"{one.score} of domain {one.domain}" for one in counts if _fails(one)]
    if not found:
        return None
    more = f" (and {len(found) - SHOWN} more)" if len(found) > SHOWN else ""
    share = f"more than {MOST_BROKEN:.0%} of the answers of the last hour"
    return f"the scorer of {', '.join(found[:SHOWN])}{more} fails on {share}; the collector's log and graft_observed_broken_total say why"


def _fails(counts: ObservedCounts) -> bool:
    answers, broken = counts.answers[LAST_HOUR], counts.broken[LAST_HOUR]
    return answers + broken >= LEAST and broken > MOST_BROKEN * (answers + broken)


def _scorers(spec: ModelEndpointSpec) -> Iterator[tuple[str, Scorer]]:
    for place, observed in enumerate(spec.collector.observe if spec.collector else ()):
        for number, score in enumerate(observed.scores):
            if score.scorer is not None:
                yield f"collector.observe[{place}].scores[{number}].scorer", score.scorer
    for place, domain in enumerate(spec.domains):
        for number, metric in enumerate(domain.promotion.shadow.metrics if domain.promotion else ()):
            if metric.scorer is not None:
                yield f"domains[{place}].promotion.shadow.metrics[{number}].scorer", metric.scorer
