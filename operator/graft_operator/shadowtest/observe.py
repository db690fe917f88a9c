"""Read everything that one decision about a ShadowTest needs, once."""

import asyncio
from typing import Any

from graft_api.adapter import AdapterSpec, AdapterStatus
from graft_api.collect import CollectorReport
from graft_api.dataplane import ledger_name
from graft_api.fleet import SILENT_SECONDS
from graft_api.health import SHADOW_TERMINAL
from graft_api.schema import Invalid, parse
from graft_api.shadowtest import ShadowTestSpec, ShadowTestStatus, shadow_endpoint
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.ownership import controller_kind, is_controlled_by
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, MODEL_ENDPOINTS, SHADOW_TESTS
from graft_operator.modelendpoint.observe import Hearsay, read_ledger, read_spec, server_pods
from graft_operator.modelendpoint.observed import ServerPod
from graft_operator.reports.policies import PolicyGuard
from graft_operator.shadowtest.observed import Candidate, Observed, Production, ShadowView
from graft_operator.shadowtest.turns import TestView

Manifest = dict[str, Any]


async def observe(kube: Kube, guard: PolicyGuard, hearsay: Hearsay, resource: Manifest) -> Observed:
    """Return what is known about one ShadowTest; of one that has ended only what is left of it."""
    metadata, status = resource["metadata"], parse(ShadowTestStatus, resource.get("status") or {})
    namespace, name, spec = metadata["namespace"], metadata["name"], _spec(resource)
    over = status.phase in SHADOW_TERMINAL
    candidate = None if over or isinstance(spec, Invalid) else await _candidate(kube, namespace, spec.adapter_ref.name)
    endpoint = _endpoint_of(status, candidate)
    production, shadow, servers, tests, missing = await asyncio.gather(
        _production(kube, namespace, None if over else endpoint),
        _shadow(kube, namespace, name, metadata["uid"]),
        _servers(kube, hearsay, Key(namespace, shadow_endpoint(name)), status),
        _tests(kube, namespace, status),
        guard.missing(),
    )
    heard = reports_of(hearsay, Key(namespace, endpoint)) if endpoint else []
    return Observed(
        namespace=namespace,
        name=name,
        uid=metadata["uid"],
        generation=metadata["generation"],
        spec=spec,
        status=status,
        candidate=candidate,
        production=production,
        promotes=controller_kind(resource) == "Adapter",
        tests=tests,
        shadow=shadow,
        servers=servers,
        report=next((report for report in heard if report.test_uid == metadata["uid"]), None),
        reported=next((report.reported for report in heard if report.reported and report.reported.test_uid == metadata["uid"]), None),
        policies_missing=tuple(missing),
        policies_missing_seconds=guard.missing_seconds,
        listening=hearsay.listening(),
    )


def reports_of(hearsay: Hearsay, endpoint: Key) -> list[CollectorReport]:
    """Return what the collectors of an endpoint said not too long ago, the newest first: while one replaces another there are two."""
    now = hearsay.clock.monotonic()
    heard = [one for one in hearsay.fleet.collectors(endpoint).values() if now - one.received <= SILENT_SECONDS]
    return [one.report for one in sorted(heard, key=lambda one: one.received, reverse=True)]


def _spec(resource: Manifest) -> ShadowTestSpec | Invalid:
    try:
        return parse(ShadowTestSpec, resource.get("spec"))
    except Invalid as invalid:
        return Invalid([f"spec.{problem}" for problem in invalid.problems])


def _endpoint_of(status: ShadowTestStatus, candidate: Candidate | None) -> str | None:
    """Return the endpoint's name: as it was resolved, else as the Adapter says."""
    if status.resolved is not None and status.phase not in {None, "Pending", "Queued"}:
        return status.resolved.endpoint
    return candidate.spec.endpoint_ref.name if candidate and isinstance(candidate.spec, AdapterSpec) else None


async def _candidate(kube: Kube, namespace: str, name: str) -> Candidate | None:
    resource = await kube.get(ADAPTERS, namespace, name)
    if resource is None:
        return None
    deleting = "deletionTimestamp" in resource["metadata"]
    try:
        spec, status = parse(AdapterSpec, resource.get("spec")), parse(AdapterStatus, resource.get("status") or {})
    except Invalid as invalid:
        return Candidate(name, invalid, None, "", deleting)
    ready = next((condition for condition in status.conditions or [] if condition.type == "Ready"), None)
    return Candidate(name, spec, status.phase, ready.message if ready else "", deleting)


async def _production(kube: Kube, namespace: str, name: str | None) -> Production | None:
    if name is None:
        return None
    resource, ledger = await asyncio.gather(kube.get(MODEL_ENDPOINTS, namespace, name), kube.get(CONFIG_MAPS, namespace, ledger_name(name)))
    if resource is None:
        return None
    metadata = resource["metadata"]
    return Production(name, metadata["uid"], read_spec(resource), "deletionTimestamp" in metadata, read_ledger(ledger, name)[0])


async def _shadow(kube: Kube, namespace: str, test: str, uid: str) -> ShadowView | None:
    resource = await kube.get(MODEL_ENDPOINTS, namespace, shadow_endpoint(test))
    if resource is None:
        return None
    spec = read_spec(resource)
    held = None if isinstance(spec, Invalid) else spec.shadow
    conditions = (resource.get("status") or {}).get("conditions") or []
    stalled = next((c for c in conditions if c["type"] == "Stalled" and c["status"] == "True"), None)
    return ShadowView(
        uid=resource["metadata"]["uid"],
        ours=is_controlled_by(resource, uid),
        deleting="deletionTimestamp" in resource["metadata"],
        versions=frozenset(version.name for version in held.versions) if held else None,
        stalled=(stalled["reason"], stalled.get("message", "")) if stalled else None,
        asking=held.asking() if held else None,
    )


async def _servers(kube: Kube, hearsay: Hearsay, shadow: Key, status: ShadowTestStatus) -> list[ServerPod]:
    if status.phase not in {"Starting", "Running"}:
        return []
    return [pod for pod in await server_pods(kube, hearsay, shadow) if not pod.terminating]


async def _tests(kube: Kube, namespace: str, status: ShadowTestStatus) -> list[TestView]:
    """Return who takes turns; one that runs has its turn, and one that has ended wants none."""
    if status.phase in {"Running", *SHADOW_TERMINAL}:
        return []
    return [view for resource in await kube.list(SHADOW_TESTS, Selection(namespace)) if (view := TestView.of(resource)) is not None]
