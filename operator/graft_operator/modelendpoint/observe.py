"""Read everything that one decision about a ModelEndpoint needs, once."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from graft_api.adapter import AdapterSpec, AdapterStatus
from graft_api.collect import COLLECTOR, CollectorReport
from graft_api.dataplane import (
    COMPONENT_LABEL,
    ENDPOINT_LABEL,
    GATEWAY,
    LEDGER_KEY,
    LEDGER_RECORD,
    RECORD_LABEL,
    ROUTES_KEY,
    ROUTES_RECORD,
    SERVER,
    ledger_name,
    routes_name,
)
from graft_api.drift import DRIFT, DriftReport
from graft_api.fleet import SILENT_SECONDS, AgentReport, GatewayReport
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec, ModelEndpointStatus
from graft_api.routes import Routes
from graft_api.schema import Invalid, parse
from graft_operator.engine.clock import Clock
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.ownership import controller_uid, is_controlled_by
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTER_APPROVALS, ADAPTERS, CONFIG_MAPS, DEPLOYMENTS, PODS, SHADOW_TESTS
from graft_operator.modelendpoint import children, collector
from graft_operator.modelendpoint.candidates import word_of
from graft_operator.modelendpoint.children import Parent
from graft_operator.modelendpoint.drift_jobs import DriftJobs, FoundJobs
from graft_operator.modelendpoint.observed import (
    AdapterView,
    CollectorPod,
    GatewayPod,
    Observed,
    Record,
    ServerPod,
    is_ready,
    read_container_problem,
    read_drift_job,
)
from graft_operator.promotion.seen import DriftJob
from graft_operator.reports.fleet import Fleet, Heard
from graft_operator.reports.policies import PolicyGuard
from graft_operator.shadowtest.turns import TestView

Manifest = dict[str, Any]

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", AgentReport, GatewayReport, CollectorReport, DriftReport)


@dataclass
class Hearsay:
    """What the data plane said, as long as it is worth something."""

    fleet: Fleet
    clock: Clock
    began: float | None = None
    """When somebody first asked: a leader hears nothing before it leads, and everything within one interval of reports."""

    def listening(self) -> bool:
        """Whether it is too early to take silence for an answer."""
        now = self.clock.monotonic()
        self.began = now if self.began is None else self.began
        return now - self.began < SILENT_SECONDS

    def fresh(self, heard: Heard[R] | None, pod_uid: str) -> R | None:
        """Return the report of this very pod, unless it has been silent for too long."""
        if heard is None or heard.pod_uid != pod_uid or self.clock.monotonic() - heard.received > SILENT_SECONDS:
            return None
        return heard.report


async def observe(kube: Kube, guard: PolicyGuard, hearsay: Hearsay, jobs: DriftJobs, resource: Manifest) -> Observed:
    """Return what is known about one ModelEndpoint. `jobs` remembers where no Jobs of drift are to be asked for."""
    parent = Parent.of(resource)
    spec = read_spec(resource)
    measured = isinstance(spec, ModelEndpointSpec) and spec.collector is not None
    kept = not isinstance(spec, ModelEndpointSpec) or spec.shadow is None
    (
        (ledger, routes, *deployments),
        (adapters, servers, gateways, missing),
        (collectors, tests),
        approvals,
    ) = await asyncio.gather(
        asyncio.gather(
            kube.get(CONFIG_MAPS, parent.namespace, ledger_name(parent.name)),
            kube.get(CONFIG_MAPS, parent.namespace, routes_name(parent.name)),
            kube.get(DEPLOYMENTS, parent.namespace, _server_name(parent, spec)),
            kube.get(DEPLOYMENTS, parent.namespace, children.gateway_name(parent)),
            kube.get(DEPLOYMENTS, parent.namespace, collector.collector_name(parent)),
        ),
        asyncio.gather(
            kube.list(ADAPTERS, Selection(parent.namespace, fields=f"spec.endpointRef.name={parent.name}")),
            server_pods(kube, hearsay, Key(parent.namespace, parent.name)),
            _gateways(kube, hearsay, parent),
            guard.missing(),
        ),
        _measuring(kube, hearsay, parent) if measured else _nothing(),
        # Also where nothing promotes (any more): what serves may have come by a promotion, and is rolled back by hand.
        _approvals(kube, parent.namespace, kept=kept),
    )
    ledger_document, ledger_record = read_ledger(ledger if kept else None, parent.name)
    routes_document, routes_record = read_routes(routes, parent.name)
    # After the ledger, which says whether there may be any.
    drifts = await jobs.read(kube, parent, spec, ledger_document) if kept else FoundJobs()
    return Observed(
        parent=parent,
        generation=resource["metadata"]["generation"],
        spec=spec,
        status=parse(ModelEndpointStatus, resource.get("status") or {}),
        upgrade=(resource["metadata"].get("annotations") or {}).get(children.UPGRADE, ""),
        ledger=ledger_document,
        ledger_record=ledger_record,
        routes=routes_document,
        routes_record=routes_record,
        adapters=[view for item in adapters if (view := _adapter(item))],
        server=deployments[0],
        gateway=deployments[1],
        collector=deployments[2],
        servers=servers,
        gateways=gateways,
        collectors=collectors,
        tests=[test for item in tests if (test := TestView.of(item))],
        test_owners={item["metadata"]["name"]: controller_uid(item) for item in tests},
        drift_jobs=await _drift_jobs(kube, hearsay, parent, drifts.ours),
        drift_names_taken=drifts.taken,
        words=[word for item in approvals if (word := word_of(item))],
        policies_missing=tuple(missing),
        policies_missing_seconds=guard.missing_seconds,
        listening=hearsay.listening(),
    )


async def server_pods(kube: Kube, hearsay: Hearsay, key: Key) -> list[ServerPod]:
    """Return an endpoint's vLLM pods with what their agents said last."""
    heard = hearsay.fleet.agents(key)
    pods = []
    for pod in await _living(kube, key, SERVER):
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        pods.append(
            ServerPod(
                name=name,
                uid=uid,
                ready=is_ready(pod),
                terminating="deletionTimestamp" in pod["metadata"],
                report=hearsay.fresh(heard.get(name), uid),
                problem=read_container_problem(pod),
                running=pod.get("status", {}).get("phase") == "Running",
            )
        )
    return pods


