"""
The run's lock: base model and data as the first attempt found them.

What another attempt left (checkpoints, a trained adapter, its evaluation, a committed result) counts only on the same base and data.
"""

from pydantic import ValidationError

from graft_api.artifact import DATASET_LOCK, RunLock, SourceLock
from graft_api.reports import Reason
from graft_api.run import RunManifest
from graft_api.schema import canonical_json
from graft_runtime.digests import file_sha256
from graft_trainer.errors import BadInputError, EnvironmentFailureError
from graft_trainer.fetch import fetch, listing
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.sources import find_base_model, find_data
from graft_trainer.store import Store


def read_lock(store: Store) -> RunLock | None:
    """Return what an earlier attempt locked."""
    content = store.read(DATASET_LOCK)
    try:
        return None if content is None else RunLock.model_validate_json(content)
    except ValidationError as error:
        message = f"{store.uri}/{DATASET_LOCK} is no lock; restore it, or delete the run folder to train again"
        raise BadInputError(Reason.DATA_CHANGED, message) from error


def keep_or_compare(store: Store, lock: RunLock) -> None:
    """Lock what this attempt found, or refuse it if an earlier attempt found something else."""
    before = read_lock(store)
    if before is None:
        # Read back whatever `create` says: not every store refuses to replace, and then the last of two first attempts counts.
        store.create(DATASET_LOCK, canonical_json(lock.to_json()))
        before = read_lock(store)
    if before is None:
        raise EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{store.uri}: {DATASET_LOCK} was written and is not there")
    if before.base_model.identity != lock.base_model.identity:
        raise _base_changed(store, lock.base_model.identity.uri)
    for old, new in zip(sources(before), sources(lock), strict=True):
        if old.sha256 != new.sha256:
            raise _changed(store, new.uri)
    if before.summary != lock.summary:
        raise BadInputError(
            Reason.DATA_CHANGED, f"{store.uri}: the split differs from {DATASET_LOCK} although the sources are the same; use a new job name"
        )


def check_lock(manifest: RunManifest, mounts: Mounts, store: Store) -> None:
    """Refuse to report a committed result if base or data are no longer the same. Files are read only where versions differ."""
    lock = read_lock(store)
    if lock is None:
        message = f"{store.uri} has a committed result but no {DATASET_LOCK}; restore it, or delete the run folder to train again"
        raise BadInputError(Reason.DATA_CHANGED, message)
    _check_base(lock, manifest, mounts, store)
    folder = WorkFolder(mounts.work).data
    for number, (file, before) in enumerate(zip(find_data(manifest.spec, mounts).all(), sources(lock), strict=True)):
        unchanged = file.entry.version and file.entry.version == before.version
        if not unchanged and file_sha256(file.bring(folder, number)) != before.sha256:
            raise _changed(store, file.uri)


def sources(lock: RunLock) -> list[SourceLock]:
    """Return every locked file, in the order of `DataFiles.all`."""
    return [*lock.sources, *([lock.holdout] if lock.holdout else []), *lock.suites]


def _check_base(lock: RunLock, manifest: RunManifest, mounts: Mounts, store: Store) -> None:
    source, before = manifest.spec.base_model, lock.base_model
    if before.listing is not None and listing(find_base_model(source, mounts).list("")) == before.listing:
        return
    if fetch(source, mounts).identity != before.identity:
        raise _base_changed(store, str(source.uri))


def _base_changed(store: Store, uri: str) -> BadInputError:
    return _changed(store, f"spec.baseModel.uri: the base model {uri}")


def _changed(store: Store, what: str) -> BadInputError:
    message = f"{what} is not what an earlier attempt of this run locked ({store.uri}/{DATASET_LOCK}); put it back, or use a new job name"
    return BadInputError(Reason.DATA_CHANGED, message)
