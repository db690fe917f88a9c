"""Pure: a test whose pairs are being made, until its verdict is read."""

from dataclasses import replace
from datetime import datetime

from graft_api.collect import CollectorReport
from graft_api.comparison import Outcome, progress, spoken
from graft_api.fleet import SILENT_SECONDS
from graft_api.schema import seconds_of
from graft_api.shadowtest import ResolvedTest, ShadowTestSpec
from graft_operator.shadowtest import ended, extending, overdue, verdicts
from graft_operator.shadowtest.observed import Observed, Servers, servers
from graft_operator.shadowtest.starting import gone, not_made, shadow_ready, unmeasured
from graft_operator.shadowtest.views import Step, View

MOST_CAUSES = 32
ENDPOINT_CHANGED = "EndpointChanged"
"""Reason, where somebody must act before anything is measured again."""


def step(observed: Observed, spec: ShadowTestSpec, resolved: ResolvedTest, now: datetime) -> Step:
    """Return how it goes on."""
    if (end := gone(observed, resolved, now)) is not None:
        return Step(end)
    if (told := unmeasured(observed, resolved)) is not None:
        return Step(ended.view("Error", "CollectorGone", f"{told}; set it again and create a new ShadowTest", now))
    if observed.listening and (observed.report is None or any(pod.ready and pod.report is None for pod in observed.servers)):
        return Step(None)
    far = servers(observed, spec, resolved)
    if (lost := _shadow_lost(observed, resolved, far, now) or _store_changed(observed, now)) is not None:
        return Step(lost)
    view = _measured(observed, spec, resolved, far, now)
    if view.phase == "Running":
        view = overdue.end(observed, spec, resolved, now) or view
    view = replace(view, facts=view.facts | {"silent_since": overdue.silent_since(observed, now)})
    return Step(view, create=view.phase == "Running" and not_made(observed, resolved))


def _measured(observed: Observed, spec: ShadowTestSpec, resolved: ResolvedTest, far: Servers, now: datetime) -> View:
    """Return how far the measuring is; its end, once there is a verdict to read."""
    report = observed.report
    if observed.production is None or observed.production.ledger is None:
        told = "the endpoint's ledger cannot be read: whether the incumbent still serves is not known, so nothing is decided"
        return _goes_on(observed, spec, far, ("LedgerNotRead", told))
    if observed.switched(resolved) and (report.comparison if report else observed.status.pairs) is None:
        told = f"{overdue.switched(resolved)}, before anything was compared; create a new ShadowTest"
        return ended.view("Inconclusive", "IncumbentSwitched", told, now)
    if report is None or report.comparison is None:
        return _goes_on(observed, spec, far, _locked_out(observed) or _silent(report))
    if (attempt := observed.attempt(resolved)) is None:
        told = "the endpoint's ledger does not count this test yet: no verdict is read of a test that nobody counts"
        return _goes_on(observed, spec, far, ("NotCounted", told))
    said = verdicts.read(report, report.comparison, spec, resolved, switched=observed.switched(resolved))
    if said.outcome is Outcome.PENDING:
        words = said.sentence if report.observed_hours * 3600 >= seconds_of(spec.duration) else None
        return _goes_on(observed, spec, far, _locked_out(observed) or _hindered(report), words)
    phase = verdicts.OUTCOMES[said.outcome]
    read = verdicts.record(said, report, report.comparison, spec, resolved, now).model_copy(update={"attempt": attempt})
    end = ended.view(phase, phase, said.sentence + repeated(attempt, resolved), now, _numbers(report) | {"verdict": read})
    return replace(end, evidence=verdicts.evidence(spec, resolved, report.comparison, said.outcome))


def repeated(attempt: int | None, resolved: ResolvedTest) -> str:
    """Say that a verdict is not the first of its artifact: of many, one is good by chance."""
    return f"; it is test {attempt} of this digest for domain {resolved.domain}" if attempt and attempt > 1 else ""


def _shadow_lost(observed: Observed, resolved: ResolvedTest, far: Servers, now: datetime) -> View | None:
    """Return the end of a test whose shadow server can never answer again."""
    if observed.shadow is not None and not observed.shadow.ours:
        told = "its ModelEndpoint belongs to somebody else by now"
        return ended.view("Error", "ShadowLost", f"the shadow server was replaced during the test: {told}", now)
    if observed.shadow is None and not not_made(observed, resolved):
        told = "the shadow server was deleted, and the endpoint that it was a copy of was edited since; create a new ShadowTest"
        return ended.view("Error", "ShadowLost", told, now)
    if far.refused is not None and far.holding == 0:
        pod, said = far.refused
        told = f"{said.name} cannot be served by the shadow any more: {said.message} ({pod})"
        return ended.view("Error", str(said.reason or "Failed"), told, now)
    return None


