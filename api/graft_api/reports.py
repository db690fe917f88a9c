"""
What a training pod tells the operator, and the exit codes that say who must act.

    POST /v1/namespaces/{namespace}/finetunejobs/{name}/claim      ClaimRequest   -> ClaimGrant
    POST /v1/namespaces/{namespace}/finetunejobs/{name}/progress   ProgressReport -> 204
    POST /v1/namespaces/{namespace}/finetunejobs/{name}/result     TerminalResult -> 204

Who speaks is proven by the pod's projected token (audience `graft.dev`), never by the body. 401, 403 and 409 mean stop:
this pod is not, or no longer, the one that may report and publish. 503 with Retry-After means ask again (no leader here).
The terminal result is also the container's termination message, so it needs no operator to be there.
"""

import enum
from typing import Annotated, Literal

from pydantic import Field

from graft_api.finetunejob import ArtifactReference, DatasetSummary, Progress, StageSeconds, SuiteResult
from graft_api.schema import Count, Model, Uid

AUDIENCE = "graft.dev"
MAX_BODY_BYTES = 64 * 1024
MAX_TERMINATION_BYTES = 4096
"""The kubelet keeps no more of a termination message."""


class ExitCode(enum.IntEnum):
    """Who must act. The Job's podFailurePolicy and the operator read these."""

    OK = 0
    UNEXPECTED = 1
    """A bug or an unknown condition: retried within backoffLimit."""
    BAD_INPUT = 10
    """The user must change spec, data or Secrets: never retried."""
    OUT_OF_MEMORY = 11
    """Would happen again: never retried, with advice."""
    ENVIRONMENT = 20
    """Store, network or operator away: retried within backoffLimit."""
    FENCED = 21
    """Another pod took over: this one must do nothing more."""


class Reason(enum.StrEnum):
    """Machine-readable cause of a run that ended without a result."""

    BUCKET_NOT_FOUND = "BucketNotFound"
    CREDENTIALS_REFUSED = "CredentialsRefused"
    SIGNING_KEY_MISSING = "SigningKeyMissing"
    SIGNING_KEY_INVALID = "SigningKeyInvalid"
    SOURCE_NOT_FOUND = "SourceNotFound"
    BASE_MODEL_NOT_FOUND = "BaseModelNotFound"
    BASE_MODEL_INVALID = "BaseModelInvalid"
    DIGEST_MISMATCH = "DigestMismatch"
    INVALID_DATA = "InvalidData"
    TOO_FEW_EXAMPLES = "TooFewExamples"
    EMPTY_HOLDOUT = "EmptyHoldout"
    DATA_CHANGED = "DataChanged"
    INVALID_SETTING = "InvalidSetting"
    UNSUPPORTED = "Unsupported"
    OUT_OF_MEMORY = "OutOfMemory"
    SCORER_BROKEN = "ScorerBroken"
    STORE_UNAVAILABLE = "StoreUnavailable"
    OPERATOR_UNAVAILABLE = "OperatorUnavailable"
    FENCED = "Fenced"
    NOT_COMMITTED = "NotCommitted"
    UNEXPECTED = "Unexpected"


class ClaimRequest(Model):
    """A pod's first call."""

    job_uid: Uid
    """The FineTuneJob's uid, from the run manifest: a manifest of a deleted namesake must not report for its successor."""


class ClaimGrant(Model):
    """The pod may work, as this attempt. Asking again gives the same number."""

    attempt: Annotated[int, Field(ge=1)]


class ProgressReport(Model):
    """Acknowledged at once and coalesced: losing one is harmless."""

    attempt: Annotated[int, Field(ge=1)]
    progress: Progress


class Result(Model):
    """What a run that ended well came to."""

    artifact: ArtifactReference
    base_model_digest: Annotated[str, Field(max_length=71)]
    dataset: DatasetSummary
    evaluation: Annotated[list[SuiteResult], Field(max_length=16)]
    accepted: bool
    """Every threshold was met."""
    stage_seconds: StageSeconds = Field(default_factory=dict)
    resumed_from_step: Count | None = None
    earlier_run: bool = False
    """The committed result of an earlier run of the same spec on the same data: nothing was trained."""


class Failed(Model):
    """Why a run ended without a result."""

    exit_code: Annotated[int, Field(ge=1, le=255)]
    reason: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=1024)]
    """Field or file, value, bound, and what to do. Never content of the data."""
    line: Count | None = None


class TerminalResult(Model):
    """The last word of one attempt; at most 4 KiB as JSON."""

    version: Literal[1] = 1
    attempt: Annotated[int, Field(ge=0)]
    """0: it ended before a claim was granted."""
    result: Result | None = None
    failed: Failed | None = None
