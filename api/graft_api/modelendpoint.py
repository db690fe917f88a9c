"""
ModelEndpoint: a base model in production, the domains that it serves, and the gateway in front of it.

What follows from others stays unset in the spec (`server.maxLoras` from the number of domains) and is shown in `status.slots`.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graft_api.collect import ObservedDomain, Segments, collector_account
from graft_api.finetunejob import Condition, Credentials, ModelUri, OutputUri
from graft_api.podtemplate import EnvVar, LocalObjectReference, PodTemplate, Quantity, Resources
from graft_api.promotion import APPROVERS, Promotion
from graft_api.routes import DomainLimits, Fallback, GatewaySettings, Pem, Version, VersionName
from graft_api.schema import Count, Digest, DnsLabel, Model, ObjectName, Rule, Timestamp
from graft_api.watch import WatchReading

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


def is_owned(argument: str) -> bool:
    """Whether an argument is one of these, or what vLLM takes for one: it accepts a flag's beginning, too."""
    flag = argument.partition("=")[0].replace("_", "-")
    return len(flag) > 2 and any(owned.startswith(flag) for owned in OWNED_ARGUMENTS)


Argument = Annotated[str, Field(max_length=1024, min_length=1)]


class ServedModel(Model):
    """The base model, a folder in the Hugging Face layout."""

    uri: ModelUri
    """s3://bucket/folder or pvc://claim/folder. hf:// and ipfs:// are not in this version."""
    digest: Digest | None = None
    """Folder digest, see `docs/serving.md`. Checked before vLLM starts; default: as found, and then in `status.baseModelDigest`."""

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
    """
    Resources, nodeSelector, env, volumes ... of the vLLM container and its pod. `image` is not read: use `server.image`. All pods of the
    endpoint are pulled with its imagePullSecrets.
    """
    existing: ExistingServer | None = None
    """
    Instead of a Deployment of graft's. Of all else here maxLoras, maxLoraRank, adapterCache, drainSeconds and the imagePullSecrets of
    podTemplate (of gateways and collector) still count; the rest is the user's business. There are no ShadowTests, and so no promotion.
    """

    rules: ClassVar = (
        Rule(
            cel=f"!has(self.args) || self.args.all(a, !a.startsWith('--') || a == '--' ||"
            f" !{list(OWNED_ARGUMENTS)}.exists(o, o.startsWith(a.split('=')[0].replace('_', '-'))))",
            message=f"graft sets these itself, and none may be there in full or shortened: {', '.join(OWNED_ARGUMENTS)}",
            check=lambda self: not any(is_owned(arg) for arg in self.args or []),
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
    promotion: Promotion | None = None
    """By what new adapters come into production by themselves. Changing it needs the verb `setpolicy` on the ModelEndpoint."""
    paused: bool = False
    """No candidate begins, is activated or goes on with its ramp; what is watched goes on being watched, and rolled back."""
    fallback: Fallback = "Base"
    limits: DomainLimits | None = None


class TrustedKey(Model):
    """A public key; adapters must be signed by one of them."""

    name: DnsLabel
    pem: Pem
    """`-----BEGIN PUBLIC KEY-----` (ECDSA)."""


COLLECTOR_OWN = r"^(PYTHON|LD_|SSL_|OPENSSL_|AWS_|KUBERNETES_|GRAFT_|GLIBC_|PATH$|HOME$|TMPDIR$|GCONV_PATH$)"
"""
Names of variables that `collector.env` must not set: they steer interpreter, loader, TLS, the store and where the API server is, in a
process that writes what verdicts are read from. An RE2 and Python pattern.
"""


class Collector(Model):
    """What measures production: it scores a sample of answers all the time, and compares versions while a ShadowTest runs."""

    store: OutputUri
    """s3://bucket/folder: observations below `observe/`, the pairs of a test below `shadowtests/<name>-<uid>/`."""
    credentials: Credentials | None = None
    """That may write there. Default: the endpoint's."""
    observe: Annotated[list[ObservedDomain], Field(max_length=31)] = Field(default_factory=list)
    """Without one, nothing is measured but ShadowTests."""
    segments: Segments = Field(default_factory=Segments)
    """Of observations."""
    queue_bytes: Annotated[int, Field(ge=1_048_576, le=4_294_967_296)] = 67_108_864
    """What one gateway may hold of what the collector has not taken yet. Beyond, it is dropped and counted: production never waits."""
    image: Annotated[str, Field(max_length=512, min_length=1)] | None = None
    """With the programs that `command` scorers name: built `FROM` the operator's serving image, which is the default."""
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = None
    """For the tokens that scorers name by `tokenEnv`. None that steers the collector itself."""
    resources: Resources | None = None
    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] | None = None

    rules: ClassVar = (
        Rule(
            cel="self.store.startsWith('s3://')",
            message="must be s3://bucket/folder",
            check=lambda self: self.store.startswith("s3://"),
            field=".store",
        ),
        Rule(
            cel=f"!has(self.env) || !self.env.exists(e, e.name.matches('{COLLECTOR_OWN}'))",
            message="is for the tokens of scorers: PATH, HOME, TMPDIR, GCONV_PATH and names that begin with PYTHON, LD_, SSL_, OPENSSL_,"
            " AWS_, KUBERNETES_, GLIBC_ or GRAFT_ steer the collector itself; credentials of the store belong into collector.credentials",
            check=lambda self: not any(re.match(COLLECTOR_OWN, variable.name) for variable in self.env or []),
            field=".env",
        ),
    )


class Held(Model):
    """Of an endpoint that a ShadowTest made: what its servers hold, whatever any ledger says, and for whom."""

    endpoint: ObjectName
    """In production: its collector alone may ask here."""
    account: ObjectName | None = None
    """Service account of that collector's pods. Default: graft's own, `graft-collector-<endpoint>`."""
    versions: Annotated[list[Version], Field(max_length=8)]
    """In which incumbent and candidate are. Without one, the base model alone."""

    def asking(self) -> str:
        """Return the service account that the doors let in."""
        return self.account or collector_account(self.endpoint)


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
    collector: Collector | None = None
    """Without it nothing is measured, and no ShadowTest of this endpoint can run."""
    shadow: Held | None = None
    """Written by ShadowTests alone. It has no gateway, and no ledger."""
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
        Rule(
            cel="!has(self.server) || !has(self.server.existing) || self.domains.all(d, !has(d.promotion))",
            message="with server.existing there are no ShadowTests, for graft cannot make the same server a second time: pin adapters",
            check=lambda self: self.server.existing is None or all(domain.promotion is None for domain in self.domains),
            field=".domains",
        ),
        Rule(
            cel="!has(self.collector) || !has(self.collector.observe) ||"
            " self.collector.observe.all(o, self.domains.exists(d, d.name == o.domain))",
            message="only domains of this endpoint are observed",
            check=lambda self: (
                self.collector is None or {o.domain for o in self.collector.observe} <= {domain.name for domain in self.domains}
            ),
            field=".collector.observe",
        ),
        Rule(
            cel="has(self.collector) || !self.domains.exists(d, has(d.promotion))",
            message="promotion needs spec.collector: without it nothing is measured",
            check=lambda self: self.collector is not None or all(domain.promotion is None for domain in self.domains),
            field=".collector",
        ),
        Rule(
            cel="!has(self.collector) || self.domains.all(d, !has(d.promotion) || !has(d.promotion.watch) ||"
            " !has(d.promotion.watch.metrics) || d.promotion.watch.metrics.all(m, has(m.measure) || (has(self.collector.observe) &&"
            " self.collector.observe.exists(o, o.domain == d.name && o.scores.exists(s, s.name == m.name)))))",
            message="a watched metric without measure has the name of a score of collector.observe of its domain: name one, or set measure",
            check=lambda self: self.collector is None or not any(self.unobserved(domain) for domain in self.domains),
            field=".domains",
        ),
        Rule(
            cel="self.domains.all(d, !has(d.promotion) || !has(d.promotion.drift) || !has(d.promotion.drift.embeddings.tokenEnv) ||"
            " (has(self.collector) && has(self.collector.env) &&"
            " self.collector.env.exists(e, e.name == d.promotion.drift.embeddings.tokenEnv)))",
            message="promotion.drift.embeddings.tokenEnv must be the name of one of spec.collector.env",
            check=lambda self: self.token_variables() <= {variable.name for variable in (self.collector and self.collector.env) or []},
            field=".collector.env",
        ),
        Rule(
            cel="!has(self.shadow) || (self.gateway.replicas == 0 && !has(self.collector))",
            message="an endpoint with shadow has neither gateways nor a collector",
            check=lambda self: self.shadow is None or (self.gateway.replicas == 0 and self.collector is None),
            field=".shadow",
        ),
    )

    def unobserved(self, domain: Domain) -> set[str]:
        """Return the metrics that a domain's watch would wait for in vain: nothing measures them."""
        watched = domain.promotion.watch.metrics if domain.promotion else []
        observed = self.collector.observe if self.collector else []
        scores = {score.name for one in observed if one.domain == domain.name for score in one.scores}
        return {metric.name for metric in watched if metric.measure is None} - scores

    def collector_credentials(self) -> Credentials | None:
        """Return what the collector writes its store with."""
        return (self.collector.credentials if self.collector else None) or self.credentials

    def drifts(self) -> bool:
        """Whether answers to principle prompts decide in one of the domains."""
        return any(domain.promotion and domain.promotion.drift for domain in self.domains)

    def token_variables(self) -> set[str]:
        """Return the variables whose values are the tokens of drift's embeddings."""
        policies = [domain.promotion.drift for domain in self.domains if domain.promotion and domain.promotion.drift]
        return {policy.embeddings.token_env for policy in policies if policy.embeddings.token_env}

    def drift_account(self) -> str | None:
        """Return the service account of the user's own that drift Jobs have, for workload identity; None: graft's."""
        credentials = self.collector_credentials()
        return credentials.service_account_name if credentials and self.drifts() else None

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


