"""What to do about one Adapter, and what to say. Pure: `decide(observed, now) -> Decision`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from graft_api import health
from graft_api.adapter import AdapterPhase, AdapterStatus, Placement
from graft_api.fleet import REPORT_SECONDS, RETRIED, LoadFailure, ProbeReading, VersionReport, VersionState
from graft_api.modelendpoint import ModelEndpointSpec, PodProblem
from graft_operator.adapter.observed import Observed, Unreadable
from graft_operator.adapter.promoted import View, shown
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.engine.conditions import shorten
from graft_operator.engine.events import Happening
from graft_operator.engine.summary import of_phase, phase_changed, tell
from graft_operator.modelendpoint.observed import ServerPod

RELEASE_AFTER = timedelta(minutes=5)
"""A deletion waits for the drain no longer than this: an adapter that nobody can unload must not block its namespace."""
LOOK_AGAIN = timedelta(seconds=REPORT_SECONDS)
MOST_FAILING = 20


@dataclass(frozen=True)
class Decision:
    """What the pass shall bring about."""

    status: AdapterStatus
    finalizer: bool
    """Whether the object is to have ours."""
    requeue_after: timedelta | None = None


def decide(observed: Observed | Unreadable, now: datetime) -> Decision:
    """Return what to do and what to say."""
    if isinstance(observed, Unreadable):
        return _cannot(observed, now)
    if observed.deleting_since is not None:
        return _retire(observed, now)
    if observed.listening and observed.status.phase is not None and any(pod.ready and pod.report is None for pod in observed.servers):
        return Decision(observed.status, finalizer=True, requeue_after=LOOK_AGAIN)
    view = shown(observed, _unfit(observed) or _placed(observed, now))
    again = LOOK_AGAIN if view.look_again or view.phase in {"Pending", "Loading"} else None
    return Decision(summarize(observed, view, now), finalizer=True, requeue_after=again)


def _cannot(observed: Unreadable, now: datetime) -> Decision:
    """Say it. Nobody can tell where it is, so that its deletion waits for nothing."""
    view = View("Failed", "InvalidSpec", shorten(str(observed.spec)))
    finalizer = observed.has_finalizer and observed.deleting_since is None
    return Decision(summarize(observed, view, now), finalizer=finalizer)


def _retire(observed: Observed, now: datetime) -> Decision:
    """
    Release the object once nothing can reach it any more, and its endpoint has noted that it goes; at once when its endpoint or
    namespace is going.
    """
    assert observed.deleting_since is not None  # noqa: S101 - asked only then
    held = [pod for pod in observed.servers if observed.may_have(pod)]
    gone = observed.endpoint is None or observed.endpoint.deleting
    waited = now - parse_rfc3339(observed.deleting_since)
    if gone or waited >= RELEASE_AFTER or not (observed.is_wanted() or held or observed.is_remembered()):
        return Decision(observed.status, finalizer=False)
    told = "requests may still go to it" if observed.is_wanted() else _held(observed, held) if held else "its endpoint has not noted it yet"
    view = View("Retiring", "Draining", f"{told}; released after {RELEASE_AFTER.seconds} s at the latest")
    return Decision(summarize(observed, view, now), finalizer=True, requeue_after=min(LOOK_AGAIN, RELEASE_AFTER - waited))


def _held(observed: Observed, held: Sequence[ServerPod]) -> str:
    have = sum(pod.version(observed.version) is not None for pod in held)
    silent = len(held) - have
    return f"{have} of {len(observed.servers)} replicas still have it, {silent} have not said yet"


def _unfit(observed: Observed) -> View | None:
    """Return what stands against loading it anywhere."""
    endpoint, spec = observed.endpoint, observed.spec
    if endpoint is None or endpoint.deleting:
        return View("Pending", "EndpointNotFound", f"there is no ModelEndpoint {spec.endpoint_ref.name}; create it")
    if not isinstance(endpoint.spec, ModelEndpointSpec):
        return View("Pending", "EndpointInvalid", f"ModelEndpoint {spec.endpoint_ref.name} has an invalid spec")
    domains = [domain.name for domain in endpoint.spec.domains]
    if spec.domain not in domains:
        return View(
            "Failed",
            "DomainNotServed",
            f"ModelEndpoint {spec.endpoint_ref.name} serves {', '.join(domains)}; add domain {spec.domain} to it",
        )
    if endpoint.base_digest not in (None, spec.base_model_digest):
        message = f"it belongs to base model {spec.base_model_digest}, the endpoint serves {endpoint.base_digest}"
        return View("Failed", str(LoadFailure.WRONG_BASE), message)
    if not endpoint.spec.trusted_keys:
        return View("Failed", "NoTrustedKeys", "the endpoint trusts no key: add the public half of the signing key to spec.trustedKeys")
    return None


def _placed(observed: Observed, now: datetime) -> View:
    """Return where it is, from what the agents say."""
    if not observed.is_wanted():
        return _not_wanted(observed)
    ready = [pod for pod in observed.servers if pod.ready]
    said = [(pod.name, report) for pod in observed.servers if (report := pod.version(observed.version))]
    loaded = [pod for pod in ready if pod.has(observed.version)]
    failed = [(pod, report) for pod, report in said if report.state is VersionState.FAILED]
    facts = _facts(observed, [report for _, report in said], failed, Placement(ready=len(loaded), total=len(ready), failing=len(failed)))
    refused = [(pod, report) for pod, report in failed if not loaded or pod in {pod.name for pod in ready}]
    if observed.is_routed() and loaded:
        return _serving(len(loaded), len(ready), failed, facts)
    if refused:
        return _failing(refused, facts, len(observed.servers))
    if not ready or len(loaded) < len(ready):
        stages = sorted({str(report.state) for _, report in said if report.state is not VersionState.READY})
        doing = f": {', '.join(stages)}" if stages else ""
        message = f"on {len(loaded)} of {len(ready)} ready replicas{doing}"
        return View("Loading", "Loading", message, facts, _loaded("False", "Loading", message))
    facts |= {"loaded_at": observed.status.loaded_at or rfc3339(now)}
    weak = any(report.weak for _, report in said)
    where = f"on all {len(ready)} ready replicas, verified" + ("" if weak else " and its effect proven")
    return View("Loaded", "Loaded", where, facts, _loaded("True", "Loaded", where) | _effect(weak=weak))


def _serving(loaded: int, ready: int, failed: Sequence[tuple[str, VersionReport]], facts: dict[str, object]) -> View:
    """It serves; a replica that refuses it is told of, but ends nothing: requests go to the others."""
    where = f"on {loaded} of {ready} ready replicas"
    truth = "True" if loaded == ready and not failed else "False"
    told = f"; {failed[0][0]} refuses it: {failed[0][1].message}" if failed else ""
    extra = _loaded(truth, "Loaded" if truth == "True" else "Partly", where + told)
    return View(
        "Serving", "Serving" if truth == "True" else "ServingPartly", shorten(where + told), facts, extra, look_again=truth == "False"
    )


def _not_wanted(observed: Observed) -> View:
    if observed.status.phase == "Failed" and observed.status.failing:
        ready = next((c for c in observed.status.conditions or [] if c.type == "Ready"), None)
        return View("Failed", ready.reason if ready else "Failed", ready.message if ready else "")  # as it was when it last had a slot
    routes = observed.routes
    if routes is None or len(routes.versions) < routes.max_loras:
        return View("Pending", "Waiting", "the routes do not name it yet")
    return View("Pending", "NoSlot", f"all {routes.max_loras} slots are taken; raise spec.server.maxLoras or delete an Adapter")


def _failing(failed: Sequence[tuple[str, VersionReport]], facts: dict[str, object], pods: int) -> View:
    pod, report = failed[0]
    reason = report.reason or LoadFailure.INVALID_ARTIFACT
    message = shorten(f"{report.message} (on {len(failed)} of {pods} replicas, {pod} first)")
    phase: AdapterPhase = "Loading" if reason in RETRIED else "Failed"
    extra = _loaded("False", str(reason), message)
    if reason in {LoadFailure.NO_EFFECT, LoadFailure.WRONG_EFFECT, LoadFailure.BASE_DIFFERS}:
        extra |= {"EffectProven": ("False", str(reason), message)}
    return View(phase, str(reason), message, facts, extra, look_again=True)


def _facts(
    observed: Observed, said: Sequence[VersionReport], failed: Sequence[tuple[str, VersionReport]], placement: Placement
) -> dict[str, object]:
    probes = [report.probe for report in said if report.probe]
    seconds = [sum(report.seconds.values()) for report in said if report.seconds]
    problems = [PodProblem(pod=pod, reason=str(report.reason or "Failed"), message=report.message) for pod, report in failed]
    return {
        "replicas": placement,
        "failing": problems[:MOST_FAILING] or None,
        "probe": min(probes, key=_strength) if probes else None,
        "load_seconds": round(max(seconds), 2) if seconds else observed.status.load_seconds,
    }


def _strength(probe: ProbeReading) -> float:
    """How near the measured effect is to the package's own."""
    return -abs(probe.share - 1) - probe.residual


def _loaded(truth: str, reason: str, message: str) -> dict[str, tuple[str, str, str]]:
    return {"Loaded": (truth, reason, message.lstrip(": "))}


def _effect(*, weak: bool) -> dict[str, tuple[str, str, str]]:
    if weak:
        return {"EffectProven": ("Unknown", "ProbeWeak", "the package has no references: only its structure was checked")}
    return {"EffectProven": ("True", "Probed", "its answers are those that the package promises")}


def summarize(observed: Observed | Unreadable, view: View, now: datetime) -> AdapterStatus:
    """Return the status as the user should see it now."""
    told = of_phase(health.ADAPTER[view.phase], view.reason, view.message) | view.extra
    facts = {
        "phase": view.phase,
        "version": observed.version,
        "observed_generation": observed.generation,
        "deleting_since": observed.deleting_since,
        "conditions": tell(observed.status.conditions, told, observed.generation, now),
    }
    return observed.status.model_copy(update=facts | view.facts)


def happenings(before: AdapterStatus, after: AdapterStatus) -> list[Happening]:
    """Return the Events that a change of status deserves: transitions, never repetitions."""
    return phase_changed(before.phase, after.phase, after.conditions, {"Failed", "NotProven", "RolledBack"})
