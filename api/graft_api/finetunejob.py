"""
FineTuneJob: what the user says, and what the operator answers.

Only what depends on nothing else has a default here. What follows from `domain` or `method` stays unset in the spec and
is filled in by `graft_api.resolve`, else "lora with method full" could not be told from a default.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graft_api.dataset import Dataset
from graft_api.evaluation import Evaluation
from graft_api.podtemplate import LocalObjectReference, PodTemplate, StringMap
from graft_api.schema import Count, Decimal, Digest, DnsLabel, Model, ObjectName, Rule, Timestamp, Uid

MODEL_URI_PATTERN = r"^((s3|hf|ipfs|pvc)://[^/].*|file:///.*)$"
ModelUri = Annotated[str, Field(max_length=1024, pattern=MODEL_URI_PATTERN)]
STORE_URI_PATTERN = r"^(s3://[^/].*|file:///.*)$"
StoreUri = Annotated[str, Field(max_length=1024, pattern=STORE_URI_PATTERN)]
OutputUri = Annotated[str, Field(max_length=768, pattern=STORE_URI_PATTERN)]
"""Leaves room for the run folder."""


class BaseModelSource(Model):
    """The base model: a folder in the Hugging Face layout, or the merged result of an earlier job."""

    uri: ModelUri | None = None
    """s3:// or pvc://claim/folder; file:// for `graft run`. hf:// and ipfs:// are not in this version."""
    digest: Digest | None = None
    """Folder digest, see `docs/serving.md`. Checked before anything is trained."""
    from_job: ObjectName | None = None
    """Not in this version."""
    from_adapter: ObjectName | None = None
    """Not in this version."""

    rules: ClassVar = (
        Rule(
            cel="[has(self.uri), has(self.fromJob), has(self.fromAdapter)].filter(x, x).size() == 1",
            message="set exactly one of uri, fromJob, fromAdapter",
            check=lambda self: sum(v is not None for v in (self.uri, self.from_job, self.from_adapter)) == 1,
        ),
    )


class Lora(Model):
    """Low-rank adaptation, Hu et al. 2021 (arXiv 2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Default 64. At most 512: vLLM loads no higher rank."""
    alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Scale of the update: alpha / rank. Default 128."""
    dropout: Annotated[str, Decimal(ge=0, lt=1)] | None = None
    """Default 0.05."""
    target_modules: Annotated[list[Annotated[str, Field(max_length=128, min_length=1)]], Field(max_length=32, min_length=1)] | None = None
    """Names of the linear layers to adapt. Default: q, k, v, o, gate, up and down projections."""


class EarlyStopping(Model):
    """Stop when the validation loss has not improved by `minDelta` for `patience` evaluations."""

    patience: Annotated[int, Field(ge=1, le=1000)]
    min_delta: Annotated[str, Decimal(ge=0)] | None = None


class Checkpoints(Model):
    """How often training can be resumed from. Default: once an epoch."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Default: one epoch."""
    keep: Annotated[int, Field(ge=1, le=100)] | None = None
    """Default 2."""


class Training(Model):
    """Hyperparameters."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Default by domain: dsl 3, governance 5, multimodal 2, others 3."""
    learning_rate: Annotated[str, Decimal(gt=0, le=1)] | None = None
    """Default 2e-4."""
    scheduler: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"] | None = None
    """Default cosine."""
    warmup_ratio: Annotated[str, Decimal(ge=0, lt=1)] | None = None
    """Share of the steps. Default 0.03."""
    optimizer: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch", "adamw_torch_fused"] | None = None
    """Default adamw_8bit."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Rows a device and step. Default 4."""
    gradient_accumulation: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Steps that share one update. Default 16."""
    max_length: Annotated[int, Field(ge=8, le=1048576)] | None = None
    """Tokens; longer rows are cut. Default 4096."""
    weight_decay: Annotated[str, Decimal(ge=0, le=1)] | None = None
    """Default 0."""
    max_grad_norm: Annotated[str, Decimal(gt=0)] | None = None
    """Default 1.0."""
    packing: bool | None = None
    """Several rows in one sequence. Default false; not on CPU."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    """Of order, dropout and initialisation. Default 7."""
    log_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Default 10."""
    early_stopping: EarlyStopping | None = None
    checkpoints: Checkpoints | None = None
    extra_args: StringMap | None = None
    """Further fields of TRL's SFTConfig, as JSON values in strings. Unknown names and those that graft sets are refused by the trainer."""


