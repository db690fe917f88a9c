"""Read everything that one decision about a ModelEndpoint needs, once."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from graft_api.adapter import AdapterSpec, AdapterStatus
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
from graft_api.fleet import SILENT_SECONDS, AgentReport, GatewayReport
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec, ModelEndpointStatus
from graft_api.routes import Routes
from graft_api.schema import Invalid, parse
from graft_operator.engine.clock import Clock
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, DEPLOYMENTS, PODS
from graft_operator.modelendpoint import children
from graft_operator.modelendpoint.children import Parent
from graft_operator.modelendpoint.observed import (
    AdapterView,
    GatewayPod,
    Observed,
    Record,
    ServerPod,
    is_ready,
    read_container_problem,
)
from graft_operator.reports.fleet import Fleet, Heard
from graft_operator.reports.policies import PolicyGuard

Manifest = dict[str, Any]

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", AgentReport, GatewayReport)


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


async def observe(kube: Kube, guard: PolicyGuard, hearsay: Hearsay, resource: Manifest) -> Observed:
    """Return what is known about one ModelEndpoint."""
    parent = Parent.of(resource)
    spec = read_spec(resource)
    (ledger, routes, server, gateway), (adapters, servers, gateways, missing) = await asyncio.gather(
        asyncio.gather(
            kube.get(CONFIG_MAPS, parent.namespace, ledger_name(parent.name)),
            kube.get(CONFIG_MAPS, parent.namespace, routes_name(parent.name)),
            kube.get(DEPLOYMENTS, parent.namespace, _server_name(parent, spec)),
            kube.get(DEPLOYMENTS, parent.namespace, children.gateway_name(parent)),
        ),
        asyncio.gather(
            kube.list(ADAPTERS, Selection(parent.namespace, fields=f"spec.endpointRef.name={parent.name}")),
            server_pods(kube, hearsay, Key(parent.namespace, parent.name)),
            _gateways(kube, hearsay, parent),
            guard.missing(),
        ),
    )
    ledger_document, ledger_record = read_ledger(ledger, parent.name)
    routes_document, routes_record = read_routes(routes, parent.name)
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
        server=server,
        gateway=gateway,
        servers=servers,
        gateways=gateways,
        policies_missing=tuple(missing),
        policies_missing_seconds=guard.missing_seconds,
        listening=hearsay.listening(),
    )


async def server_pods(kube: Kube, hearsay: Hearsay, key: Key) -> list[ServerPod]:
    """Return an endpoint's vLLM pods with what their agents said last."""
    heard = hearsay.fleet.agents(key)
    pods = []
    for pod in await _pods(kube, key, SERVER):
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
    for pod in await _pods(kube, key, GATEWAY):
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


async def _pods(kube: Kube, key: Key, component: str) -> list[Manifest]:
    return await kube.list(PODS, Selection(key.namespace, labels=f"{ENDPOINT_LABEL}={key.name},{COMPONENT_LABEL}={component}"))


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
        spec=spec,
        created_at=metadata["creationTimestamp"],
        deleting="deletionTimestamp" in metadata,
        failed=status.phase == "Failed",
    )
