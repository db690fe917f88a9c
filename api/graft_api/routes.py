"""
The routes: desired state of an endpoint's data plane, written by the ModelEndpoint reconciler alone.

They lie in one ConfigMap per endpoint (key `routes.json`), watched by gateways and agents and mounted into their pods, so that
a container can start while the API server is away. (epoch, revision) only grows; whoever reads ignores a lower one.
"""

from typing import Annotated, Literal

from pydantic import Field

from graft_api.finetunejob import StoreUri
from graft_api.schema import Count, Decimal, Digest, DnsLabel, Model, ObjectName, Uid
from graft_api.tee import Tee

Pem = Annotated[str, Field(max_length=4096, pattern=r"^-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+-----END PUBLIC KEY-----\n?$")]
VersionName = Annotated[str, Field(max_length=63, min_length=1)]


class EndpointIdentity(Model):
    """Which ModelEndpoint."""

    namespace: ObjectName
    name: ObjectName
    uid: Uid


class Version(Model):
    """One adapter at one digest, under the name that vLLM gives it. Agents load these, in this order, and nothing else."""

    name: VersionName
    domain: DnsLabel
    adapter: ObjectName
    """The Adapter object, for people."""
    digest: Digest
    uri: StoreUri
    size_bytes: Count


class Arm(Model):
    """A share of a domain's conversations."""

    version: VersionName | None = None
    """Absent: the base model."""
    weight: Annotated[int, Field(ge=1, le=10_000)] = 10_000


class DomainLimits(Model):
    """Beyond these a request is answered 429, at once. They hold per gateway replica."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    concurrent: Annotated[int, Field(ge=1, le=100_000)] | None = None


class HardLimits(Model):
    """
    Beyond these each gateway takes the new version out at once, by itself, also while the operator is away.

    Only if the conversations that were held back are not beyond them, too: what strikes both is not the new version's doing.
    """

    error_share: Annotated[str, Decimal(gt=0, le=1)] | None = "0.1"
    """Of requests that end in an error of the server: 5xx, timed out, broken off. "1": errors have no limit."""
    latency_seconds: Annotated[str, Decimal(gt=0, le=3600)] | None = None
    """To the end of the answer; with `latencyShare`."""
    latency_share: Annotated[str, Decimal(gt=0, le=1)] = "0.5"
    """Of requests that may be slower than that."""
    min_requests: Annotated[int, Field(ge=5, le=100_000)] = 20
    """On the new version within the window, before anything is concluded."""
    window_seconds: Annotated[int, Field(ge=1, le=600)] = 30


class TripWire(Model):
    """When a gateway takes a version out by itself, and what serves in its place."""

    version: VersionName
    instead: VersionName | None = None
    """The previous version. Absent: the base model."""
    limits: HardLimits


Fallback = Literal["Base", "Error"]


class Route(Model):
    """One domain alias and what serves it."""

    domain: DnsLabel
    revision: Count
    """Of the routes in which this route last changed."""
    salt: Annotated[str, Field(max_length=64)]
    """With the conversation key it decides the arm: the same conversation stays on its arm while salt and arms stay."""
    arms: Annotated[list[Arm], Field(min_length=1, max_length=8)]
    fallback: Fallback = "Base"
    """When an arm's version is on no pod that answers: Base serves the base model, Error answers 503."""
    limits: DomainLimits | None = None
    trip_wire: TripWire | None = None
    """While a new version is watched."""
    aborted: Annotated[list[VersionName], Field(max_length=4)] = Field(default_factory=list)
    """Versions that were rolled back with `inFlight: Abort`: what is under way on them ends now, with an error."""


class KeyLimits(Model):
    """Of each API key (or of all anonymous clients together), per gateway replica."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    concurrent: Annotated[int, Field(ge=1, le=100_000)] | None = None


class GatewayLimits(Model):
    """What one request may take."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=268_435_456)] = 8_388_608
    first_byte_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    """From the request to the first byte of the answer."""
    idle_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Between two bytes of an answer, and for a client to go on reading."""


MediaHost = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
Balancing = Literal["PrefixAffine", "LeastOutstanding"]


class GatewaySettings(Model):
    """How gateways treat clients; changes without a restart."""

    base_alias: DnsLabel | None = "base"
    """Alias of the base model itself."""
    anonymous: bool = False
    """Without API keys."""
    conversation_header: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9-]+$")] = "x-conversation-id"
    """Names the conversation; `metadata.conversation_id` of the body does, too."""
    balancing: Balancing = "PrefixAffine"
    """
    PrefixAffine: a conversation goes to its own pod, whose prefix cache knows it, unless that one has clearly more to do than the
    others. LeastOutstanding: to the pod with the fewest requests of this gateway in flight.
    """
    limits: GatewayLimits = Field(default_factory=GatewayLimits)
    allowed_media_hosts: Annotated[list[MediaHost], Field(max_length=32)] = Field(default_factory=list)
    """
    Hosts from which vLLM may fetch images, audio and video that a request names by http(s) URL. It fetches from inside the cluster,
    and follows no redirects: name only hosts that are trusted with that. Without one only data: URLs are served.
    """
    per_key: KeyLimits | None = None


class Routes(Model):
    """All that gateways and agents of one endpoint must know."""

    format: Literal[1] = 1
    endpoint: EndpointIdentity
    epoch: Count
    """Of the operator's leader that wrote this; an old leader that wakes up is ignored."""
    revision: Count
    base_digest: Digest | None = None
    """Of the base model's folder. Absent: not known yet, nothing can be loaded."""
    max_loras: Annotated[int, Field(ge=1, le=512)]
    max_lora_rank: Annotated[int, Field(ge=1, le=512)]
    signing_keys: Annotated[list[Pem], Field(max_length=16)]
    """An adapter must be signed by one of these."""
    versions: Annotated[list[Version], Field(max_length=64)] = Field(default_factory=list)
    """Most important first: those that are routed, then those kept for a rollback, then candidates."""
    routes: Annotated[list[Route], Field(max_length=64)] = Field(default_factory=list)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    tee: Tee | None = None
    """Absent: nothing is measured, and gateways tell nobody of requests."""

    def routed(self) -> frozenset[str]:
        """Return the versions that some arm sends requests to."""
        return frozenset(arm.version for route in self.routes for arm in route.arms if arm.version)

    def newer_than(self, other: "Routes | None") -> bool:
        """Whether these replace `other`. Routes of another ModelEndpoint of the same name always do."""
        if other is None or other.endpoint.uid != self.endpoint.uid:
            return True
        return (self.epoch, self.revision) > (other.epoch, other.revision)