PromotionState = Literal[
    "Testing",
    "AwaitingApproval",
    "Checking",
    "Ramping",
    "Watching",
    "Unconfirmed",
    "Confirmed",
    "RolledBack",
    "NotProven",
    "Drifted",
    "Rejected",
    "Superseded",
    "Deleted",
    "PolicyChanged",
    "Overridden",
]
"""`ledger.GateState` of a candidate that is on its way, `ledger.Reason` of one whose way is over."""


class PromotionStatus(Model):
    """A candidate on its way into production, or how its way ended."""

    state: PromotionState
    since: Timestamp
    number: Count
    """It is the domain's n-th candidate."""
    adapter: ObjectName
    digest: Digest
    test: ObjectName | None = None
    """The ShadowTest that counts."""
    evidence_digest: Digest | None = None
    """Of its verdict: what approvers name."""
    verdict: Annotated[str, Field(max_length=512)] | None = None
    approvals: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=APPROVERS)] | None = None
    """Who has approved: those who are counted at the moment; from the activation on, those who were."""
    approvals_needed: Count | None = None
    observed_seconds: Count | None = None
    """Of the watch."""
    window_seconds: Count | None = None
    """That are to be observed before it is confirmed."""
    readings: Annotated[list[WatchReading], Field(max_length=17)] | None = None
    """New version against those that were held back."""
    drift: Annotated[str, Field(max_length=512)] | None = None
    """Of each moment the principle whose answers are farthest from those of the version before, with interval and limit."""
    drift_problem: Annotated[str, Field(max_length=512)] | None = None
    """Why the last attempt to measure it, or to try whether it can be measured, has failed. Absent: none has, or a later one has not."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What it waits for, or how it ended, with number and bound."""


class DomainStatus(Model):
    """What serves one domain."""

    name: DnsLabel
    arms: Annotated[list[ArmStatus], Field(max_length=8)]
    since: Timestamp | None = None
    last_switch: SwitchStatus | None = None
    waiting_for: Annotated[str, Field(max_length=512)] | None = None
    """Why the pin is not what serves (yet)."""
    promotion: PromotionStatus | None = None
    """Of the candidate that is on its way; without one, of the last whose way is over."""
    none_begins: Annotated[str, Field(max_length=1024)] | None = None
    """Where there is a policy for promotion and no candidate on its way: what the next one waits for."""


class PodProblem(Model):
    """A pod of the data plane that is not as it should be."""

    pod: ObjectName
    reason: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=512)] = ""


EndpointPhase = Literal["Pending", "Starting", "Ready", "Degraded", "Failed"]


class CollectorStatus(Model):
    """How the measuring of production is."""

    ready: bool
    test: ObjectName | None = None
    """The ShadowTest that is compared, or whose report is written."""
    waiting: Count | None = None
    """Exchanges that were taken and are not settled yet."""
    lost: Count | None = None
    """Chosen exchanges that never came or were left out, of all causes."""
    store_away: bool | None = None


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
    collector: CollectorStatus | None = None
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