def read_spec(resource: Manifest) -> ModelEndpointSpec | Invalid:
    """Return the spec, or what is wrong with it (a CRD of another version may have let it through)."""
    try:
        return parse(ModelEndpointSpec, resource.get("spec"))
    except Invalid as invalid:
        return Invalid([f"spec.{problem}" for problem in invalid.problems])


async def _gateways(kube: Kube, hearsay: Hearsay, parent: Parent) -> list[GatewayPod]:
    key = Key(parent.namespace, parent.name)
    heard = hearsay.fleet.gateways(key)
    pods = []
    for pod in await _living(kube, key, GATEWAY):
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        pods.append(
            GatewayPod(
                name=name,
                uid=uid,
                ready=is_ready(pod),
                running=pod.get("status", {}).get("phase") == "Running",
                terminating="deletionTimestamp" in pod["metadata"],
                report=hearsay.fresh(heard.get(name), uid),
                problem=read_container_problem(pod),
            )
        )
    return pods


async def _measuring(kube: Kube, hearsay: Hearsay, parent: Parent) -> tuple[list[CollectorPod], list[Manifest]]:
    key = Key(parent.namespace, parent.name)
    return await collector_pods(kube, hearsay, key), await kube.list(SHADOW_TESTS, Selection(parent.namespace))


async def _drift_jobs(kube: Kube, hearsay: Hearsay, parent: Parent, ours: Sequence[Manifest]) -> list[DriftJob]:
    """Return an endpoint's Jobs that measure drift, and what their own pods said: those of which each is the controller."""
    key = Key(parent.namespace, parent.name)
    if not ours:
        return []
    pods, heard = await _pods(kube, key, DRIFT), hearsay.fleet.drifts(key)
    pods.sort(key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]), reverse=True)
    found = []
    for job in ours:
        own = [pod for pod in pods if is_controlled_by(pod, job["metadata"]["uid"])]
        said = [hearsay.fresh(heard.get(pod["metadata"]["name"]), pod["metadata"]["uid"]) for pod in own]
        found.append(read_drift_job(job, own, [report for report in said if report is not None]))
    return found