class Export(Model):
    """A further form of the result."""

    format: Literal["merged", "gguf"]
    quantization: Literal["f16", "q8_0", "q5_k_m", "q4_k_m"] | None = None

    rules: ClassVar = (
        Rule(
            cel="self.format == 'gguf' || !has(self.quantization)",
            message="quantization goes with format: gguf",
            check=lambda self: self.format == "gguf" or self.quantization is None,
        ),
    )


class Ipfs(Model):
    """Kubo's RPC API, for a content-addressed copy."""

    api: Annotated[str, Field(max_length=1024, pattern=r"^https?://.+$")]


class Output(Model):
    """Where the result goes: below `<uri>/runs/<namespace>/<name>/<spec hash>/`."""

    uri: OutputUri
    exports: Annotated[list[Export], Field(max_length=8)] | None = None
    """Not in this version."""
    ipfs: Ipfs | None = None
    """Not in this version."""


class SecretKeyReference(Model):
    """A key of a Secret in the job's namespace."""

    name: ObjectName
    key: Annotated[str, Field(max_length=253, min_length=1)] | None = None


class Signing(Model):
    """The EC private key (PEM, P-256 or P-384). It is mounted only where no user code runs."""

    secret_ref: SecretKeyReference
    """Key inside the Secret: `key.pem` unless said otherwise."""


class Credentials(Model):
    """Access to the object store."""

    secret_ref: LocalObjectReference | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if needed, AWS_ENDPOINT_URL, AWS_REGION, AWS_SESSION_TOKEN."""
    service_account_name: ObjectName | None = None
    """For workload identity."""


class Wandb(Model):
    """Weights & Biases."""

    project: Annotated[str, Field(max_length=128, min_length=1)]
    secret_ref: SecretKeyReference | None = None


class Mlflow(Model):
    """MLflow tracking server."""

    tracking_uri: Annotated[str, Field(max_length=1024, pattern=r"^https?://.+$")]
    experiment: Annotated[str, Field(max_length=128, min_length=1)] | None = None


class Tracking(Model):
    """Experiment trackers."""

    wandb: Wandb | None = None
    mlflow: Mlflow | None = None


class Workers(Model):
    """How much hardware."""

    count: Annotated[int, Field(ge=1, le=64)] = 1
    """More than 1 is not in this version."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=16)] = 0
    """0: CPU, for small models and tests. Data parallel: a step is batchSize x gradientAccumulation x GPUs rows."""


class AdapterTarget(Model):
    """Create an Adapter when every threshold is met."""

    endpoint_ref: LocalObjectReference
    promote: bool = True
    """Of the Adapter: whether it is a candidate of the endpoint's promotion."""


class FineTuneJobSpec(Model):
    """What to train, on what, how to judge it, and where the result goes."""

    domain: DnsLabel
    """Any name; dsl, governance and multimodal bring defaults of their own. Names the salt of the split."""
    base_model: BaseModelSource
    method: Literal["qlora", "lora", "full"] = "qlora"
    """full is not in this version."""
    lora: Lora | None = None
    training: Training | None = None
    dataset: Dataset
    evaluation: Evaluation
    output: Output
    signing: Signing
    credentials: Credentials | None = None
    suspend: bool = False
    """True: the pods end and free their GPUs; false again goes on from the last checkpoint."""
    tracking: Tracking | None = None
    """Not in this version."""
    workers: Workers = Field(default_factory=Workers)
    pod_template: PodTemplate | None = None
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Failures over the whole life of the job, resumes included. Evictions do not count."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31536000)] = 86400
    """Seconds that pods may run over the whole life of the job, resumes included."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31536000)] = 604800
    """When the Job and its pods go, counted from the recorded result. This object stays."""
    adapter: AdapterTarget | None = None

    rules: ClassVar = (
        Rule(
            cel="self.method != 'full' || !has(self.lora)",
            message="lora goes with method qlora or lora, not with full",
            check=lambda self: self.method != "full" or self.lora is None,
            field=".lora",
        ),
    )


Stage = Literal["preflight", "fetch", "prepare", "train", "evaluate", "package", "publish"]
StageSeconds = Annotated[dict[Stage, float], Field(max_length=16)]


class Progress(Model):
    """Where the run is. Numbers are as measured; nothing is decided from them."""

    stage: Stage
    step: Count | None = None
    total_steps: Count | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: Count | None = None
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    updated_at: Timestamp | None = None


class Claim(Model):
    """The pod that may report and publish. A later claim fences the earlier one."""

    attempt: Annotated[int, Field(ge=1)]
    pod_uid: Uid = Field(alias="podUID")
    pod_name: ObjectName
    pod_created_at: Timestamp
    """A pod that is older than this one was superseded and is never granted anything again."""
    claimed_at: Timestamp


class DatasetSummary(Model):
    """What the data came to."""

    train: Count
    validation: Count
    holdout: Count
    negatives: Count = 0
    rejected: Count = 0
    """Rows dropped by the gates."""
    digest: Digest


class Interval(Model):
    """A share of examples with its 95 % interval (Wilson score)."""

    estimate: float
    low: float
    high: float


class SuiteResult(Model):
    """One suite, asked of base and adapter on the same rows."""

    suite: DnsLabel
    metric: Literal["error_rate", "accuracy"]
    examples: Count
    base: Interval
    adapter: Interval
    difference: Interval
    """Adapter minus base, paired."""
    accepted: bool | None = None
    """Absent: the suite has no threshold."""
    message: Annotated[str, Field(max_length=512)] = ""


class ArtifactReference(Model):
    """A published result. `adapter@digest` is the sha256 of its manifest.json."""

    uri: StoreUri
    digest: Digest
    size_bytes: Count


class JobReference(Model):
    """The Job of one launch. A resume is a new launch."""

    name: ObjectName
    uid: Uid
    launch: Annotated[int, Field(ge=1)]


class RunReference(Model):
    """The frozen run manifest."""

    name: ObjectName
    uid: Uid
    spec_hash: Annotated[str, Field(max_length=64)]
    source_hash: Annotated[str, Field(max_length=64)]
    """Of the spec as it was written: a later edit is told from a later version's other defaults."""
    generation: Count
    uri: StoreUri


