"""
Layout of the run folder and of the artifact in it.

    <run uri>/
      dataset.lock.json                   written by the first attempt; later ones must match
      attempt-N/                          everything that attempt N wrote, and nothing else
        checkpoints/step-000120/...       with checkpoint.json, its own file list, written last
        trained/...                       the adapter that training ended with, with checkpoint.json
        evaluation.json
        artifact/...                      the published folder: manifest.json lists its files, model.sig signs it
      commit.json                         one conditional PUT: names the attempt that won

Nothing is taken for complete without its list: checkpoint.json, manifest.json or commit.json is written after what it lists.
"""

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


def attempt_folder(attempt: int) -> str:
    """Return the folder that this attempt alone writes to, relative to the run folder."""
    return f"attempt-{attempt}"


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


class DatasetLock(Model):
    """What this run's data is, for every attempt and for a later restore."""

    version: Literal[1] = 1
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


class BaseModelIdentity(Model):
    """What the adapter belongs to. Agents refuse it on any other base."""

    uri: str
    digest: Digest
    tokenizer_digest: Digest
    chat_template_digest: Digest | None = None


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
