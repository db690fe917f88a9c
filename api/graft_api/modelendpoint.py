"""
ModelEndpoint: a base model in production, the domains that it serves, and the gateway in front of it.

What follows from others stays unset in the spec (`server.maxLoras` from the number of domains) and is shown in `status.slots`.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graft_api.finetunejob import Condition, Credentials, ModelUri
from graft_api.podtemplate import LocalObjectReference, PodTemplate, Quantity, Resources
from graft_api.routes import DomainLimits, Fallback, GatewaySettings, Pem, VersionName
from graft_api.schema import Count, Digest, DnsLabel, Model, ObjectName, Rule, Timestamp

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DEFAULT_RANK = 64
"""What vLLM 0.32 takes for --max-lora-rank."""

OWNED_ARGUMENTS = (
    "--model",
    "--host",
    "--port",
    "--uds",
    "--served-model-name",
    "--enable-lora",
    "--max-loras",
    "--max-cpu-loras",
    "--max-lora-rank",
    "--lora-modules",
    "--api-key",
    "--root-path",
    "--api-server-count",
    "--ssl-keyfile",
    "--ssl-certfile",
    "--config",
    "--logprobs-mode",
    "--disable-log-stats",
)
"""Of vLLM: set by graft, or would open a way around the door, or would blind the effect probe or the drain."""

Argument = Annotated[str, Field(max_length=1024, min_length=1)]


class ServedModel(Model):
    """The base model, a folder in the Hugging Face layout."""

    uri: ModelUri
    """s3://bucket/folder or pvc://claim/folder. hf:// and ipfs:// are not in this version."""
    digest: Digest | None = None
    """Folder digest: sha256 over the sorted lines `<sha256>  <path>` of its files. Checked before vLLM starts; default: as found."""

    rules: ClassVar = (
        Rule(
            cel="self.uri.startsWith('s3://') || self.uri.startsWith('pvc://')",
            message="must be s3://bucket/folder or pvc://claim/folder",
            check=lambda self: self.uri.startswith(("s3://", "pvc://")),
            field=".uri",
        ),
    )


class ExistingServer(Model):
    """A vLLM Deployment of the user's own that has agent and door in its pods (`graft inject`)."""

    deployment: ObjectName


class Server(Model):
    """vLLM: any image with its OpenAI server, 0.32 or newer."""

    image: Annotated[str, Field(max_length=512, min_length=1)] | None = None
    """Default: the chart's value `vllm.image`."""
    command: Annotated[list[Argument], Field(max_length=16, min_length=1)] | None = None
    """Default: python3 -m vllm.entrypoints.openai.api_server."""
    args: Annotated[list[Argument], Field(max_length=64)] | None = None
    """Further arguments, such as --max-model-len=8192. Those that graft sets are refused."""
    dtype: Literal["bfloat16", "float16", "float32", "auto"] = "bfloat16"
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """Of each replica, as nvidia.com/gpu. With more than one, --tensor-parallel-size follows unless args set it. 0: CPU."""
    max_loras: Annotated[int, Field(ge=1, le=64)] | None = None
    """Slots for adapters. Default and least: 2 x domains + 1 (active, previous, one candidate)."""
    max_lora_rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """1, 8, 16, 32, 64, 128, 256, 320 or 512. Default 64."""
    adapter_cache: Quantity = "20Gi"
    """Bound of the disk space for fetched adapters, per pod."""
    start_seconds: Annotated[int, Field(ge=30, le=86400)] = 1800
    """How long vLLM may take to start before it is restarted."""
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """How long a pod that is asked to go may finish what is in flight."""
    pod_template: PodTemplate | None = None
    """Resources, nodeSelector, env, volumes ... of the vLLM container and its pod. `image` is not read: use `server.image`."""
    existing: ExistingServer | None = None
    """Instead of a Deployment of graft's; then everything else here but maxLoras and maxLoraRank is the user's business."""

    rules: ClassVar = (
        Rule(
            cel=f"!has(self.args) || self.args.all(a, !(a.split('=')[0].replace('_', '-') in {list(OWNED_ARGUMENTS)}))",
            message=f"graft sets these itself: {', '.join(OWNED_ARGUMENTS)}",
            check=lambda self: all(arg.split("=")[0].replace("_", "-") not in OWNED_ARGUMENTS for arg in self.args or []),
            field=".args",
        ),
        Rule(
            cel=f"!has(self.maxLoraRank) || self.maxLoraRank in {list(SERVED_RANKS)}",
            message=f"vLLM takes only {', '.join(map(str, SERVED_RANKS))}",
            check=lambda self: self.max_lora_rank is None or self.max_lora_rank in SERVED_RANKS,
            field=".maxLoraRank",
        ),
    )


