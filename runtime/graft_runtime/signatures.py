"""The signature over a folder: who signs and who verifies must mean the same bytes."""

import tempfile
from pathlib import Path

from model_signing import hashing, verifying


def signed_bytes(signature: Path) -> hashing.Config:
    """Return what a signature is over: every file but itself. By default model-signing leaves files such as .gitignore out."""
    return hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)


def verify(folder: Path, signature: Path, public_key: bytes) -> None:
    """Raises ValueError unless `signature` is one over all of `folder` by `public_key` (PEM); a crafted one may raise anything."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(public_key)
        file.flush()
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=file.name)
        verifier.set_hashing_config(signed_bytes(signature)).verify(folder, signature)