async def _nothing() -> tuple[list[CollectorPod], list[Manifest]]:
    return [], []


async def _approvals(kube: Kube, namespace: str, *, kept: bool) -> list[Manifest]:
    """Return what people have said of adapters; of an endpoint without a ledger nobody says anything."""
    return await kube.list(ADAPTER_APPROVALS, Selection(namespace)) if kept else []


async def collector_pods(kube: Kube, hearsay: Hearsay, key: Key) -> list[CollectorPod]:
    """Return an endpoint's collector pods with what they said last."""
    heard = hearsay.fleet.collectors(key)
    pods = []
    for pod in await _living(kube, key, COLLECTOR):
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        pods.append(
            CollectorPod(
                name=name,
                uid=uid,
                ready=is_ready(pod),
                terminating="deletionTimestamp" in pod["metadata"],
                report=hearsay.fresh(heard.get(name), uid),
                problem=read_container_problem(pod),
            )
        )
    return pods


async def _living(kube: Kube, key: Key, component: str) -> list[Manifest]:
    """Return a Deployment's pods without those that have ended: an evicted one stays as an object, and is no replica."""
    return [pod for pod in await _pods(kube, key, component) if pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")]


async def _pods(kube: Kube, key: Key, component: str) -> list[Manifest]:
    return await kube.list(PODS, Selection(key.namespace, labels=_labels(key, component)))


def _labels(key: Key, component: str) -> str:
    return f"{ENDPOINT_LABEL}={key.name},{COMPONENT_LABEL}={component}"


def _server_name(parent: Parent, spec: ModelEndpointSpec | Invalid) -> str:
    if isinstance(spec, ModelEndpointSpec) and spec.server.existing:
        return spec.server.existing.deployment
    return children.server_name(parent)


def read_ledger(config_map: Manifest | None, endpoint: str) -> tuple[Ledger | None, Record | None]:
    """Return what is in a ModelEndpoint's ledger, and what a write must replace."""
    return _read(config_map, {RECORD_LABEL: LEDGER_RECORD, ENDPOINT_LABEL: endpoint}, LEDGER_KEY, Ledger)


def read_routes(config_map: Manifest | None, endpoint: str) -> tuple[Routes | None, Record | None]:
    """Return what is in a ModelEndpoint's routes, and what a write must replace."""
    return _read(config_map, {RECORD_LABEL: ROUTES_RECORD, ENDPOINT_LABEL: endpoint}, ROUTES_KEY, Routes)


def _read(config_map: Manifest | None, labels: dict[str, str], key: str, model: type[M]) -> tuple[M | None, Record | None]:
    """
    Return the document of a record; without one, the record says why there is none.

    A name proves nothing: anybody may create a ConfigMap before the operator does. The record label does, for the policy graft-records
    lets nobody else set it, on a new object or on one that is there.
    """
    if config_map is None:
        return None, None
    metadata = config_map["metadata"]
    if not labels.items() <= (metadata.get("labels") or {}).items():
        return None, Record(metadata["uid"], metadata["resourceVersion"], foreign=True)
    try:
        document, problem = parse(model, json.loads((config_map.get("data") or {})[key])), None
    except (KeyError, ValueError) as error:
        document, problem = None, str(error)[:500]
    return document, Record(metadata["uid"], metadata["resourceVersion"], problem)


def _adapter(resource: Manifest) -> AdapterView | None:
    """Return what the endpoint decides by; one whose spec cannot be read speaks for itself in its own status."""
    metadata = resource["metadata"]
    try:
        spec, status = parse(AdapterSpec, resource["spec"]), parse(AdapterStatus, resource.get("status") or {})
    except Invalid:
        return None
    return AdapterView(
        name=metadata["name"],
        uid=metadata["uid"],
        spec=spec,
        created_at=metadata["creationTimestamp"],
        deleting="deletionTimestamp" in metadata,
        failed=status.phase == "Failed",
    )
