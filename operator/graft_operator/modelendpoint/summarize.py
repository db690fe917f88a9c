"""Pure: what to say about a ModelEndpoint, in words with number and bound; status, conditions, Events."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from graft_api import health
from graft_api.dataplane import BASE_NAME, COMPONENT_LABEL, ENDPOINT_LABEL, SERVER, SHADOW_LABEL, gateway_service
from graft_api.fleet import VersionState
from graft_api.ledger import Ledger, LedgerDomain
from graft_api.modelendpoint import (
    ArmStatus,
    CollectorStatus,
    Domain,
    DomainStatus,
    EndpointPhase,
    ModelEndpointSpec,
    ModelEndpointStatus,
    PodProblem,
    Slots,
    SwitchStatus,
)
from graft_api.routes import Route, Routes, Version
from graft_operator.engine.conditions import shorten
from graft_operator.engine.events import Happening
from graft_operator.engine.summary import of_phase, phase_changed, tell
from graft_operator.modelendpoint import children, gates, ledgers, measuring, routing
from graft_operator.modelendpoint.measuring import Plan
from graft_operator.modelendpoint.observed import Observed

MOST_FAILING = 20
BROKEN = frozenset({"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "Unschedulable"})
"""What a pod does not come out of by waiting."""


@dataclass(frozen=True)
class View:
    """Phase with the sentence that explains it."""

    phase: EndpointPhase
    reason: str
    message: str
    extra: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Conditions beyond the phase's own row: status, reason, message."""
    settled: bool = False
    """Nothing is awaited."""
    collector: CollectorStatus | None = None


def view_of(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger, routes: Routes, *, held_back: bool) -> View:
    """Return how the endpoint is."""
    acknowledged = acknowledging(observed, routes)
    running = sum(pod.running and not pod.terminating for pod in observed.gateways)
    routed = {} if spec.shadow else {"Routed": _routed(acknowledged, running, routes)}
    extra = routed | {"UpgradeAvailable": _upgrade(held_back=held_back)}
    if (missing := _missing(observed, spec, ledger)) is not None:
        return replace(missing, extra=extra)
    waiting = [words for domain in spec.domains if (words := _waiting(observed, domain, ledger))] + _unheld(observed, spec)
    facts = f"{len(observed.ready_servers())} servers, {running} gateways, routes {routes.revision}"
    settled = not waiting and acknowledged >= running and not held_back and routes.versions == settled_versions(observed, routes)
    return View("Ready", "Waiting" if waiting else "Serving", shorten(next(iter(waiting), facts)), extra, settled=settled)


def measured(observed: Observed, spec: ModelEndpointSpec, plan: Plan, view: View) -> View:
    """Return the same with how the measuring goes. It changes no phase: production does not depend on it."""
    told = measuring.condition(observed, spec, plan)
    return replace(view, extra=view.extra | ({"Measuring": told} if told else {}), collector=measuring.collection(observed, plan))


def _missing(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger) -> View | None:
    """Return what is not there of what should serve."""
    ready, gateways = len(observed.ready_servers()), sum(pod.ready for pod in observed.gateways)
    problem = next(iter(failing(observed)), None)
    told = f"; {problem.pod}: {problem.reason} {problem.message}" if problem else ""
    if lost := lost_versions(observed, spec, ledger):
        return View("Degraded", "VersionLost", shorten(f"{', '.join(lost)} on no ready replica: the fallback answers{told}"))
    wanted = _replicas(observed, spec)
    if ready >= wanted and gateways >= spec.gateway.replicas:
        return None
    broken = problem is not None and problem.reason in BROKEN
    first = observed.status.phase in {None, "Pending", "Starting"} and not broken
    message = f"{ready} of {wanted} servers and {gateways} of {spec.gateway.replicas} gateways are ready{told}"
    return View("Starting" if first else "Degraded", problem.reason if problem else "Starting", shorten(message))


def summarize(
    observed: Observed, view: View, serving: tuple[ModelEndpointSpec, Ledger, Routes] | None, now: datetime
) -> ModelEndpointStatus:
    """Return the status as the user should see it now."""
    told = of_phase(health.MODELENDPOINT[view.phase], view.reason, view.message) | view.extra
    update = {
        "phase": view.phase,
        "observed_generation": observed.generation,
        "conditions": tell(observed.status.conditions, told, observed.generation, now),
    } | (_facts(observed, *serving, now) | {"collector": view.collector} if serving else {})
    return observed.status.model_copy(update=update)


def happenings(before: ModelEndpointStatus, after: ModelEndpointStatus) -> list[Happening]:
    """Return the Events that a change of phase deserves, and drift that could not be measured. Of transitions `audit` tells."""
    changed = phase_changed(before.phase, after.phase, after.conditions, {"Failed", "Degraded"})
    return [*gates.problems(before.domains, after.domains), *changed]


def acknowledging(observed: Observed, routes: Routes) -> int:
    """Count the live gateways that route by these routes."""
    return sum(pod.running and not pod.terminating and pod.acknowledges(routes) for pod in observed.gateways)


def lost_versions(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger) -> list[str]:
    """Return the domains with a version that some conversations are on and no ready pod can answer with, while there are ready pods."""
    ready = observed.ready_servers()
    if not ready or observed.unheard():
        return []
    arms = [(domain.name, arm.version) for domain in spec.domains for arm in routing.routed(ledger, domain.name)]
    return [f"{name} ({version})" for name, version in arms if version and not any(pod.has(version) for pod in ready)]