class ApiKeys(Model):
    """Who may ask: a Secret whose keys name the owners and whose values are `sha256:<hex of the API key>`."""

    secret_ref: LocalObjectReference


class Gateway(GatewaySettings):
    """The replicas that clients talk to."""

    replicas: Annotated[int, Field(ge=0, le=100)] = 2
    api_keys: ApiKeys | None = None
    """Without it, `anonymous` must be true."""
    resources: Resources | None = None
    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] | None = None

    rules: ClassVar = (
        Rule(
            cel="(has(self.anonymous) && self.anonymous) != has(self.apiKeys)",
            message="set either apiKeys, or anonymous: true to serve whoever reaches the Service",
            check=lambda self: self.anonymous != (self.api_keys is not None),
        ),
    )


class Pin(Model):
    """What a domain must be served by, whatever promotion says; for GitOps."""

    adapter: ObjectName | None = None
    """An Adapter of this endpoint and domain. It is switched to once it is loaded on every ready replica."""
    base: bool | None = None
    """True: the base model."""

    rules: ClassVar = (
        Rule(
            cel="has(self.adapter) != (has(self.base) && self.base)",
            message="set either adapter, or base: true",
            check=lambda self: (self.adapter is not None) != bool(self.base),
        ),
    )


class Domain(Model):
    """One domain alias: what clients write as `model`."""

    name: DnsLabel
    pin: Pin | None = None
    """Removing it changes nothing by itself: what serves goes on serving."""
    fallback: Fallback = "Base"
    limits: DomainLimits | None = None


class TrustedKey(Model):
    """A public key; adapters must be signed by one of them."""

    name: DnsLabel
    pem: Pem
    """`-----BEGIN PUBLIC KEY-----` (ECDSA)."""


class ModelEndpointSpec(Model):
    """What serves, to whom, and under which names."""

    base_model: ServedModel
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Of vLLM. An autoscaler may own it through the scale subresource."""
    server: Server = Field(default_factory=Server)
    gateway: Gateway
    domains: Annotated[list[Domain], Field(min_length=1, max_length=31)]
    trusted_keys: Annotated[list[TrustedKey], Field(max_length=16)] = Field(default_factory=list)
    """Without one only the base model is served."""
    credentials: Credentials | None = None
    """For the base model and the adapters."""
    upgrade_policy: Literal["OnDemand", "Auto"] = "OnDemand"
    """
    When a newer operator would build the pods differently: Auto rolls them at once, OnDemand waits for the annotation
    `graft.dev/upgrade` to change. A change of this spec always rolls.
    """

    rules: ClassVar = (
        Rule(
            cel="self.domains.all(d, self.domains.exists_one(e, e.name == d.name))",
            message="every domain needs a name of its own",
            check=lambda self: len({domain.name for domain in self.domains}) == len(self.domains),
            field=".domains",
        ),
        Rule(
            cel="!has(self.trustedKeys) || self.trustedKeys.all(k, self.trustedKeys.exists_one(l, l.name == k.name))",
            message="every key needs a name of its own",
            check=lambda self: len({key.name for key in self.trusted_keys}) == len(self.trusted_keys),
            field=".trustedKeys",
        ),
        Rule(
            cel="!has(self.server) || !has(self.server.maxLoras) || self.server.maxLoras >= 2 * self.domains.size() + 1",
            message="maxLoras must be at least 2 x domains + 1: active and previous of each domain, and a candidate",
            check=lambda self: self.server.max_loras is None or self.server.max_loras >= 2 * len(self.domains) + 1,
            field=".server.maxLoras",
        ),
        Rule(
            cel="!self.domains.exists(d, d.name == (has(self.gateway.baseAlias) ? self.gateway.baseAlias : 'base'))",
            message="no domain may have the name of gateway.baseAlias",
            check=lambda self: self.gateway.base_alias not in {domain.name for domain in self.domains},
            field=".domains",
        ),
        Rule(
            cel="!has(self.server) || !has(self.server.existing) || has(self.baseModel.digest)",
            message="with server.existing graft does not fetch the base model: say its digest",
            check=lambda self: self.server.existing is None or self.base_model.digest is not None,
            field=".baseModel.digest",
        ),
    )

    def slots(self) -> int:
        """Return how many adapters vLLM may hold."""
        return self.server.max_loras or 2 * len(self.domains) + 1

    def rank(self) -> int:
        """Return the highest rank that adapters may have."""
        return self.server.max_lora_rank or DEFAULT_RANK


class Slots(Model):
    """Room for adapters, per pod."""

    max_loras: Count
    max_lora_rank: Count
    used: Count


class ArmStatus(Model):
    """A share of a domain's conversations."""

    adapter: ObjectName | None = None
    """Absent: the base model."""
    digest: Digest | None = None
    version: VersionName | None = None
    weight: Count
    replicas: Count
    """Ready server pods that can answer with it."""


