"""
API keys: a mounted Secret with one file per key, named by its owner, holding `sha256:<hex of the key>`.

The gateway never has the keys themselves. A key is looked up by its digest in a dictionary: how long that takes says nothing about
the digests that are there, and nothing about the key.
"""

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from graft_serving.gateway.errors import Cause, Refusal

logger = logging.getLogger(__name__)

ANONYMOUS = ""
"""The owner of requests without a key."""
LOOK_SECONDS = 2.0
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})\s*")
_LARGEST_FILE = 1024


class ApiKeys:
    """`look` reads the folder again if it has changed; `owner` answers from memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._owners: Mapping[bytes, str] = {}
        self._seen: tuple[object, ...] | None = None

    async def run(self) -> None:
        """Look every two seconds, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Take over what the folder says. A folder that cannot be read changes nothing: the kubelet may be swapping it."""
        try:
            seen = _fingerprint(self._directory)
            if seen == self._seen:
                return
            self._owners = read_keys(self._directory)
            self._seen = seen
        except OSError:
            if self._seen is not None:
                logger.warning("the folder of API keys cannot be read; those known before stay")

    def owner(self, headers: Mapping[str, str], *, anonymous: bool) -> str:
        """Return whose request it is; where anonymous clients are served, an unknown key is none. Raises `Refusal`."""
        key = _key(headers)
        if key is not None:
            owner = self._owners.get(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest())
            if owner is not None:
                return owner
        if anonymous:
            return ANONYMOUS
        message = "this API key is not known" if key else "an API key is required: Authorization: Bearer <key>, or x-api-key"
        raise Refusal(401, Cause.UNAUTHENTICATED, message, code="invalid_api_key")


def read_keys(directory: Path) -> dict[bytes, str]:
    """Return owner by digest. A file that says something else is left out, loudly. Raises OSError."""
    owners: dict[bytes, str] = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        found = _DIGEST.fullmatch(_text(path))
        if found is None:
            logger.error("the API key of %s is left out: it must be sha256:<64 hexadecimal digits>", path.name)
            continue
        owners[bytes.fromhex(found[1])] = path.name
    return owners


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_LARGEST_FILE).decode("ascii", "replace")


def _fingerprint(directory: Path) -> tuple[object, ...]:
    """Return what changes with the folder: kubelet's `..data` link, and every file's own times."""
    entries = []
    with os.scandir(directory) as found:
        for entry in found:
            status = entry.stat()
            entries.append((entry.name, status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(sorted(entries))


def _key(headers: Mapping[str, str]) -> str | None:
    authorization = headers.get("Authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
    return headers.get("x-api-key")
