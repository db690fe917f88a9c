"""What is known about one Adapter: values that a decision is made from."""

from collections.abc import Sequence
from dataclasses import dataclass

from graft_api.adapter import AdapterSpec, AdapterStatus
from graft_api.dataplane import version_name
from graft_api.ledger import LedgerDomain, LedgerVersion
from graft_api.modelendpoint import Domain, DomainStatus, ModelEndpointSpec
from graft_api.routes import Routes
from graft_api.schema import Invalid
from graft_operator.modelendpoint.observed import ServerPod
from graft_operator.promotion import turns
from graft_operator.promotion.seen import Candidate


@dataclass(frozen=True)
class Endpoint:
    """The ModelEndpoint that an Adapter names."""

    spec: ModelEndpointSpec | Invalid
    base_digest: str | None
    deleting: bool
    entry: LedgerDomain | None = None
    """What its ledger has of the adapter's domain."""
    told: DomainStatus | None = None
    """What its status says of that: in words, and with what is not written down."""


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
    uid: str
    generation: int
    spec: AdapterSpec
    status: AdapterStatus
    deleting_since: str | None
    has_finalizer: bool
    endpoint: Endpoint | None
    routes: Routes | None
    servers: Sequence[ServerPod] = ()
    created_at: str = ""
    listening: bool = False
    """This operator began to hear the fleet a moment ago: silence means nothing yet."""

    @property
    def version(self) -> str:
        """The name under which vLLM holds it."""
        return version_name(self.spec.domain, self.spec.artifact.digest)

    def candidate(self) -> Candidate:
        """Return it as its endpoint takes turns by it; whether it is loaded is said elsewhere."""
        artifact = self.spec.artifact
        version = LedgerVersion(adapter=self.name, digest=artifact.digest, uri=artifact.uri, size_bytes=artifact.size_bytes)
        deleting = self.deleting_since is not None
        return Candidate(self.name, self.uid, version, self.created_at, promote=self.spec.promote, deleting=deleting, loaded=False)

    def is_remembered(self) -> bool:
        """Whether its endpoint has still to note that it is deleted: it would take another one of its name for a restored one."""
        entry = self.endpoint.entry if self.endpoint and self.domain() else None
        return entry is not None and turns.knows(entry, self.name, self.spec.artifact.digest)

    def domain(self) -> Domain | None:
        """Return what the endpoint's spec says of its domain."""
        spec = self.endpoint.spec if self.endpoint else None
        domains = spec.domains if isinstance(spec, ModelEndpointSpec) else []
        return next((domain for domain in domains if domain.name == self.spec.domain), None)

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
