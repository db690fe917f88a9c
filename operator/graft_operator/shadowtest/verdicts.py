"""Pure: the verdict of what the collector reported, as it is written down, once."""

import hashlib
from datetime import datetime
from typing import Literal

from graft_api.collect import CollectorReport
from graft_api.comparison import Clock, Comparison, Outcome, Role, Verdict
from graft_api.schema import canonical_json, seconds_of
from graft_api.shadowtest import ResolvedTest, ShadowTestSpec, VerdictStatus
from graft_evaluation.verdict import verdict
from graft_operator.engine.clock import rfc3339

MOST = 64
"""Metrics and exclusions that a status holds; a report has all."""

Ended = Literal["Passed", "Failed", "Inconclusive", "Error"]
OUTCOMES: dict[Outcome, Ended] = {
    Outcome.PASSED: "Passed",
    Outcome.FAILED: "Failed",
    Outcome.INCONCLUSIVE: "Inconclusive",
    Outcome.ERROR: "Error",
}
"""Outcomes that end a test, as phases."""


def read(report: CollectorReport, comparison: Comparison, spec: ShadowTestSpec, resolved: ResolvedTest, *, switched: bool) -> Verdict:
    """Return the verdict at this point of the test; its outcome is Pending as long as it is not to be read."""
    clock = Clock(
        elapsed=report.observed_hours,
        duration=seconds_of(spec.duration) / 3600,
        max_duration=seconds_of(resolved.max_duration) / 3600,
        incumbent_switched=switched,
    )
    return verdict(comparison, spec.limits, clock)


def record(
    said: Verdict, report: CollectorReport, comparison: Comparison, spec: ShadowTestSpec, resolved: ResolvedTest, now: datetime
) -> VerdictStatus:
    """Return what is written into the status. Only of a verdict that is not Pending."""
    cut = [
        f"{len(items) - MOST} of {len(items)} {what} are only in the report"
        for what, items in (("metrics", said.metrics), ("exclusions", said.exclusions))
        if len(items) > MOST
    ]
    return VerdictStatus(
        outcome=OUTCOMES[said.outcome],
        sentence=said.sentence,
        reasons=[*said.reasons[: MOST - len(cut)], *cut],
        metrics=said.metrics[:MOST],
        exclusions=said.exclusions[:MOST],
        read_at=rfc3339(now),
        observed_hours=report.observed_hours,
        commit=report.commit,
        evidence_digest=digest_of(evidence(spec, resolved, comparison, said.outcome)),
    )


def evidence(spec: ShadowTestSpec, resolved: ResolvedTest, comparison: Comparison, outcome: Outcome) -> bytes:
    """Return all that the verdict rests on, and what it says: at most what a ConfigMap holds (`resolve.OTHER_SETTINGS`)."""
    told = {
        "spec": spec.to_json(),
        "resolved": resolved.to_json(),
        "comparison": comparison.to_json(),
        "outcome": outcome.value,
    }
    return canonical_json(told)


def digest_of(evidence: bytes) -> str:
    """Return what the status has of it."""
    return f"sha256:{hashlib.sha256(evidence).hexdigest()}"


def forecast(comparison: Comparison) -> float | None:
    """Return the hours until every effect in question of a metric that decides is detected; None while one of them has no forecast."""
    hours = [
        reading.hours_to_detect
        for contrast in comparison.contrasts
        for reading in contrast.metrics
        if reading.metric.role in (Role.PRIMARY, Role.GUARDRAIL) and reading.metric.in_question() is not None
    ]
    known = [hour for hour in hours if hour is not None]
    return max(known) if known and len(known) == len(hours) else None
