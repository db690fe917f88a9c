"""The folder that is published: the adapter, its probes, how it was made and how it was judged. manifest.json is written last."""

import datetime
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_api.artifact import (
    DATASET_LOCK,
    MANIFEST,
    MODEL_CARD,
    PROBES,
    TRAINING_CONFIG,
    TRAINING_METRICS,
    ArtifactManifest,
    FileEntry,
    GenerationSettings,
    Probes,
    RunLock,
)
from graft_api.finetunejob import Stage
from graft_api.run import RunManifest
from graft_api.schema import canonical_json
from graft_runtime.digests import list_files
from graft_trainer.fetch import BaseModel
from graft_trainer.model_card import model_card
from graft_trainer.records import EvaluationRecord, Outcome

WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Contents:
    """What a package is made of."""

    manifest: RunManifest
    attempt: int
    base: BaseModel
    lock: RunLock
    outcome: Outcome
    evaluation: EvaluationRecord
    probes: Probes


def write_package(contents: Contents, trained: Path, target: Path, seconds: Mapping[Stage, float]) -> None:
    """Write the folder anew. Without manifest.json it counts for nothing, so a kill half way leaves nothing to publish."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _write_weights(trained / WEIGHTS, target / WEIGHTS, contents.manifest.spec.evaluation.precision or "bfloat16")
    _write_json(target / ADAPTER_CONFIG, _adapter_config(trained / ADAPTER_CONFIG, contents.base.identity.uri))
    _write_json(target / PROBES, contents.probes.to_json())
    _write_json(target / DATASET_LOCK, contents.lock.to_json())
    _write_json(target / TRAINING_CONFIG, _training_config(contents))
    _write_json(target / TRAINING_METRICS, _training_metrics(contents, seconds))
    described = _artifact_manifest(contents, [])
    (target / MODEL_CARD).write_text(model_card(described, contents.outcome.step), encoding="utf-8")
    for file in target.iterdir():
        file.chmod(0o644)  # safetensors writes 0600
    listed = described.model_copy(update={"files": list_files(target)})
    (target / MANIFEST).write_bytes(canonical_json(listed.to_json()))


def _artifact_manifest(contents: Contents, files: list[FileEntry]) -> ArtifactManifest:
    spec = contents.manifest.spec
    assert spec.lora is not None  # noqa: S101 - preflight refuses method full
    assert spec.method != "full"  # noqa: S101
    return ArtifactManifest(
        domain=spec.domain,
        base_model=contents.base.identity,
        method=spec.method,
        lora=spec.lora,
        evaluated_precision=spec.evaluation.precision or "bfloat16",
        generation=GenerationSettings(max_new_tokens=(spec.evaluation.generation and spec.evaluation.generation.max_new_tokens) or 256),
        job=contents.manifest.job,
        spec_hash=contents.manifest.spec_hash,
        attempt=contents.attempt,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        dataset=contents.lock.summary,
        evaluation=contents.evaluation.suites,
        accepted=contents.evaluation.accepted,
        files=files,
    )


def _write_weights(source: Path, target: Path, precision: str) -> None:
    """Write the weights in the precision they were judged in: half the size, and what a server makes of them anyway."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - torch

    from graft_trainer.model import DTYPES  # noqa: PLC0415

    weights = {name: tensor.to(DTYPES[precision]).contiguous() for name, tensor in load_file(source).items()}
    save_file(weights, target, metadata={"format": "pt"})


def _adapter_config(source: Path, base_uri: str) -> dict[str, object]:
    """Return PEFT's configuration with the base's URI: the path in the pod means nothing to anybody else."""
    config: dict[str, object] = json.loads(source.read_bytes())
    return config | {"base_model_name_or_path": base_uri, "inference_mode": True}


def _training_config(contents: Contents) -> dict[str, object]:
    return {
        "spec": contents.manifest.spec.to_json(),
        "specHash": contents.manifest.spec_hash,
        "sftConfig": {name: value for name, value in contents.outcome.settings.items() if not name.endswith(("_dir", "_token"))},
        "versions": contents.outcome.versions,
    }


def _training_metrics(contents: Contents, seconds: Mapping[Stage, float]) -> dict[str, object]:
    outcome = contents.outcome
    return {
        "steps": outcome.step,
        "bestStep": outcome.best_step,
        "resumedFromStep": outcome.resumed_from_step,
        "tokens": outcome.tokens,
        "truncatedRows": outcome.truncated_rows,
        "droppedRows": outcome.dropped_rows,
        "peakMemoryBytes": outcome.peak_memory_bytes,
        "stageSeconds": dict(seconds),
        "log": outcome.log,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
