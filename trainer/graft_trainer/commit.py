"""The one record that decides which attempt's artifact is the run's result, and what can be said from it."""

import hashlib
import json

from graft_api.artifact import COMMIT, MANIFEST, TRAINING_METRICS, ArtifactManifest, Commit
from graft_api.finetunejob import ArtifactReference
from graft_api.reports import ExitCode, Reason, Result
from graft_api.schema import canonical_json
from graft_trainer.errors import EnvironmentFailureError, FencedError, RunEndedError
from graft_trainer.store import Store


def read_commit(store: Store) -> Commit | None:
    """Return the run's committed result, if there is one."""
    content = store.read(COMMIT)
    return None if content is None else Commit.model_validate_json(content)


def commit(store: Store, record: Commit, *, conditional_writes: bool) -> None:
    """
    Make `record` the run's result, unless there is one already.

    Raises `FencedError` if another attempt was first. Finding one's own record is fine: an answer was lost on the way.
    """
    content = canonical_json(record.to_json())
    written = store.create(COMMIT, content) if conditional_writes else _write_if_absent(store, content)
    if written:
        return
    winner = store.read(COMMIT)
    if winner is None:
        raise EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{store.uri}: {COMMIT} could not be written and is not there")
    if Commit.model_validate_json(winner) != record:
        other = Commit.model_validate_json(winner).attempt
        raise FencedError(f"attempt {other} committed before attempt {record.attempt}: its result stands")


def _write_if_absent(store: Store, content: bytes) -> bool:
    if store.read(COMMIT) is not None:
        return False
    store.write(COMMIT, content)
    return True


def committed_result(store: Store, record: Commit, *, earlier_run: bool) -> Result:
    """Read the result back from the artifact that `record` names, after checking its digest."""
    content = _read(store, record.manifest)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if digest != record.digest:
        raise DamagedArtifactError(Reason.UNEXPECTED, f"{store.uri}/{record.manifest} has {digest}, but {COMMIT} says {record.digest}")
    manifest = ArtifactManifest.model_validate_json(content)
    folder = record.manifest.removesuffix(f"/{MANIFEST}")
    metrics = json.loads(_read(store, f"{folder}/{TRAINING_METRICS}"))
    return Result(
        artifact=ArtifactReference(uri=f"{store.uri}/{folder}", digest=record.digest, size_bytes=record.size_bytes),
        base_model_digest=manifest.base_model.digest,
        dataset=manifest.dataset,
        evaluation=manifest.evaluation,
        accepted=manifest.accepted,
        stage_seconds=metrics["stageSeconds"],
        resumed_from_step=metrics.get("resumedFromStep"),
        earlier_run=earlier_run,
    )


def _read(store: Store, path: str) -> bytes:
    content = store.read(path)
    if content is None:
        raise DamagedArtifactError(Reason.UNEXPECTED, f"{store.uri}/{path} is missing although {COMMIT} names it; restore it")
    return content


class DamagedArtifactError(RunEndedError):
    """Somebody changed or removed a published artifact: no retry repairs that."""

    exit_code = ExitCode.BAD_INPUT
