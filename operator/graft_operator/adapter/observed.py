"""What is known about one Adapter: values that a decision is made from."""

from collections.abc import Sequence
from dataclasses import dataclass

from graft_api.adapter import AdapterSpec, AdapterStatus
from graft_api.dataplane import version_name
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.routes import Routes
from graft_api.schema import Invalid
from graft_operator.modelendpoint.observed import ServerPod


@dataclass(frozen=True)
class Endpoint:
    """The ModelEndpoint that an Adapter names."""

    spec: ModelEndpointSpec | Invalid
    base_digest: str | None
    deleting: bool


@dataclass(frozen=True)
class Unreadable:
    """An Adapter whose spec this version cannot read: a CRD of another version let it through."""

    generation: int
    spec: Invalid
    status: AdapterStatus
    deleting_since: str | None
    has_finalizer: bool

    @property
    def version(self) -> str | None:
        """The name under which vLLM holds it, if it was ever told."""
        return self.status.version


@dataclass(frozen=True)
class Observed:
    """Everything that one decision needs."""

    namespace: str
    name: str
    generation: int
    spec: AdapterSpec
    status: AdapterStatus
    deleting_since: str | None
    has_finalizer: bool
    endpoint: Endpoint | None
    routes: Routes | None
    servers: Sequence[ServerPod] = ()
    listening: bool = False
    """This operator began to hear the fleet a moment ago: silence means nothing yet."""

    @property
    def version(self) -> str:
        """The name under which vLLM holds it."""
        return version_name(self.spec.domain, self.spec.artifact.digest)

    def is_wanted(self) -> bool:
        """Whether the agents are asked to load it."""
        return self.routes is not None and any(version.name == self.version for version in self.routes.versions)

    def may_have(self, pod: ServerPod) -> bool:
        """Whether a pod may still hold it: what the pod said before it knew of these routes proves nothing, and nor does silence."""
        if pod.report is None:
            return pod.running
        routes = self.routes
        behind = routes is not None and (pod.report.epoch, pod.report.revision) < (routes.epoch, routes.revision)
        return behind or pod.version(self.version) is not None

    def is_routed(self) -> bool:
        """Whether requests go to it."""
        return self.routes is not None and self.version in self.routes.routed()
