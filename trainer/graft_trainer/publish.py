"""
The last container: verify the folder, sign it, upload it, commit it, report it.

No torch and no user code in this process: it holds the signing key.
"""

import hashlib
import logging
from pathlib import Path

from model_signing import hashing, signing

from graft_api.artifact import MANIFEST, SIGNATURE, ArtifactManifest, Commit, attempt_folder
from graft_api.reports import Reason, Result, TerminalResult
from graft_api.run import RunManifest
from graft_trainer import folder
from graft_trainer.commit import commit, committed_result, read_commit
from graft_trainer.errors import EnvironmentFailureError, FencedError, RunEndedError
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.operator_client import OperatorClient
from graft_trainer.records import Admission, load, read_manifest
from graft_trainer.store import Store, open_store

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 20
"""How long a pod that is about to commit waits for the operator. Where the store itself decides between attempts, going on is safe."""


def publish(mounts: Mounts) -> TerminalResult:
    """Publish what the trainer packaged, or report what an earlier run committed."""
    manifest = read_manifest(mounts.run)
    admission = load(Admission, WorkFolder(mounts.work).claim)
    if admission is None:
        raise RuntimeError("there is no claim: preflight did not run in this pod")
    store = open_store(manifest.run_uri, mounts.credentials)
    if admission.committed is not None:
        return TerminalResult(attempt=admission.attempt, result=committed_result(store, admission.committed, earlier_run=True))
    return TerminalResult(attempt=admission.attempt, result=_publish(manifest, admission, store, mounts))


def _publish(manifest: RunManifest, admission: Admission, store: Store, mounts: Mounts) -> Result:
    package = WorkFolder(mounts.work).package
    listed = verify(package, admission.attempt)
    sign(package, mounts.signing_key)
    record = upload(store, package, listed)
    logger.info("uploaded %d bytes to %s/%s", record.size_bytes, store.uri, record.manifest.removesuffix(f"/{MANIFEST}"))
    ask_again(manifest, admission, mounts)
    commit(store, record, conditional_writes=admission.conditional_writes)
    logger.info("committed adapter@%s", record.digest)
    return committed_result(store, record, earlier_run=False)


def verify(package: Path, attempt: int) -> ArtifactManifest:
    """Refuse a folder that is not exactly what its manifest lists: user code ran beside it."""
    manifest = ArtifactManifest.model_validate_json((package / MANIFEST).read_bytes())
    if wrong := folder.differences(package, manifest.files, [MANIFEST, SIGNATURE]):
        raise RuntimeError(f"the package differs from its manifest: {', '.join(wrong[:5])}")
    if manifest.attempt != attempt:
        raise RuntimeError(f"the package is of attempt {manifest.attempt}, not of {attempt}")
    return manifest


def sign(package: Path, key: Path) -> None:
    """Sign the folder, manifest included, with the elliptic key."""
    signature = package / SIGNATURE
    signature.unlink(missing_ok=True)
    # By default model-signing leaves files such as .gitignore out of what it signs.
    everything = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)
    signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(everything).sign(package, signature)


def upload(store: Store, package: Path, manifest: ArtifactManifest) -> Commit:
    """Upload the package, its manifest last, check what arrived, and return the record that would commit it."""
    below = f"{attempt_folder(manifest.attempt)}/artifact"
    folder.upload(store, package, [*(file.path for file in manifest.files), SIGNATURE], below, MANIFEST)
    arrived = {entry.path.removeprefix(f"{below}/"): entry.size_bytes for entry in store.list(f"{below}/")}
    expected = {path: (package / path).stat().st_size for path in [*(file.path for file in manifest.files), SIGNATURE, MANIFEST]}
    if wrong := sorted(path for path, size in expected.items() if arrived.get(path) != size):
        raise EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{store.uri}/{below}: {', '.join(wrong[:5])} did not arrive whole")
    digest = hashlib.sha256((package / MANIFEST).read_bytes()).hexdigest()
    return Commit(attempt=manifest.attempt, manifest=f"{below}/{MANIFEST}", digest=f"sha256:{digest}", size_bytes=sum(expected.values()))


def ask_again(manifest: RunManifest, admission: Admission, mounts: Mounts) -> None:
    """Ask the operator once more whether this attempt is still the one. If it is away, a store that decides is enough."""
    if manifest.reporting is None:
        return
    try:
        attempt = OperatorClient(manifest.job, manifest.reporting, mounts.token, mounts.ca).claim(ASK_AGAIN_SECONDS)
    except EnvironmentFailureError:
        if not admission.conditional_writes:
            raise
        logger.warning("the operator is away: the store decides between attempts")
        return
    if attempt != admission.attempt:
        raise FencedError(f"the operator now grants attempt {attempt}, not {admission.attempt}")


def report_result(manifest: RunManifest, mounts: Mounts, result: TerminalResult) -> None:
    """Tell the operator, for as long as the manifest allows. The termination message says the same, so its absence is no failure."""
    if manifest.reporting is None:
        return
    try:
        OperatorClient(manifest.job, manifest.reporting, mounts.token, mounts.ca).result(result)
    except RunEndedError as error:
        if isinstance(error, FencedError):
            raise
        logger.warning("the result was not reported: %s", error)


def report(mounts: Mounts) -> TerminalResult:
    """Read a run's committed result, for a Job that completed without telling."""
    manifest = read_manifest(mounts.run)
    store = open_store(manifest.run_uri, mounts.credentials)
    record = read_commit(store)
    if record is None:
        raise RuntimeError(f"{store.uri} holds no committed result")
    return TerminalResult(attempt=record.attempt, result=committed_result(store, record, earlier_run=False))
