"""Where segments and commits lie: a folder of an S3 store, or of this machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from graft_runtime.store import Problem, read_credentials

BYTES = "application/octet-stream"


class StoreAwayError(Exception):
    """The store did not do it; another try may help, or another setting of it."""


class Store(Protocol):
    """Objects below one URI. Its methods block; they raise `StoreAwayError`. Writes are whole or not at all."""

    def list(self, prefix: str) -> list[str]:
        """Return the paths that begin with `prefix`, sorted."""

    def read(self, path: str) -> bytes | None:
        """Return an object, or None."""

    def write(self, path: str, content: bytes, content_type: str = BYTES) -> None:
        """Write an object, over one that is there. A browser that reads it is told the type, by a store that knows types."""

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Return whether the object is there now and was not before; of several writers one is told so."""

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""


CONNECTIONS = 2
"""Of a lane."""


def open_store(uri: str, credentials: Path, connections: int = CONNECTIONS) -> Store:
    """
    Return the store at `uri` (`s3://bucket/folder` or `file:///folder`). Nothing is asked of it yet. Raises `StoreAwayError`.

    `connections`: that are kept open.
    """
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        return S3Store(uri, credentials, connections)
    raise StoreAwayError(f"{uri}: only s3:// and file:// can be written")


class FolderStore:
    """A folder of this machine: tests, and volumes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, prefix: str) -> list[str]:
        """See `Store`."""
        found = (str(file.relative_to(self._root)) for file in self._root.rglob("*") if file.is_file() and not file.name.startswith("."))
        return sorted(path for path in found if path.startswith(prefix))

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreAwayError(f"{path}: {error.strerror}") from error

    def write(self, path: str, content: bytes, content_type: str = BYTES) -> None:
        """See `Store`."""
        try:
            self._written(path, content).replace(self._root / path)
        except OSError as error:
            raise StoreAwayError(f"{path}: {error.strerror}") from error

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """See `Store`."""
        try:
            written = self._written(path, content)
            try:
                os.link(written, self._root / path)
            except FileExistsError:
                return False
            finally:
                written.unlink()
        except OSError as error:
            raise StoreAwayError(f"{path}: {error.strerror}") from error
        return True

    def delete(self, path: str) -> None:
        """See `Store`."""
        (self._root / path).unlink(missing_ok=True)

    def _written(self, path: str, content: bytes) -> Path:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return partial


class S3Store:
    """A folder of an S3 store."""

    def __init__(self, uri: str, credentials: Path, connections: int = CONNECTIONS) -> None:
        from graft_runtime.s3 import S3Folder, S3Limits  # noqa: PLC0415 - file:// needs no S3 client

        # More retries would only hold up the lane's own, which say why they wait.
        limits = S3Limits(retries=2, pause=0.2, longest_pause=1, obey_retry_after=False, connect=5, read=30, connections=connections)
        self._folder = S3Folder(uri, read_credentials(credentials, away), limits, away)

    def list(self, prefix: str) -> list[str]:
        """See `Store`."""
        return [entry.path for entry in self._folder.list(prefix)]

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        return self._folder.read(path)

    def write(self, path: str, content: bytes, content_type: str = BYTES) -> None:
        """See `Store`."""
        self._folder.write(path, content, content_type)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """See `Store`. Where the store knows no conditions it is asked before, and two writers at once are not told apart."""
        done = self._folder.put_if_absent(path, content)
        if done is not None:
            return done
        if self._folder.stat(path) is not None:
            return False
        self._folder.write(path, content)
        return True

    def delete(self, path: str) -> None:
        """See `Store`."""
        self._folder.delete(path)


def away(problem: Problem, message: str) -> StoreAwayError:
    """Return what this store did not do as its users know it."""
    return StoreAwayError(f"{problem.name}: {message}")