class SwitchStatus(Model):
    """The last change of what serves a domain."""

    before: Annotated[str, Field(max_length=253)] = "base"
    after: Annotated[str, Field(max_length=253)] = "base"
    at: Timestamp
    reason: Annotated[str, Field(max_length=64)]


class DomainStatus(Model):
    """What serves one domain."""

    name: DnsLabel
    arms: Annotated[list[ArmStatus], Field(max_length=8)]
    since: Timestamp | None = None
    last_switch: SwitchStatus | None = None
    waiting_for: Annotated[str, Field(max_length=512)] | None = None
    """Why the pin is not what serves (yet)."""


class PodProblem(Model):
    """A pod of the data plane that is not as it should be."""

    pod: ObjectName
    reason: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=512)] = ""


EndpointPhase = Literal["Pending", "Starting", "Ready", "Degraded", "Failed"]


class ModelEndpointStatus(Model):
    """A projection of ledger, routes and reports. Never an input."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    phase: EndpointPhase | None = None
    replicas: Count | None = None
    """Server pods that exist, for the scale subresource."""
    ready_replicas: Count | None = None
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Of the server pods, for the scale subresource."""
    gateways: Count | None = None
    ready_gateways: Count | None = None
    url: Annotated[str, Field(max_length=512)] | None = None
    """Where clients in the cluster find the gateway."""
    base_model_digest: Digest | None = None
    slots: Slots | None = None
    epoch: Count | None = None
    revision: Count | None = None
    """Of the routes."""
    acknowledged_gateways: Count | None = None
    """How many live gateways route by this revision."""
    domains: Annotated[list[DomainStatus], Field(max_length=31)] | None = None
    failing: Annotated[list[PodProblem], Field(max_length=20)] | None = None
    failing_count: Count | None = None
    platform: Annotated[str, Field(max_length=64)] | None = None
    """Hash of how the running pods were built."""
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = None


class ModelEndpoint(Model):
    """Serves a base model and its adapters by domain alias, through a gateway."""

    api_version: Literal["graft.dev/v1alpha1"]
    kind: Literal["ModelEndpoint"]
    metadata: dict[str, Any]
    spec: ModelEndpointSpec
    rules: ClassVar = (
        Rule(
            cel="self.metadata.name.size() <= 40 && !self.metadata.name.contains('.')",
            message="the name is part of the names of Services and service accounts: at most 40 characters, no dots",
            check=lambda self: len(self.metadata.get("name", "")) <= 40 and "." not in self.metadata.get("name", ""),
        ),
    )
    status: ModelEndpointStatus | None = None
