"""
Pure: fill in what follows from domain and method, and name the run.

The table is the mission's; a domain that is not in it gets the general row. `thresholds` apply to a suite of that name
that brings no `accept` of its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from graft_api.dataset import Holdout, Validation
from graft_api.evaluation import Accept, Evaluation, Generation
from graft_api.finetunejob import Checkpoints, FineTuneJobSpec, Lora, Resolved, Training
from graft_api.schema import Model, canonical_json

M = TypeVar("M", bound=Model)

TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class DomainDefaults:
    """What a domain asks for unless the spec says otherwise."""

    min_examples: int = 100
    epochs: int = 3
    thresholds: Mapping[str, Accept] = field(default_factory=dict)


DOMAINS: Mapping[str, DomainDefaults] = {
    "dsl": DomainDefaults(5000, 3, {"compile": Accept(metric="error_rate", max="0.01", min_examples=500)}),
    "governance": DomainDefaults(1000, 5, {"tautologies": Accept(metric="error_rate", max="0.10", min_examples=200)}),
    "multimodal": DomainDefaults(
        10000,
        2,
        {
            "deepfake-fpr": Accept(metric="error_rate", max="0.01", min_examples=2000),
            "watermark": Accept(metric="accuracy", min="0.98", min_examples=2000),
        },
    ),
}

LORA_DEFAULTS = Lora(rank=64, alpha=128, dropout="0.05", target_modules=TARGET_MODULES)
TRAINING_DEFAULTS = Training(
    learning_rate="2e-4",
    scheduler="cosine",
    warmup_ratio="0.03",
    optimizer="adamw_8bit",
    batch_size=4,
    gradient_accumulation=16,
    max_length=4096,
    weight_decay="0",
    max_grad_norm="1.0",
    packing=False,
    seed=7,
    log_every_steps=10,
    checkpoints=Checkpoints(keep=2),
)

RESULT_FIELDS = ("domain", "baseModel", "method", "lora", "training", "dataset", "evaluation", "output")
"""What decides the result. Pods, budgets and credentials do not: changing them must not train again."""


def resolve(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """Return the spec with every open choice filled in."""
    domain = DOMAINS.get(spec.domain, DomainDefaults())
    lora = None if spec.method == "full" else _over(LORA_DEFAULTS, spec.lora)
    training = _over(TRAINING_DEFAULTS.model_copy(update={"epochs": domain.epochs}), spec.training)
    holdout = spec.dataset.holdout or Holdout()
    if holdout.uri is None and holdout.fraction is None:
        holdout = holdout.model_copy(update={"fraction": "0.1"})
    dataset = spec.dataset.model_copy(
        update={
            "min_examples": spec.dataset.min_examples or domain.min_examples,
            "holdout": holdout,
            "validation": _over(Validation(fraction="0.05"), spec.dataset.validation),
        }
    )
    evaluation = Evaluation(
        suites=[s if s.accept else s.model_copy(update={"accept": domain.thresholds.get(s.name)}) for s in spec.evaluation.suites],
        generation=_over(Generation(max_new_tokens=256, batch_size=32), spec.evaluation.generation),
        precision=spec.evaluation.precision or "bfloat16",
    )
    return spec.model_copy(update={"lora": lora, "training": training, "dataset": dataset, "evaluation": evaluation})


def spec_hash(resolved: FineTuneJobSpec) -> str:
    """Return 16 hex digits that name the run folder: the same request finds its committed result again."""
    value = resolved.to_json()
    return hashlib.sha256(canonical_json({key: value.get(key) for key in RESULT_FIELDS})).hexdigest()[:16]


LIVE_FIELDS = ("suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
"""What may be changed while a run goes on. Everything else is frozen with it."""


def source_hash(spec: FineTuneJobSpec) -> str:
    """Return 16 hex digits of what is frozen, as the user wrote it."""
    value = {key: item for key, item in spec.to_json().items() if key not in LIVE_FIELDS}
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]


def with_live_fields(frozen: FineTuneJobSpec, live: FineTuneJobSpec) -> FineTuneJobSpec:
    """Return the frozen spec with what may change as it is now."""
    names = ("suspend", "backoff_limit", "active_deadline_seconds", "ttl_seconds_after_finished")
    return frozen.model_copy(update={name: getattr(live, name) for name in names})


def run_uri(resolved: FineTuneJobSpec, namespace: str, name: str) -> str:
    """Return the run folder's URI."""
    return f"{resolved.output.uri.rstrip('/')}/runs/{namespace}/{name}/{spec_hash(resolved)}"


