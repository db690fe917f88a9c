"""
Adapter: an immutable artifact that may serve a domain.

A finished job creates it; nobody owns it, so that deleting or expiring a job never takes a serving adapter away.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graft_api.finetunejob import ArtifactReference, Condition
from graft_api.fleet import ProbeReading
from graft_api.modelendpoint import PodProblem, PromotionStatus
from graft_api.podtemplate import LocalObjectReference
from graft_api.routes import VersionName
from graft_api.schema import Count, Digest, DnsLabel, Model, ObjectName, Rule, Timestamp, Uid

FINALIZER = "graft.dev/drain"
"""
Held until nothing is routed to the adapter and every running server pod has said that it does not have it (any more).

Released at once when its endpoint is gone or going, or when its spec cannot be read; after five minutes whatever the pods say.
"""


class AdapterArtifact(ArtifactReference):
    """What is served: uri and digest never change. A new artifact is a new Adapter."""

    rules: ClassVar = (
        Rule(
            # The agents would read any file of their pods for it. What ArtifactReference also knows, file://, is for `graft run`.
            cel="self.uri.startsWith('s3://')",
            message="must be s3://bucket/folder",
            check=lambda self: self.uri.startswith("s3://"),
            field=".uri",
        ),
    )
    transition_rules: ClassVar = ({"rule": "self == oldSelf", "message": "an artifact is immutable; create a new Adapter"},)


class AdapterOrigin(Model):
    """The job that made it, for people: the object may be gone."""

    job: ObjectName
    uid: Uid


class AdapterSpec(Model):
    """Which artifact, for which domain of which endpoint."""

    artifact: AdapterArtifact
    domain: DnsLabel
    base_model_digest: Digest
    endpoint_ref: LocalObjectReference
    promote: bool = True
    """Whether the endpoint's `promotion` may carry it into production. `pin` does not ask."""
    origin: AdapterOrigin | None = None

    transition_rules: ClassVar = (
        {
            "rule": "[self.domain, self.endpointRef.name, self.baseModelDigest] == "
            "[oldSelf.domain, oldSelf.endpointRef.name, oldSelf.baseModelDigest]",
            "message": "domain, endpoint and base model are immutable; create a new Adapter",
        },
    )


AdapterPhase = Literal[
    "Pending",
    "Loading",
    "Loaded",
    "Testing",
    "AwaitingApproval",
    "Checking",
    "Serving",
    "NotProven",
    "Rejected",
    "RolledBack",
    "Failed",
    "Retiring",
]
"""Where it is, and from Loaded on how far its promotion is. Loaded: none has begun, or it ended without a word about the adapter."""


class Placement(Model):
    """Where the adapter is, over the ready server pods."""

    ready: Count
    """Loaded, verified, and its effect proven."""
    total: Count
    failing: Count = 0


class AdapterStatus(Model):
    """What the agents say of it. Never an input."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    phase: AdapterPhase | None = None
    version: VersionName | None = None
    """Under which vLLM holds it."""
    replicas: Placement | None = None
    failing: Annotated[list[PodProblem], Field(max_length=20)] | None = None
    probe: ProbeReading | None = None
    """The weakest of all pods."""
    loaded_at: Timestamp | None = None
    """When it was first ready on every replica."""
    load_seconds: float | None = None
    """The slowest pod's fetch, verification, load and probe together."""
    deleting_since: Timestamp | None = None
    promotion: PromotionStatus | None = None
    """Of its endpoint's ledger. Absent: it was never a candidate."""
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = None


class Adapter(Model):
    """An immutable, signed artifact for one domain of a ModelEndpoint."""

    api_version: Literal["graft.dev/v1alpha1"]
    kind: Literal["Adapter"]
    metadata: dict[str, Any]
    spec: AdapterSpec
    status: AdapterStatus | None = None