def settled_versions(observed: Observed, routes: Routes) -> list[Version]:
    """Return the versions of the routes about which nothing is awaited any more: ready or refused on every ready pod."""
    ends = {VersionState.READY, VersionState.FAILED}

    def over(name: str) -> bool:
        said = [pod.version(name) for pod in observed.ready_servers()]
        return bool(said) and all(version is not None and version.state in ends for version in said)

    return [version for version in routes.versions if over(version.name)]


def failing(observed: Observed) -> list[PodProblem]:
    """Return what is wrong with single pods, the gravest first."""

    def found() -> Iterator[PodProblem]:
        stuck = [(pod.name, pod.problem) for pod in observed.servers] + [(pod.name, pod.problem) for pod in observed.gateways]
        for name, problem in stuck:
            if problem:
                yield PodProblem(pod=name, reason=problem[0][:64], message=problem[1][:512])
        for pod in observed.servers:
            for version in pod.report.versions if pod.report else ():
                if version.state is VersionState.FAILED:
                    message = f"{version.name}: {version.message}"
                    yield PodProblem(pod=pod.name, reason=str(version.reason or "Failed"), message=message[:512])

    return list(found())


def _facts(observed: Observed, spec: ModelEndpointSpec, ledger: Ledger, routes: Routes, now: datetime) -> dict[str, object]:
    name, problems = observed.parent.name, failing(observed)
    existing = [pod for pod in observed.servers if not pod.terminating]
    slots = Slots(max_loras=routes.max_loras, max_lora_rank=routes.max_lora_rank, used=min(len(routes.versions), routes.max_loras))
    asked_by = f",{SHADOW_LABEL}={spec.shadow.endpoint}" if spec.shadow else ""
    domains = [DomainStatus(name=route.domain, arms=_arms(observed, route, routes)) for route in routes.routes]
    if not spec.shadow:
        wanted = {domain.name: domain for domain in spec.domains}
        domains = [_domain(observed, wanted[domain.name], domain, ledger, now) for domain in domains if domain.name in wanted]
    return {
        "replicas": len(existing),
        "ready_replicas": len(observed.ready_servers()),
        "selector": f"{ENDPOINT_LABEL}={name},{COMPONENT_LABEL}={SERVER}" + asked_by,
        "gateways": sum(not pod.terminating for pod in observed.gateways),
        "ready_gateways": sum(pod.ready for pod in observed.gateways),
        "url": None if spec.shadow else f"http://{gateway_service(name)}.{observed.parent.namespace}.svc",
        "base_model_digest": ledger.base_digest,
        "slots": slots,
        "epoch": routes.epoch,
        "revision": routes.revision,
        "acknowledged_gateways": acknowledging(observed, routes),
        "domains": domains,
        "failing": problems[:MOST_FAILING] or None,
        "failing_count": len(problems),
        "platform": children.platform_of(observed.server),
    }


def _replicas(observed: Observed, spec: ModelEndpointSpec) -> int:
    """How many servers there shall be; the user's own Deployment says so itself."""
    if spec.server.existing is None:
        return spec.replicas
    return int(observed.server["spec"].get("replicas", 1)) if observed.server else 1


def _domain(observed: Observed, wanted: Domain, known: DomainStatus, ledger: Ledger, now: datetime) -> DomainStatus:
    """Return the same with what the ledger says of the domain."""
    entry = ledger.domain(wanted.name) or LedgerDomain(name=wanted.name, salt="")
    last = entry.history[-1] if entry.history else None
    switch = SwitchStatus(before=last.before or BASE_NAME, after=last.after or BASE_NAME, at=last.at, reason=last.reason) if last else None
    told = {
        "since": entry.since,
        "last_switch": switch,
        "waiting_for": ledgers.waiting_for(observed, wanted, entry),
        "promotion": gates.status(observed, wanted, entry, now),
        "none_begins": gates.none_begins(observed, wanted, ledger, entry, now),
    }
    return known.model_copy(update=told)


def _arms(observed: Observed, route: Route, routes: Routes) -> list[ArmStatus]:
    """Return what a domain's conversations are on, or what servers hold for a ShadowTest."""
    versions, ready = {version.name: version for version in routes.versions}, observed.ready_servers()
    arms = []
    for arm in route.arms:
        version = versions.get(arm.version or "")
        arms.append(
            ArmStatus(
                adapter=version.adapter if version else None,
                digest=version.digest if version else None,
                version=arm.version,
                weight=arm.weight,
                replicas=sum(pod.has(arm.version) for pod in ready) if arm.version else len(ready),
            )
        )
    return arms


def _unheld(observed: Observed, spec: ModelEndpointSpec) -> list[str]:
    """Return what servers should hold for a ShadowTest and do not hold, in words."""
    ready = observed.ready_servers()
    held = {version.name: sum(pod.has(version.name) for pod in ready) for version in (spec.shadow.versions if spec.shadow else ())}
    return [f"{name} is loaded on {count} of {len(ready)} ready replicas" for name, count in held.items() if count < len(ready)]


def _waiting(observed: Observed, domain: Domain, ledger: Ledger) -> str | None:
    entry = ledger.domain(domain.name)
    words = ledgers.waiting_for(observed, domain, entry) if entry else None
    return f"domain {domain.name}: {words}" if words else None


def _upgrade(*, held_back: bool) -> tuple[str, str, str]:
    if held_back:
        message = "this operator would build the pods differently; change the annotation graft.dev/upgrade to roll them"
        return "True", "PlatformDiffers", message
    return "False", "UpToDate", ""


def _routed(acknowledged: int, running: int, routes: Routes) -> tuple[str, str, str]:
    if acknowledged >= running > 0:
        return "True", "Acknowledged", f"all {running} gateways route by revision {routes.revision}"
    return "False", "Waiting", f"{acknowledged} of {running} gateways route by revision {routes.revision}"
