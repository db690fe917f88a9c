"""Pure: a test that has ended. Nothing recomputes its verdict; its shadow server goes, its report comes."""

from datetime import datetime

from graft_api.collect import REPORT_HTML, REPORT_JSON, Reported
from graft_api.shadowtest import ReportReference, ShadowPhase, ShadowTestSpec, ShadowTestStatus, shadow_endpoint
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.shadowtest.observed import Observed
from graft_operator.shadowtest.turns import NOT_WRITTEN, REPORT_PATIENCE
from graft_operator.shadowtest.views import LOOK_AGAIN, Step, View

Told = tuple[str, str, str]


def view(phase: ShadowPhase, reason: str, message: str, now: datetime, facts: dict[str, object] | None = None) -> View:
    """Return an end. One without a verdict has nothing to report."""
    known = facts or {}
    extra = {"Reported": ("False", "Writing", "the collector writes the report")} if "verdict" in known else {}
    shadow = {"ShadowReady": ("False", "Ended", "")}
    return View(phase, reason, message, shadow | extra, {"ended_at": rfc3339(now)} | known)


def after(observed: Observed, spec: ShadowTestSpec, now: datetime) -> Step:
    """Return what is left to do."""
    status = observed.status
    reported, facts, waits = _report(observed, now)
    shadow, message = _shadow(observed, spec)
    ready = next((condition for condition in status.conditions or [] if condition.type == "Ready"), None)
    reason, words = (ready.reason, ready.message) if ready else (str(status.phase), "")
    extra = {"Reported": reported, "ShadowReady": shadow}
    said = View(status.phase or "Error", reason, words, extra, facts | {"shadow": message})
    left = observed.shadow is not None and observed.shadow.ours and not spec.shadow.keep
    return Step(said, remove=left, again=LOOK_AGAIN if waits or left else None)


def _report(observed: Observed, now: datetime) -> tuple[Told, dict[str, object], bool]:
    """Return the condition, what is new in the status, and whether it is still awaited."""
    status, reported = observed.status, observed.reported
    if status.verdict is None or status.resolved is None:
        return ("False", "NothingToReport", "it ended before there was a verdict to read"), {}, False
    if status.report is not None:
        return ("True", "Written", status.report.html), {}, False
    if reported is not None and reported.html_digest and reported.json_digest:
        reference = _reference(status.resolved.store, reported)
        return ("True", "Written", reference.html), {"report": reference}, False
    if (problem := _not_written(status, reported, now)) is not None:
        return ("False", NOT_WRITTEN, problem), {}, False
    return ("False", "Writing", "the collector writes the report"), {}, True


def _not_written(status: ShadowTestStatus, reported: Reported | None, now: datetime) -> str | None:
    """Return why nobody waits for the report any more: as it was said before, else by the collector, else after some time."""
    said = next((condition for condition in status.conditions or [] if condition.type == "Reported"), None)
    if said is not None and said.reason == NOT_WRITTEN:
        return said.message
    if reported is not None and reported.problem:
        return f"the report could not be written: {reported.problem}"
    if status.ended_at is None or now - parse_rfc3339(status.ended_at) >= REPORT_PATIENCE:
        return f"the collector wrote no report within {REPORT_PATIENCE.total_seconds() / 60:.0f} minutes; the verdict stands"
    return None


def _reference(store: str, reported: Reported) -> ReportReference:
    places = {"html": f"{store}/{REPORT_HTML}", "json": f"{store}/{REPORT_JSON}"}
    return ReportReference.model_validate(places | {"htmlDigest": reported.html_digest, "jsonDigest": reported.json_digest})


def _shadow(observed: Observed, spec: ShadowTestSpec) -> tuple[Told, str | None]:
    if observed.shadow is None or not observed.shadow.ours:
        return ("False", "Removed", ""), None
    if spec.shadow.keep:
        told = f"ModelEndpoint {shadow_endpoint(observed.name)} is kept, as spec.shadow.keep asks; it goes with this ShadowTest"
        return ("True", "Kept", told), told
    return ("False", "Removing", ""), "is being removed"
