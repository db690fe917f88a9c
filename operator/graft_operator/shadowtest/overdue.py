"""
Pure: the end of a test that no report ends. Observed time stands still without a collector, so wall time must bound the test, too:
for as long as it runs it keeps the endpoint's collector from every other test, and holds its shadow server's GPUs.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from graft_api.comparison import Outcome, Verdict, progress, spoken
from graft_api.schema import seconds_of
from graft_api.shadowtest import ResolvedTest, ShadowTestSpec
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.shadowtest import ended, verdicts
from graft_operator.shadowtest.observed import Observed
from graft_operator.shadowtest.views import View

SILENCE_PATIENCE = timedelta(hours=6)
"""For a collector that says nothing: a node may be away for a night."""
SWITCH_PATIENCE = timedelta(minutes=15)
"""For the numbers of a test that is Inconclusive whatever they are."""
WALL_TIMES = 2
"""Times `maxDuration`: a test whose collector is away for half of the time measures something else than a week of production."""


def silent_since(observed: Observed, now: datetime) -> str | None:
    """Return since when the collector has said nothing of the test, as the status keeps it: an operator that restarts goes on counting."""
    return None if observed.report is not None else observed.status.silent_since or rfc3339(now)


def end(observed: Observed, spec: ShadowTestSpec, resolved: ResolvedTest, now: datetime) -> View | None:
    """Return the end of a test that has waited for long enough."""
    return _silent(observed, resolved, now) or _out_of_time(observed, spec, resolved, now)


def _silent(observed: Observed, resolved: ResolvedTest, now: datetime) -> View | None:
    if observed.report is not None or observed.status.silent_since is None:
        return None
    silence = now - parse_rfc3339(observed.status.silent_since)
    if observed.switched(resolved) and silence >= SWITCH_PATIENCE:
        told = f"{switched(resolved)}, and the collector does not say what it has; create a new ShadowTest"
        return ended.view("Inconclusive", "IncumbentSwitched", told, now)
    if silence >= SILENCE_PATIENCE:
        hours = spoken(silence.total_seconds() / 3600)
        told = f"the collector of ModelEndpoint {resolved.endpoint} has said nothing of this test for {hours}"
        return ended.view("Error", "CollectorGone", f"{told}; mend what its condition Measuring says, and create a new ShadowTest", now)
    return None


def switched(resolved: ResolvedTest) -> str:
    """Say that the incumbent is not what it was."""
    return f"another version than {resolved.incumbent.version} serves by now, or did during the test"


def _out_of_time(observed: Observed, spec: ShadowTestSpec, resolved: ResolvedTest, now: datetime) -> View | None:
    """Return the end by the clock on the wall. What was compared until then is in a report, and decides nothing."""
    started, longest = observed.status.started_at, seconds_of(resolved.max_duration)
    if started is None or now - parse_rfc3339(started) < timedelta(seconds=WALL_TIMES * longest):
        return None
    told = f"{spoken(WALL_TIMES * longest / 3600)} are over since it started, {WALL_TIMES} times its longest duration"
    report = observed.report
    if report is None or report.comparison is None:
        return ended.view("Inconclusive", "OutOfTime", f"{told}, and nothing was heard that could be read", now)
    told = f"{told}, of which {progress(report.observed_hours, seconds_of(spec.duration) / 3600)} were observed"
    said = Verdict(outcome=Outcome.INCONCLUSIVE, sentence=f"Inconclusive: {told}", reasons=[told])
    verdict = verdicts.record(said, report, report.comparison, spec, resolved, now)
    verdict = verdict.model_copy(update={"attempt": observed.attempt(resolved)})
    end = ended.view("Inconclusive", "OutOfTime", said.sentence, now, {"verdict": verdict})
    return replace(end, evidence=verdicts.evidence(spec, resolved, report.comparison, said.outcome))
