"""Pure: a test that is frozen and whose shadow server comes up."""

from dataclasses import replace
from datetime import datetime, timedelta

from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.schema import Invalid
from graft_api.shadowtest import ResolvedTest, ShadowTestSpec
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.shadowtest import ended, resolve
from graft_operator.shadowtest.observed import Observed, Servers, ShadowView, held_versions, servers
from graft_operator.shadowtest.turns import holder
from graft_operator.shadowtest.views import LOOK_AGAIN, Step, View

PATIENCE = timedelta(hours=6)
"""For the shadow server. GPUs may be scarce, but a test that cannot begin must not keep the others from theirs for ever."""


def step(observed: Observed, spec: ShadowTestSpec, resolved: ResolvedTest, now: datetime) -> Step:
    """Return how far it is. Nothing was compared yet, so that it may still begin anew."""
    if (end := gone(observed, resolved, now)) is not None:
        return Step(end)
    if (told := unmeasured(observed, resolved)) is not None:
        return _again(observed, told)
    has = holder(observed.tests, resolved.endpoint_uid, now)
    if has is not None and has.name != observed.name:
        return _again(observed, f"lets ShadowTest {has.name} go first, which is {has.status.phase}")
    if observed.production is None or observed.production.ledger is None:
        return Step(_waits("LedgerNotRead", "the endpoint's ledger cannot be read, so nobody can tell what serves", observed))
    if observed.switched(resolved):
        return _again(
            observed, f"another version than {resolved.incumbent.version} serves by now; nothing was compared yet, so it begins anew"
        )
    return _shadow(observed, spec, resolved, now)


def gone(observed: Observed, resolved: ResolvedTest, now: datetime) -> View | None:
    """Return the end of a test whose adapter or endpoint is not there any more."""
    production, candidate = observed.production, observed.candidate
    if production is None or production.deleting or production.uid != resolved.endpoint_uid:
        return ended.view("Error", "EndpointGone", f"ModelEndpoint {resolved.endpoint} was deleted during the test", now)
    version = candidate.version() if candidate and not candidate.deleting else None
    unreadable = candidate is not None and not candidate.deleting and isinstance(candidate.spec, Invalid)
    if not unreadable and (version is None or version.name != resolved.candidate.version):
        return ended.view("Error", "AdapterGone", f"Adapter {resolved.candidate.adapter} was deleted or replaced during the test", now)
    return None


def unmeasured(observed: Observed, resolved: ResolvedTest) -> str | None:
    """Return why no request of the domain reaches a collector any more."""
    spec = observed.production.spec if observed.production else None
    if not isinstance(spec, ModelEndpointSpec):
        return None  # nobody can tell
    if spec.collector is None:
        return f"ModelEndpoint {resolved.endpoint} has no spec.collector any more, so nothing is measured"
    if resolved.domain not in {domain.name for domain in spec.domains}:
        return f"ModelEndpoint {resolved.endpoint} does not serve domain {resolved.domain} any more, so nothing is measured"
    return None


def let_go(view: View) -> View:
    """Return it without what was resolved, which holds no more; of the same artifact it is the same test again, as the ledger knows."""
    return replace(view, facts=view.facts | {"resolved": None, "shadow": None, "attempt": None})


def standing(observed: Observed) -> dict[str, tuple[str, str, str]]:
    """Return what was last said of the shadow server."""
    said = next((c for c in observed.status.conditions or [] if c.type == "ShadowReady"), None)
    return {"ShadowReady": (said.status, said.reason, said.message)} if said else {}


def shadow_ready(far: Servers) -> tuple[str, str, str]:
    """Return the condition."""
    return ("True", "Ready", far.told()) if far.complete else ("False", "Starting", far.told()[:1000])


def not_made(observed: Observed, resolved: ResolvedTest) -> bool:
    """Whether it must be made, and can be as it was resolved."""
    spec = observed.production.spec if observed.production else None
    if observed.shadow is not None or spec is None or isinstance(spec, Invalid):
        return False
    return resolve.endpoint_spec_digest(spec) == resolved.endpoint_spec_digest


def is_too_late(observed: Observed, now: datetime) -> bool:
    """Whether a test that starts has waited for long enough: its shadow server was not ready since the start."""
    said = next((c for c in observed.status.conditions or [] if c.type == "ShadowReady"), None)
    if observed.status.phase != "Starting" or said is None or said.status != "False":
        return False
    return now - parse_rfc3339(said.last_transition_time) >= PATIENCE


def _shadow(observed: Observed, spec: ShadowTestSpec, resolved: ResolvedTest, now: datetime) -> Step:
    """Make the shadow server, where the one that is there is not it."""
    shadow = observed.shadow
    if shadow is None and not_made(observed, resolved):
        return Step(_waits("Starting", "the shadow server is made", observed), create=True)
    if shadow is None:
        return _again(observed, "the endpoint was edited before the shadow server was made, so it begins anew")
    if not shadow.ours:
        return Step(let_go(resolve.name_conflict(observed.name)))
    if shadow.deleting or shadow.versions != held_versions(resolved) or observed.locked_out():
        return Step(_waits("Starting", "an earlier shadow server of its name goes first", observed), remove=True)
    return Step(_coming_up(observed, shadow, servers(observed, spec, resolved), resolved, now))


def _coming_up(observed: Observed, shadow: ShadowView, far: Servers, resolved: ResolvedTest, now: datetime) -> View:
    if far.refused is not None:
        pod, said = far.refused
        told = f"{said.name} cannot be served by the shadow, whatever one waits: {said.message} ({pod})"
        return ended.view("Error", str(said.reason or "Failed"), told, now)
    if shadow.stalled and shadow.stalled[0] == "InvalidSpec":  # of a copy of what was frozen, which nobody can mend
        return ended.view("Error", "InvalidSpec", f"the shadow server was refused: {shadow.stalled[1]}", now)
    if far.complete:
        return _started(far, resolved, now)
    if is_too_late(observed, now):
        return ended.view("Error", "ShadowNotReady", f"after {PATIENCE.total_seconds() / 3600:.0f} hours {far.told()}", now)
    extra = {"ShadowReady": shadow_ready(far)}
    return View("Starting", "Starting", far.told(), extra, {"shadow": far.told()[:512]}, stalled=shadow.stalled is not None)


def _started(far: Servers, resolved: ResolvedTest, now: datetime) -> View:
    told = f"compares {resolved.candidate.version} with {resolved.incumbent.version} from now on"
    extra = {"ShadowReady": shadow_ready(far), "Measuring": ("False", "Starting", "waits for the collector's first report of this test")}
    return View("Running", "Running", told, extra, {"started_at": rfc3339(now), "shadow": far.told()[:512]})


def _again(observed: Observed, message: str) -> Step:
    """Give the turn back: the next pass resolves anew."""
    return Step(let_go(View("Queued", "BeginsAnew", message)), remove=True, again=LOOK_AGAIN)


def _waits(reason: str, message: str, observed: Observed) -> View:
    return View("Starting", reason, message, standing(observed))
