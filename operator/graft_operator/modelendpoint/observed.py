"""What is known about one ModelEndpoint: values that a decision is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graft_api.adapter import AdapterSpec
from graft_api.collect import CollectorReport
from graft_api.drift import DriftReport
from graft_api.fleet import AgentReport, GatewayReport, VersionReport, VersionState
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec, ModelEndpointStatus
from graft_api.routes import Routes
from graft_api.schema import Invalid
from graft_operator.modelendpoint.children import Parent
from graft_operator.promotion.seen import DriftJob, Word
from graft_operator.shadowtest.turns import TestView

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
class CollectorPod:
    """A collector pod with what it said last. There is one, and for a moment the one before."""

    name: str
    uid: str
    ready: bool
    terminating: bool
    report: CollectorReport | None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class AdapterView:
    """The part of an Adapter that the endpoint decides by."""

    name: str
    uid: str
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
    collector: Manifest | None = None
    """The Deployment, also one that is not wanted any more."""
    collectors: Sequence[CollectorPod] = ()
    tests: Sequence[TestView] = ()
    """All ShadowTests of the namespace that can be read."""
    test_owners: Mapping[str, str] = field(default_factory=dict)
    """All ShadowTests of the namespace by name: the uid of their controller, empty where they have none."""
    drift_jobs: Sequence[DriftJob] = ()
    """All that this endpoint controls."""
    drift_names_taken: frozenset[str] = frozenset()
    """Of attempts that are under way, those whose name somebody else's Job has."""
    words: Sequence[Word] = ()
    """All AdapterApprovals of the namespace that can be read and are not being deleted."""
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

    def counting(self) -> CollectorPod | None:
        """Return the collector that counts: what is going makes room for it."""
        return min(self.collectors, key=lambda pod: (pod.terminating, not pod.ready, pod.name), default=None)

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


def read_drift_job(job: Manifest, pods: Sequence[Manifest], reports: Sequence[DriftReport]) -> DriftJob:
    """Return a Job of drift as it is. `pods` are its own, newest first."""
    metadata, conditions = job["metadata"], job.get("status", {}).get("conditions", [])
    ended = next((one for one in conditions if one["type"] in {"Failed", "Complete"} and one["status"] == "True"), None)
    problem = _waits(pods[0]) if pods else ""
    over = None
    if ended is not None:
        told = f"its Job has failed: {ended.get('reason', '')} {ended.get('message', '')}".strip()
        over = told if ended["type"] == "Failed" else "its Job has ended without a result"
        over += f" ({problem})" if problem else ""
    return DriftJob(metadata["name"], metadata["uid"], "deletionTimestamp" in metadata, over, problem, reports)


def _waits(pod: Manifest) -> str:
    """Return why a pod does not run, in the kubelet's words; of one that has not started, where these are."""
    if (told := read_container_problem(pod)) is not None:
        return ": ".join(part for part in told if part)
    for container in pod.get("status", {}).get("containerStatuses", []):
        state = container.get("state", {})
        if (ended := state.get("terminated")) is not None and ended.get("exitCode"):
            return f"exit code {ended['exitCode']}: {ended.get('message') or ended.get('reason', '')}".rstrip(": ")
        if (waiting := state.get("waiting")) is not None:
            return f"{waiting.get('reason', 'Waiting')}; the Events of pod {pod['metadata']['name']} say what it waits for"
    return ""
