"""
The key by which conversations get other names in the store, the same for as long as a test runs.

It must outlive the process, or a conversation that goes on after a restart would be another one; and it must lie neither in an object
of the API nor beside the pairs, or it would protect nothing. So it comes from the secret that the collector signs in to the store
with: whoever has that can do worse. A collector without one (workload identity) draws a key and keeps it on its pod's memory volume:
there it outlives the container, and with the pod it goes. A conversation that goes on beyond that, or beyond the day on which the
secret is replaced, counts as two.
"""

from __future__ import annotations

import os
import secrets
from hashlib import blake2b
from pathlib import Path

from graft_runtime.store import Failure, read_credentials

KEY_BYTES = 32


def pseudonym_key(test_uid: str, credentials: Path, run_directory: Path | None, failure: Failure) -> bytes:
    """Return it, of 32 bytes. Raises what `failure` makes of half a credential, and `OSError`."""
    secret = read_credentials(credentials, failure).secret_key
    if secret is not None:
        return blake2b(test_uid.encode(), digest_size=KEY_BYTES, key=blake2b(secret.encode()).digest(), person=b"pseudonyms").digest()
    return secrets.token_bytes(KEY_BYTES) if run_directory is None else _kept(run_directory / f"pseudonyms-{test_uid}")


def _kept(file: Path) -> bytes:
    """Return the key in a file, which is written whole if it is not there."""
    if not file.is_file():
        unfinished = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))
        unfinished.rename(file)
    return file.read_bytes()
