"""
Adapter: an immutable artifact that may serve a domain.

A finished job creates it; nobody owns it, so that deleting or expiring a job never takes a serving adapter away.
"""

from typing import Any, ClassVar, Literal

from graft_api.finetunejob import ArtifactReference
from graft_api.podtemplate import LocalObjectReference
from graft_api.schema import Digest, DnsLabel, Model, ObjectName, Uid


class AdapterArtifact(ArtifactReference):
    """What is served: uri and digest never change. A new artifact is a new Adapter."""

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
    """Whether the endpoint's promotion policy may carry it into production."""
    origin: AdapterOrigin | None = None


class Adapter(Model):
    """An immutable, signed artifact for one domain of a ModelEndpoint."""

    api_version: Literal["graft.dev/v1alpha1"]
    kind: Literal["Adapter"]
    metadata: dict[str, Any]
    spec: AdapterSpec
