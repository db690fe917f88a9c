"""The signature over an artifact's folder, made and checked with the run's key. No torch and no user code in this process."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from model_signing import signing

from graft_api.artifact import MANIFEST, SIGNATURE
from graft_api.reports import Reason
from graft_runtime.signatures import signed_bytes, verify
from graft_trainer import folder
from graft_trainer.commit import Committed, untrusted
from graft_trainer.errors import BadInputError
from graft_trainer.store import Store


def sign(package: Path, key: Path) -> None:
    """Sign the folder, manifest included, with the elliptic key."""
    signature = package / SIGNATURE
    signature.unlink(missing_ok=True)
    signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(signed_bytes(signature)).sign(package, signature)


def check_signed(store: Store, committed: Committed, key: Path, target: Path) -> None:
    """Copy a committed artifact into `target` and refuse it unless it is whole and signed with the public half of `key`."""
    shutil.rmtree(target, ignore_errors=True)
    names = [*(file.path for file in committed.manifest.files), MANIFEST, SIGNATURE]
    if outside := [name for name in names if not folder.inside(name)]:
        raise untrusted(store, f"{committed.record.manifest} lists {outside[0]}")
    arrived = {entry.path for entry in store.list(f"{committed.folder}/")}
    if missing := [name for name in names if f"{committed.folder}/{name}" not in arrived]:
        raise untrusted(store, f"{committed.folder}/{missing[0]} is missing")
    with ThreadPoolExecutor(folder.PARALLEL) as pool:
        for done in [pool.submit(store.download, f"{committed.folder}/{name}", target / name) for name in names]:
            done.result()
    if wrong := folder.differences(target, committed.manifest.files, [MANIFEST, SIGNATURE]):
        raise untrusted(store, f"{committed.folder}/{wrong[0]} is not what {MANIFEST} lists")
    _verify(store, target, key)


def _verify(store: Store, artifact: Path, key: Path) -> None:
    private = load_pem_private_key(key.read_bytes(), password=None)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = artifact / SIGNATURE
    if _signer(signature) != hashlib.sha256(public).hexdigest():
        message = (
            f"{store.uri}: the committed result is signed with another key than spec.signing.secretRef; if you rotated the key, "
            f"put the old one back to have the result reported, or delete the run folder {store.uri} to train and sign again; "
            "if you did not, somebody else put the result there"
        )
        raise BadInputError(Reason.SIGNING_KEY_INVALID, message)
    try:
        verify(artifact, signature, public)
    except ValueError as error:
        raise untrusted(store, f"{SIGNATURE} does not verify") from error


def _signer(signature: Path) -> str | None:
    """Return the sha256 of the public key that a signature says it was made with."""
    try:
        hint: str = json.loads(signature.read_bytes())["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, KeyError, TypeError):
        return None
    return hint
