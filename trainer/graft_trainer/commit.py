"""The one record that decides which attempt's artifact is the run's result, and what can be said from it."""

import hashlib
import json
import logging
from dataclasses import dataclass

from pydantic import ValidationError

from graft_api.artifact import CHECKPOINT_LIST, COMMIT, MANIFEST, TRAINING_METRICS, ArtifactManifest, Commit, attempt_folder
from graft_api.finetunejob import ArtifactReference
from graft_api.reports import Reason, Result
from graft_api.run import RunManifest
from graft_api.schema import canonical_json
from graft_trainer.errors import BadInputError, EnvironmentFailureError, FencedError, RunEndedError
from graft_trainer.lock import read_lock
from graft_trainer.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Committed:
    """The run's result: the record, and the manifest that it names."""

    record: Commit
    manifest: ArtifactManifest

    @property
    def folder(self) -> str:
        """The artifact's folder, relative to the run folder."""
        return self.record.manifest.removesuffix(f"/{MANIFEST}")


def read_commit(store: Store) -> Commit | None:
    """Return the run's commit record, if there is one."""
    content = store.read(COMMIT)
    try:
        return None if content is None else Commit.model_validate_json(content)
    except ValidationError as error:
        raise untrusted(store, f"{COMMIT} is no commit record") from error


def find_committed(store: Store, run: RunManifest) -> Committed | None:
    """
    Return the run's result, if there is one that belongs to this run and to the base that it locked.

    Whoever may write to the store may have put it there: what does not fit is the user's to clear up, never a result.
    """
    record = read_commit(store)
    if record is None:
        return None
    content = _read(store, record.manifest)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if digest != record.digest:
        raise untrusted(store, f"{record.manifest} has {digest}, but {COMMIT} says {record.digest}")
    try:
        manifest = ArtifactManifest.model_validate_json(content)
    except ValidationError as error:
        raise untrusted(store, f"{record.manifest} is no manifest") from error
    lock = read_lock(store)
    if lock is not None and lock.base_model.identity != manifest.base_model:
        raise untrusted(store, f"{record.manifest} names a base model that the run did not lock")
    if wrong := foreign(manifest, run):
        raise untrusted(store, f"{record.manifest} is not of this run: its {wrong} is another")
    if record.manifest != manifest_path(manifest):
        raise untrusted(store, f"{record.manifest} says that it belongs at {manifest_path(manifest)}")
    return Committed(record, manifest)


def foreign(manifest: ArtifactManifest, run: RunManifest) -> str | None:
    """Return what an artifact would have to share with this run, and does not."""
    found = {
        "domain": (manifest.domain, run.spec.domain),
        "specHash": (manifest.spec_hash, run.spec_hash),
        "job": ((manifest.job.namespace, manifest.job.name), (run.job.namespace, run.job.name)),
        "base model": (manifest.base_model.uri, str(run.spec.base_model.uri)),
    }
    return next((name for name, (theirs, ours) in found.items() if theirs != ours), None)


def manifest_path(manifest: ArtifactManifest) -> str:
    """Return where the manifest belongs, relative to the run folder."""
    return f"{attempt_folder(manifest.attempt, manifest.job.uid)}/artifact/{MANIFEST}"


def commit(store: Store, record: Commit, *, conditional_writes: bool) -> None:
    """
    Make `record` the run's result, unless there is one already.

    Raises `FencedError` if another attempt was first. Finding one's own record is fine: an answer was lost on the way.
    """
    content = canonical_json(record.to_json())
    written = store.create(COMMIT, content) if conditional_writes else _write_if_absent(store, content)
    if written:
        return
    winner = read_commit(store)
    if winner is None:
        raise EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{store.uri}: {COMMIT} could not be written and is not there")
    if winner != record:
        raise FencedError(f"attempt {winner.attempt} committed before attempt {record.attempt}: its result stands")


def _write_if_absent(store: Store, content: bytes) -> bool:
    if store.read(COMMIT) is not None:
        return False
    store.write(COMMIT, content)
    return True


def committed_result(store: Store, committed: Committed, run: RunManifest) -> Result:
    """Return what can be said of a result that `find_committed` let through."""
    manifest = committed.manifest
    content = _read(store, f"{committed.folder}/{TRAINING_METRICS}")
    listed = {file.path: file.sha256 for file in manifest.files}
    if hashlib.sha256(content).hexdigest() != listed.get(TRAINING_METRICS):
        raise untrusted(store, f"{committed.folder}/{TRAINING_METRICS} is not what {MANIFEST} lists")
    metrics = json.loads(content)
    return Result(
        artifact=ArtifactReference(
            uri=f"{store.uri}/{committed.folder}", digest=committed.record.digest, size_bytes=committed.record.size_bytes
        ),
        base_model_digest=manifest.base_model.digest,
        dataset=manifest.dataset,
        evaluation=manifest.evaluation,
        accepted=manifest.accepted,
        stage_seconds=metrics["stageSeconds"],
        resumed_from_step=metrics.get("resumedFromStep"),
        earlier_run=manifest.job.uid != run.job.uid,
    )


def tidy(store: Store) -> None:
    """
    Remove what the committed result made useless: every checkpoint, and the artifacts of the attempts that did not win.

    Only where the store itself decides who wins: elsewhere two attempts could each remove the other's. Failing costs nothing but space.
    """
    try:
        record = read_commit(store)
        if record is None:
            return
        found = [entry.path for entry in store.list("attempt-")]
        useless = [path for path in found if _below(path) == "checkpoints"]
        useless += [path for path in found if _below(path) == "artifact" and path.partition("/")[0] != record.manifest.partition("/")[0]]
        # Lists first: a folder that is removed half way must not look complete.
        for path in sorted(useless, key=lambda path: not path.endswith((f"/{CHECKPOINT_LIST}", f"/{MANIFEST}"))):
            store.delete(path)
    except RunEndedError as error:
        logger.warning("what is no longer needed was not removed: %s", error)


def _below(path: str) -> str:
    return path.split("/")[1]


def untrusted(store: Store, problem: str) -> BadInputError:
    """Return the error for a committed result that must not be reported."""
    advice = f"restore what was there, or delete the run folder {store.uri} to train again"
    return BadInputError(Reason.DIGEST_MISMATCH, f"{store.uri}: the committed result cannot be trusted: {problem}; {advice}")


def _read(store: Store, path: str) -> bytes:
    content = store.read(path)
    if content is None:
        raise untrusted(store, f"{path} is missing")
    return content
