"""
The last container: verify the folder, sign it, upload it, commit it, report it.

No torch and no user code in this process: it holds the signing key. The train container could write to the work folder, so
nothing there is believed that the store or the operator can say.
"""

import hashlib
import logging
from pathlib import Path

from graft_api.artifact import MANIFEST, SIGNATURE, ArtifactManifest, Commit
from graft_api.finetunejob import Progress
from graft_api.reports import Reason, Result, TerminalResult
from graft_api.run import RunManifest
from graft_trainer import folder
from graft_trainer.commit import Committed, commit, committed_result, find_committed, foreign, manifest_path, tidy
from graft_trainer.errors import BadInputError, EnvironmentFailureError, FencedError, RunEndedError
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.operator_client import OperatorClient
from graft_trainer.records import Admission, load, read_manifest
from graft_trainer.reporter import post
from graft_trainer.signature import check_signed, sign
from graft_trainer.store import Store, open_store
from graft_trainer.timer import Timer

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 20
"""How long a pod that is about to commit waits for the operator. Where the store itself decides between attempts, going on is safe."""


def publish(mounts: Mounts) -> TerminalResult:
    """Publish what the trainer packaged, or report what an earlier attempt committed."""
    manifest = read_manifest(mounts.run)
    work = WorkFolder(mounts.work)
    admission = load(Admission, work.claim)
    if admission is None:
        raise RuntimeError("there is no claim: preflight did not run in this pod")
    post(operator(manifest, mounts), admission.attempt, Progress(stage="publish"))
    store = open_store(manifest.run_uri, mounts.credentials)
    ask_again(manifest, admission, mounts)
    committed = find_committed(store, manifest)
    if committed is not None:
        check_signed(store, committed, mounts.signing_key, work.committed)
        return TerminalResult(attempt=admission.attempt, result=committed_result(store, committed, manifest))
    return TerminalResult(attempt=admission.attempt, result=_publish(manifest, admission, store, mounts))


def _publish(manifest: RunManifest, admission: Admission, store: Store, mounts: Mounts) -> Result:
    work = WorkFolder(mounts.work)
    timer = Timer(work)
    with timer.stage("publish"):
        listed = verify(work.package, manifest, admission.attempt)
        sign(work.package, mounts.signing_key)
        record = upload(store, work.package, listed)
        logger.info("uploaded %d bytes to %s/%s", record.size_bytes, store.uri, record.manifest.removesuffix(f"/{MANIFEST}"))
        ask_again(manifest, admission, mounts)
        commit(store, record, conditional_writes=admission.conditional_writes)
        logger.info("committed adapter@%s", record.digest)
    result = committed_result(store, Committed(record, listed), manifest)
    return result.model_copy(update={"stage_seconds": result.stage_seconds | {"publish": timer.seconds()["publish"]}})


def verify(package: Path, run: RunManifest, attempt: int) -> ArtifactManifest:
    """Refuse a folder that is not exactly what its manifest lists, or not of this attempt: user code ran beside it."""
    manifest = ArtifactManifest.model_validate_json((package / MANIFEST).read_bytes())
    if wrong := folder.differences(package, manifest.files, [MANIFEST, SIGNATURE]):
        raise RuntimeError(f"the package differs from its manifest: {', '.join(wrong[:5])}")
    if other := foreign(manifest, run):
        raise RuntimeError(f"the package is of another run: its {other} differs")
    if (manifest.attempt, manifest.job) != (attempt, run.job):
        raise RuntimeError(f"the package is of attempt {manifest.attempt} of {manifest.job.uid}, not of {attempt} of {run.job.uid}")
    return manifest


def upload(store: Store, package: Path, manifest: ArtifactManifest) -> Commit:
    """Upload the package, its manifest last, check what arrived, and return the record that would commit it."""
    path = manifest_path(manifest)
    below = path.removesuffix(f"/{MANIFEST}")
    folder.upload(store, package, [*(file.path for file in manifest.files), SIGNATURE], below, MANIFEST)
    arrived = {entry.path.removeprefix(f"{below}/"): entry.size_bytes for entry in store.list(f"{below}/")}
    expected = {path: (package / path).stat().st_size for path in [*(file.path for file in manifest.files), SIGNATURE, MANIFEST]}
    if wrong := sorted(path for path, size in expected.items() if arrived.get(path) != size):
        raise EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{store.uri}/{below}: {', '.join(wrong[:5])} did not arrive whole")
    digest = hashlib.sha256((package / MANIFEST).read_bytes()).hexdigest()
    return Commit(attempt=manifest.attempt, manifest=path, digest=f"sha256:{digest}", size_bytes=sum(expected.values()))


def operator(manifest: RunManifest, mounts: Mounts) -> OperatorClient | None:
    """Return the way to the operator, if there is one."""
    return None if manifest.reporting is None else OperatorClient(manifest.job, manifest.reporting, mounts.token, mounts.ca)


def ask_again(manifest: RunManifest, admission: Admission, mounts: Mounts) -> None:
    """Ask the operator whether this attempt is still the one. If it is away, a store that decides is enough."""
    client = operator(manifest, mounts)
    if client is None:
        return
    try:
        attempt = client.claim(ASK_AGAIN_SECONDS)
    except EnvironmentFailureError:
        if not admission.conditional_writes:
            raise
        logger.warning("the operator is away: the store decides between attempts")
        return
    if attempt != admission.attempt:
        raise FencedError(f"the operator now grants attempt {attempt}, not {admission.attempt}")


def report_result(manifest: RunManifest, mounts: Mounts, result: TerminalResult) -> None:
    """Tell the operator, for as long as the manifest allows. The termination message says the same, so its absence is no failure."""
    client = operator(manifest, mounts)
    if client is None:
        return
    try:
        client.result(result)
    except RunEndedError as error:
        if isinstance(error, FencedError):
            raise
        logger.warning("the result was not reported: %s", error)


def clear_up(mounts: Mounts) -> None:
    """Remove what nobody needs after the commit; after the report, which must not wait for it."""
    manifest, admission = read_manifest(mounts.run), load(Admission, WorkFolder(mounts.work).claim)
    if admission is not None and admission.conditional_writes:
        tidy(open_store(manifest.run_uri, mounts.credentials))


def report(mounts: Mounts) -> TerminalResult:
    """Read a run's committed result, for a Job that completed without telling."""
    manifest = read_manifest(mounts.run)
    store = open_store(manifest.run_uri, mounts.credentials)
    committed = find_committed(store, manifest)
    if committed is None:
        raise BadInputError(Reason.NOT_COMMITTED, f"{store.uri} holds no committed result; train again under a new job name")
    return TerminalResult(attempt=committed.record.attempt, result=committed_result(store, committed, manifest))