def summary(resolved: FineTuneJobSpec, image: str) -> Resolved:
    """Return what `status.resolved` shows."""
    dataset, evaluation = resolved.dataset, resolved.evaluation
    assert dataset.holdout and dataset.validation and dataset.validation.fraction  # noqa: S101, PT018 - resolve() filled them in
    assert resolved.training and dataset.min_examples and evaluation.precision  # noqa: S101, PT018
    return Resolved(
        method=resolved.method,
        lora=resolved.lora,
        training=resolved.training,
        min_examples=dataset.min_examples,
        holdout_fraction=dataset.holdout.fraction,
        validation_fraction=dataset.validation.fraction,
        precision=evaluation.precision,
        thresholds=[f"{suite.name}: {describe(suite.accept)}" for suite in evaluation.suites],
        image=image,
    )


def describe(accept: Accept | None) -> str:
    """Say a threshold in words."""
    if accept is None:
        return "informational"
    bounds = [
        f"<= {accept.max}" if accept.max is not None else "",
        f">= {accept.min}" if accept.min is not None else "",
        f"no worse than base by more than {accept.max_regression}" if accept.max_regression is not None else "",
        f"on at least {accept.min_examples} examples" if accept.min_examples is not None else "",
    ]
    return f"{accept.metric} {', '.join(filter(None, bounds))} ({'95 % bound' if accept.test == 'Bound' else 'point estimate'})"


def unsupported(spec: FineTuneJobSpec) -> list[str]:
    """Return what the schema knows and this version cannot do yet, as sentences that begin with the field."""
    found = []
    if spec.method == "full":
        found.append("spec.method: full fine-tuning is not available in this version; use qlora or lora")
    if spec.base_model.uri is None:
        found.append("spec.baseModel: chaining onto an earlier result is not available in this version; give its uri")
    elif spec.base_model.uri.startswith(("hf://", "ipfs://")):
        found.append(f"spec.baseModel.uri: {spec.base_model.uri.partition('://')[0]}:// is not available in this version; copy it to s3://")
    sources = [*((f"spec.dataset.sources[{i}].uri", s.uri) for i, s in enumerate(spec.dataset.sources))]
    sources += [(f"spec.evaluation.suites[{i}].uri", s.uri) for i, s in enumerate(spec.evaluation.suites) if s.uri]
    if spec.dataset.holdout and spec.dataset.holdout.uri:
        sources.append(("spec.dataset.holdout.uri", spec.dataset.holdout.uri))
    found += [f"{path}: {uri} must begin with s3:// or file://" for path, uri in sources if not uri.startswith(("s3://", "file://"))]
    if spec.output.exports:
        found.append("spec.output.exports: exports are not available in this version; leave the field out")
    if spec.output.ipfs:
        found.append("spec.output.ipfs: publishing to IPFS is not available in this version; leave the field out")
    if spec.tracking:
        found.append("spec.tracking: trackers are not available in this version; leave the field out")
    if spec.workers.count > 1:
        found.append("spec.workers.count: several workers are not available in this version; use 1")
    return found


def unsupported_in_cluster(spec: FineTuneJobSpec) -> list[str]:
    """Return what only works where `graft run` works, or cannot be judged; sentences that begin with the field."""
    uris = [("spec.output.uri", spec.output.uri), ("spec.baseModel.uri", spec.base_model.uri or "")]
    uris += [(f"spec.dataset.sources[{i}].uri", s.uri) for i, s in enumerate(spec.dataset.sources)]
    uris += [(f"spec.evaluation.suites[{i}].uri", s.uri or "") for i, s in enumerate(spec.evaluation.suites)]
    uris.append(("spec.dataset.holdout.uri", (spec.dataset.holdout.uri if spec.dataset.holdout else None) or ""))
    found = [f"{path}: file:// is for `graft run`; use s3:// in a cluster" for path, uri in uris if uri.startswith("file://")]
    if spec.adapter and not any(suite.accept for suite in resolve(spec).evaluation.suites):
        found.append("spec.adapter: no suite has a threshold, so nothing could be accepted; set spec.evaluation.suites[].accept")
    return found


def _over(defaults: M, given: M | None) -> M:
    """Return `given` with its unset fields taken from `defaults`."""
    return defaults if given is None else defaults.model_copy(update={name: value for name, value in given if value is not None})