class Budget(Model):
    """
    What the launches that ended have used of `backoffLimit` and `activeDeadlineSeconds`.

    Written before a launch's Job is deleted: the Job's own counters go with it.
    """

    through_launch: Count = 0
    """The last launch that is counted in here."""
    failures: Count = 0
    active_seconds: Count = 0


class Resolved(Model):
    """What the run uses after domain and method defaults: the frozen truth, whatever the spec says later."""

    method: Literal["qlora", "lora", "full"]
    lora: Lora | None = None
    training: Training
    min_examples: Count
    holdout_fraction: Annotated[str, Decimal()] | None = None
    validation_fraction: Annotated[str, Decimal()]
    precision: Literal["bfloat16", "float16", "float32", "nf4"]
    thresholds: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=16)]
    """One sentence a suite."""
    image: Annotated[str, Field(max_length=512)]
    """Of preflight and publish, and of training unless podTemplate.image says otherwise."""


class Outcome(Model):
    """What the accepted result says beside the artifact."""

    accepted: bool
    """Every threshold was met."""
    base_model_digest: Digest
    earlier_run: bool = False
    """The committed result of an earlier run of the same spec on the same data: nothing was trained."""


class Failure(Model):
    """Why the run ended without a result, and who must act."""

    reason: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=1024)]
    line: Count | None = None
    """Line of the data file, where there is one."""


class Condition(Model):
    """As metav1.Condition."""

    type: Annotated[str, Field(max_length=64, min_length=1)]
    status: Literal["True", "False", "Unknown"]
    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    last_transition_time: Timestamp
    reason: Annotated[str, Field(max_length=64, min_length=1)]
    message: Annotated[str, Field(max_length=1024)] = ""


Phase = Literal["Pending", "Queued", "Running", "Suspended", "Succeeded", "Failed"]


class FineTuneJobStatus(Model):
    """What the operator knows. Never an input."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    phase: Phase | None = None
    attempt: Count | None = None
    claim: Claim | None = None
    progress: Progress | None = None
    resolved: Resolved | None = None
    run: RunReference | None = None
    job: JobReference | None = None
    budget: Budget | None = None
    dataset: DatasetSummary | None = None
    evaluation: Annotated[list[SuiteResult], Field(max_length=16)] | None = None
    artifact: ArtifactReference | None = None
    outcome: Outcome | None = None
    stage_seconds: StageSeconds | None = None
    resumed_from_step: Count | None = None
    failure: Failure | None = None
    adapter_ref: LocalObjectReference | None = None
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = None


class FineTuneJob(Model):
    """Fine-tunes a base model on the user's data and publishes a signed adapter."""

    api_version: Literal["graft.dev/v1alpha1"]
    kind: Literal["FineTuneJob"]
    metadata: dict[str, Any]
    spec: FineTuneJobSpec
    rules: ClassVar = (
        Rule(
            cel="self.metadata.name.size() <= 63",
            message="the name is a label value of pods: at most 63 characters",
            check=lambda self: len(self.metadata.get("name", "")) <= 63,
        ),
    )
    status: FineTuneJobStatus | None = None