def _store_changed(observed: Observed, now: datetime) -> View | None:
    """Return the end of a test whose pairs are not what they were: no verdict is read of them."""
    how = extending.changed(observed.status.last_commit, observed.report) if observed.report else None
    if how is None:
        return None
    told = f"what was measured was changed in the store: {how}; see who may write there, and create a new ShadowTest"
    return ended.view("Error", "StoreChanged", told, now)


def _goes_on(observed: Observed, spec: ShadowTestSpec, far: Servers, held: tuple[str, str] | None, words: str | None = None) -> View:
    """Return how far it is; `held`: why nothing is measured at the moment; `words`: what the verdict waits for."""
    told = _progress(observed, spec)
    measuring = ("True", "Comparing", told) if held is None else ("False", *held)
    facts = (_numbers(observed.report) if observed.report else {}) | {"shadow": far.told()[:512]}
    extra = {"ShadowReady": shadow_ready(far), "Measuring": measuring}
    message = "; ".join(part for part in (told, words, held and held[1]) if part)
    reason = held[0] if held else "Running"
    return View("Running", reason, message, extra, facts, stalled=reason == ENDPOINT_CHANGED)


def _progress(observed: Observed, spec: ShadowTestSpec) -> str:
    """Return what may be said before the verdict: no metric's number, for a number that is shown early is read early."""
    report, whole = observed.report, seconds_of(spec.duration) / 3600
    if report is None:
        return f"{observed.status.elapsed or '0m'} of {spec.duration}"
    if report.comparison is None:
        return f"{progress(report.observed_hours, whole)}, no pairs yet"
    pairs, hours = report.comparison.contrasts[0], verdicts.forecast(report.comparison)
    ahead = f"; at this traffic the effects in question are detected after {spoken(hours)}" if hours is not None else ""
    return f"{progress(report.observed_hours, whole)}, {pairs.pairs} pairs of {pairs.clusters} conversations{ahead}"


def _numbers(report: CollectorReport) -> dict[str, object]:
    return {
        "elapsed": _elapsed(report.observed_hours),
        "lost": dict(sorted(report.lost.items(), key=lambda item: -item[1])[:MOST_CAUSES]) or None,
    } | _pairs(report)


def _elapsed(hours: float) -> str:
    return f"{hours:.1f}h" if hours >= 1 else f"{60 * hours:.1f}m"


def _pairs(report: CollectorReport) -> dict[str, object]:
    if report.comparison is None:
        return {}
    production = report.comparison.contrasts[0]
    facts = {"pairs": production.pairs, "conversations": production.clusters, "hours_to_detect": verdicts.forecast(report.comparison)}
    last = extending.kept(report)
    return facts | ({"last_commit": last} if last else {})


def _locked_out(observed: Observed) -> tuple[str, str] | None:
    """Say what to do about a collector whom the shadow server does not know: nobody changes what a test compares, doors included."""
    if (accounts := observed.locked_out()) is None:
        return None
    asks, known = accounts
    told = f"the endpoint's collector runs as service account {asks} by now, and the shadow server lets in {known} alone"
    return ENDPOINT_CHANGED, f"{told}: change the collector's credentials back, or delete this ShadowTest and create a new one"


def _silent(report: CollectorReport | None) -> tuple[str, str]:
    if report is None:
        told = (
            f"the endpoint's collector has said nothing of this test for {SILENT_SECONDS:.0f} s; see the ModelEndpoint's status.collector"
        )
        return "CollectorSilent", f"{told}. Hours without it do not count"
    return _hindered(report) or ("NoPairs", "nothing was compared yet: no request has come, or none is settled")


def _hindered(report: CollectorReport) -> tuple[str, str] | None:
    if report.shadow_away is not None:
        return "ShadowAway", f"nothing is asked of the shadow server at the moment: {report.shadow_away}"
    if report.store_away:
        return "StoreAway", "the collector cannot write to its store at the moment; what it cannot write down does not count"
    return None
