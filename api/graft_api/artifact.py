"""
Layout of the run folder and of the artifact in it.

    <run uri>/
      dataset.lock.json                   base model and data, written by the first attempt; later ones must match
      attempt-N-<8 hex of the job's uid>/ everything that this attempt of this job wrote, and nothing else
        checkpoints/step-000120/...       with checkpoint.json, its own file list, written last
        trained/...                       the adapter that training ended with, with checkpoint.json
        evaluation.json
        artifact/...                      the published folder: manifest.json lists its files, model.sig signs it
      commit.json                         one conditional PUT: names the attempt that won

Nothing is taken for complete without its list: checkpoint.json, manifest.json or commit.json is written after what it lists.
Once a result is committed, its pod removes all checkpoints and every other attempt's artifact/.
"""

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from graft_api.finetunejob import DatasetSummary, Lora, SuiteResult
from graft_api.run import RunIdentity
from graft_api.schema import Count, Digest, DnsLabel, Model, Timestamp

COMMIT = "commit.json"
DATASET_LOCK = "dataset.lock.json"
CHECKPOINT_LIST = "checkpoint.json"
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
PROBES = "probes.json"
TRAINING_CONFIG = "training_config.json"
TRAINING_METRICS = "training_metrics.json"
MODEL_CARD = "README.md"


def attempt_folder(attempt: int, job_uid: str) -> str:
    """
    Return the folder that this attempt alone writes to, relative to the run folder.

    A job that is created again counts its attempts from 1 in the same run folder: its uid keeps it out of its namesake's folders.
    """
    return f"attempt-{attempt}-{hashlib.sha256(job_uid.encode()).hexdigest()[:8]}"


class FileEntry(Model):
    """One file of a folder."""

    path: Annotated[str, Field(max_length=1024)]
    """Relative, with forward slashes."""
    size_bytes: Count
    sha256: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]


class CheckpointList(Model):
    """Makes a checkpoint trustworthy: resume reads none whose files do not match."""

    step: Count
    files: list[FileEntry]


class SourceLock(Model):
    """One source as the first attempt found it."""

    uri: str
    sha256: str
    version: str
    """etag or version id; empty for files."""
    rows: Count


class BaseModelIdentity(Model):
    """What the adapter belongs to. Agents refuse it on any other base."""

    uri: str
    digest: Digest
    tokenizer_digest: Digest
    chat_template_digest: Digest | None = None


class BaseModelLock(Model):
    """The base model as the first attempt found it."""

    identity: BaseModelIdentity
    listing: Digest | None = None
    """Of names, sizes and etags: while it stays, nobody has to read the files again. None where a store has no etags."""


class RunLock(Model):
    """What this run's base model and data are, for every attempt and for a later restore."""

    version: Literal[1] = 1
    base_model: BaseModelLock
    sources: list[SourceLock]
    holdout: SourceLock | None = None
    suites: list[SourceLock] = Field(default_factory=list)
    """Of the suites that bring rows of their own, sorted by suite."""
    summary: DatasetSummary


class Commit(Model):
    """The one record that decides which attempt's artifact is the run's result."""

    version: Literal[1] = 1
    attempt: Annotated[int, Field(ge=1)]
    manifest: str
    """Path of the winner's manifest.json, relative to the run folder."""
    digest: Digest
    size_bytes: Count


class GenerationSettings(Model):
    """How evaluated answers were generated."""

    max_new_tokens: Count
    temperature: float = 0.0


class ArtifactManifest(Model):
    """manifest.json: its sha256 is the adapter's digest."""

    version: Literal[1] = 1
    domain: DnsLabel
    base_model: BaseModelIdentity
    method: Literal["qlora", "lora"]
    lora: Lora
    evaluated_precision: str
    generation: GenerationSettings
    job: RunIdentity
    spec_hash: str
    attempt: Annotated[int, Field(ge=1)]
    created_at: Timestamp
    dataset: DatasetSummary
    evaluation: list[SuiteResult]
    accepted: bool
    files: list[FileEntry]
    """Every file but manifest.json and model.sig."""


class Probe(Model):
    """
    One synthetic prompt with the log-probabilities that base and adapter gave to a continuation.

    Agents measure the same tokens after a load: near the adapter's reference and farther from the base's than the noise.
    """

    prompt_token_ids: list[int]
    continuation_token_ids: list[int]
    base_logprobs: list[float]
    """Natural logarithm, one per continuation token."""
    adapter_logprobs: list[float]


class Probes(Model):
    """probes.json: 8 to 16 probes, at the evaluated precision."""

    version: Literal[1] = 1
    precision: str
    probes: Annotated[list[Probe], Field(min_length=1, max_length=16)]
