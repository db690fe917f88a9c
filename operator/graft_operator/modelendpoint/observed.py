"""What is known about one ModelEndpoint: values that a decision is made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graft_api.adapter import AdapterSpec
from graft_api.fleet import AgentReport, GatewayReport, VersionReport, VersionState
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec, ModelEndpointStatus
from graft_api.routes import Routes
from graft_api.schema import Invalid
from graft_operator.modelendpoint.children import Parent

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ServerPod:
    """A vLLM pod with what its agent said last."""

    name: str
    uid: str
    ready: bool
    """By the kubelet, and not terminating."""
    terminating: bool
    report: AgentReport | None
    """None: nothing was heard from this very pod, or not for long."""
    problem: tuple[str, str] | None = None
    """Reason and message of a container that cannot run."""
    running: bool = True
    """Its vLLM may hold adapters: the pod has been placed, its model is there, and it has not ended."""

    def version(self, name: str) -> VersionReport | None:
        """Return what this pod says of a version."""
        return next((version for version in self.report.versions if version.name == name), None) if self.report else None

    def has(self, name: str) -> bool:
        """Whether requests for this version may come here."""
        version = self.version(name)
        return version is not None and version.state is VersionState.READY


@dataclass(frozen=True)
class GatewayPod:
    """A gateway pod with what it said last."""

    name: str
    uid: str
    ready: bool
    running: bool
    """Some container of it may still hold requests."""
    terminating: bool
    report: GatewayReport | None
    problem: tuple[str, str] | None = None

    def acknowledges(self, routes: Routes) -> bool:
        """Whether every request that it accepts from now on is routed by these routes or newer ones."""
        return self.report is not None and (self.report.epoch, self.report.revision) >= (routes.epoch, routes.revision)


@dataclass(frozen=True)
class AdapterView:
    """The part of an Adapter that the endpoint decides by."""

    name: str
    spec: AdapterSpec
    created_at: str
    deleting: bool
    failed: bool
    """Refused for good, by its own status."""


@dataclass(frozen=True)
class Record:
    """A ConfigMap under the name of a record of ours, as it was read: the version that a write must replace."""

    uid: str
    resource_version: str
    problem: str | None = None
    """Why its document cannot be read."""
    foreign: bool = False
    """Without the labels that the operator alone can set: somebody else's, whatever is in it."""


@dataclass(frozen=True)
class Observed:
    """Everything that one decision needs."""

    parent: Parent
    generation: int
    spec: ModelEndpointSpec | Invalid
    status: ModelEndpointStatus
    upgrade: str = ""
    """The annotation by which a user asks for today's pods."""
    ledger: Ledger | None = None
    ledger_record: Record | None = None
    routes: Routes | None = None
    routes_record: Record | None = None
    adapters: Sequence[AdapterView] = ()
    server: Manifest | None = None
    """The Deployment, ours or the user's."""
    gateway: Manifest | None = None
    servers: Sequence[ServerPod] = ()
    gateways: Sequence[GatewayPod] = ()
    policies_missing: Sequence[str] = field(default_factory=tuple)
    policies_missing_seconds: float = 0.0
    listening: bool = False
    """This operator began to hear the fleet a moment ago: silence means nothing yet."""

    def ready_servers(self) -> list[ServerPod]:
        """Return the pods that take traffic."""
        return [pod for pod in self.servers if pod.ready]

    def unheard(self) -> bool:
        """Whether a pod that takes traffic has not said yet what it has, and may only not have had the time."""
        return self.listening and any(pod.report is None for pod in self.ready_servers())

    def adapter(self, name: str) -> AdapterView | None:
        """Return one of the endpoint's adapters."""
        return next((adapter for adapter in self.adapters if adapter.name == name), None)


def read_container_problem(pod: Manifest) -> tuple[str, str] | None:
    """Return why a pod cannot run: a container that waits for other than its turn, or that ended badly."""
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return "Unschedulable", condition.get("message", "")
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in {"PodInitializing", "ContainerCreating", None}:
            ended = container.get("lastState", {}).get("terminated") or {}
            said = ended.get("message") or waiting.get("message", "")
            return waiting["reason"], f"{container['name']}: {said}".strip()
    return None


def is_ready(pod: Manifest) -> bool:
    """Whether the kubelet calls the pod Ready, and nobody asked it to go."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]
