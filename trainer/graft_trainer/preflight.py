"""
The first container: claim the attempt, then check in a second or so everything that would only fail after hours.

Nothing here imports torch.
"""

import logging
import os
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from graft_api.artifact import attempt_folder
from graft_api.finetunejob import Progress
from graft_api.reports import Reason
from graft_api.resolve import unsupported
from graft_api.run import RunManifest
from graft_trainer import hyperparameters, scoring
from graft_trainer.commit import find_committed
from graft_trainer.errors import BadInputError
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.lock import check_lock
from graft_trainer.operator_client import OperatorClient
from graft_trainer.records import Admission, read_manifest, save
from graft_trainer.reporter import post
from graft_trainer.sources import find_base_model, find_data
from graft_trainer.store import Store, open_store
from graft_trainer.timer import Timer

logger = logging.getLogger(__name__)

CLAIM = "claim.json"
CURVES = ("secp256r1", "secp384r1")


def preflight(mounts: Mounts) -> Admission:
    """Claim, check, and leave word for the containers that follow."""
    manifest = read_manifest(mounts.run)
    work = WorkFolder(mounts.work)
    work.stages.unlink(missing_ok=True)  # a folder that is used again (`graft run --work`)
    attempt = claim(manifest, mounts)
    if attempt is not None:  # so that what is found below is reported as this attempt's failure
        save(work.claim, Admission(attempt=attempt, conditional_writes=False))
    with Timer(work).stage("preflight"):
        admission = admit(manifest, mounts, attempt)
    save(work.claim, admission)
    logger.info("attempt %d may work", admission.attempt)
    return admission


def admit(manifest: RunManifest, mounts: Mounts, attempt: int | None) -> Admission:
    """Check everything; without an operator that granted one, take an attempt of our own."""
    store = open_store(manifest.run_uri, mounts.credentials)
    check_settings(manifest)
    check_signing_key(manifest, mounts)
    conditional = store.check_writable()
    if not conditional:
        logger.warning(
            "%s replaces objects even where told not to: only the operator's accepted report decides between attempts", store.uri
        )
    find_base_model(manifest.spec.base_model, mounts)
    find_data(manifest.spec, mounts)
    committed = find_committed(store, manifest)
    if committed is not None:
        check_lock(manifest, mounts, store)
        logger.info("attempt %d of this run committed its result, base and data are the same: nothing to train", committed.record.attempt)
    taken = attempt or take_attempt(store, manifest.job.uid)
    return Admission(attempt=taken, conditional_writes=conditional, committed=committed is not None)


def claim(manifest: RunManifest, mounts: Mounts) -> int | None:
    """Return the attempt that the operator grants, or None where there is no operator to ask."""
    if manifest.reporting is None:
        return None
    client = OperatorClient(manifest.job, manifest.reporting, mounts.token, mounts.ca)
    attempt = client.claim()
    post(client, attempt, Progress(stage="preflight"))
    return attempt


def take_attempt(store: Store, job_uid: str) -> int:
    """Without an operator: take the first number above every attempt that left anything behind, so that no two runs share one."""
    numbers = (re.match(r"attempt-([0-9]+)-[0-9a-f]{8}/", entry.path) for entry in store.list("attempt-"))
    attempt = 1 + max((int(found[1]) for found in numbers if found), default=0)
    while not store.create(f"{attempt_folder(attempt, job_uid)}/{CLAIM}", b"{}"):
        attempt += 1
    return attempt


def check_settings(manifest: RunManifest) -> None:
    """Refuse what this version cannot do, scorers that cannot be built and extraArgs that SFTConfig does not know."""
    if problems := unsupported(manifest.spec):
        raise BadInputError(Reason.UNSUPPORTED, "; ".join(problems))
    # In a cluster the variables of `podTemplate` are the training container's alone; `graft run` has those of its shell.
    local = manifest.reporting is None
    scoring.check_scorers(manifest.spec, os.environ if local else scoring.declared_environment(manifest.spec))
    hyperparameters.check_extra_args(manifest.spec)


def check_signing_key(manifest: RunManifest, mounts: Mounts) -> None:
    """Refuse a run whose result could not be signed."""
    reference = manifest.spec.signing.secret_ref
    key = reference.key or "key.pem"
    where = f"key {key!r} of Secret {reference.name!r} (spec.signing.secretRef)"
    try:
        pem = mounts.signing_key.read_bytes()
    except OSError as error:
        message = f"{where} is not there; create it: openssl ecparam -name prime256v1 -genkey -noout -out {key}"
        raise BadInputError(Reason.SIGNING_KEY_MISSING, message) from error
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInputError(Reason.SIGNING_KEY_INVALID, f"{where} is no unencrypted private key in PEM") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in CURVES:
        raise BadInputError(Reason.SIGNING_KEY_INVALID, f"{where} must be an EC private key on P-256 or P-384")
