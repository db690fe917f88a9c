"""
One door to every store: a folder of objects below a URI.

Whatever goes wrong behind it comes out as a `RunEndedError` that says who must act; absence is a value, not an error.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from graft_api.reports import Reason
from graft_runtime.store import Entry
from graft_trainer.errors import BadInputError, EnvironmentFailureError


class Store(Protocol):
    """Objects below one URI. Paths are relative, with forward slashes."""

    uri: str

    def check_writable(self) -> bool:
        """
        Write, read and remove a probe.

        Returns whether `create` really refuses to replace: a store that does not honour it cannot decide who commits.
        """

    def stat(self, path: str) -> Entry | None:
        """Return the object, or None if there is none."""

    def read(self, path: str) -> bytes | None:
        """Return the content of a small object, or None if there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""

    def create(self, path: str, content: bytes) -> bool:
        """Write a small object only if there is none; return whether this call wrote it."""

    def upload(self, source: Path, path: str) -> None:
        """Copy a file into the store."""

    def download(self, path: str, target: Path) -> None:
        """Copy an object out of the store; `target` appears whole or not at all."""

    def list(self, prefix: str) -> list[Entry]:
        """Return every object whose path begins with `prefix`, sorted."""

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""

    def local(self, path: str) -> Path | None:
        """Return where the object lies on this machine, if it does: then nothing needs copying."""


def open_store(uri: str, credentials: Path) -> Store:
    """Return the store below `uri` (`s3://bucket/prefix` or `file:///folder`). Nothing is asked of it yet."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return FileStore(uri)
    if parts.scheme == "s3":
        from graft_trainer.s3 import S3Store  # noqa: PLC0415 - file:// runs need no S3 client

        return S3Store(uri, credentials)
    raise BadInputError(Reason.UNSUPPORTED, f"{uri}: only s3:// and file:// can be read and written")


def split_object(uri: str) -> tuple[str, str]:
    """Split an object's URI into its folder's URI and its name."""
    folder, _, name = uri.rpartition("/")
    return folder, name


class FileStore:
    """A folder. Local runs and tests use it; so can a volume that the user mounts."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._root = Path(unquote(urlsplit(uri).path))

    def check_writable(self) -> bool:
        """See `Store`."""
        with _as_run_failure(self.uri):
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._root, prefix=".probe-"):
                return True

    def stat(self, path: str) -> Entry | None:
        """See `Store`."""
        with _as_run_failure(self.uri):
            target = self._root / path
            return Entry(path, target.stat().st_size) if target.is_file() else None

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        with _as_run_failure(self.uri):
            try:
                return (self._root / path).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, path: str, content: bytes) -> None:
        """See `Store`."""
        with self._whole(path) as temporary:
            temporary.write_bytes(content)

    def create(self, path: str, content: bytes) -> bool:
        """See `Store`. A hard link is made only where there is no such name, which decides between two writers."""
        with _as_run_failure(self.uri):
            target = self._root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".create-") as temporary:
                temporary.write(content)
                temporary.flush()
                os.fsync(temporary.fileno())
                try:
                    target.hardlink_to(temporary.name)
                except FileExistsError:
                    return False
                target.chmod(0o644)
                return True

    def upload(self, source: Path, path: str) -> None:
        """See `Store`."""
        with self._whole(path) as temporary:
            shutil.copyfile(source, temporary)

    def download(self, path: str, target: Path) -> None:
        """See `Store`."""
        with _as_run_failure(self.uri):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".part")
            shutil.copyfile(self._root / path, temporary)
            temporary.replace(target)

    def list(self, prefix: str) -> list[Entry]:
        """See `Store`."""
        with _as_run_failure(self.uri):
            start = self._root / prefix.rpartition("/")[0]
            found = (file for file in start.rglob("*") if file.is_file() and not file.name.startswith((".create-", ".whole-")))
            named = ((str(file.relative_to(self._root)), file) for file in found)
            return sorted(
                (Entry(path, file.stat().st_size) for path, file in named if path.startswith(prefix)), key=lambda entry: entry.path
            )

    def delete(self, path: str) -> None:
        """See `Store`."""
        with _as_run_failure(self.uri):
            target = self._root / path
            target.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a folder that still holds something stays, as prefixes do
                target.parent.rmdir()

    def local(self, path: str) -> Path | None:
        """See `Store`."""
        return self._root / path

    @contextmanager
    def _whole(self, path: str) -> Iterator[Path]:
        with _as_run_failure(self.uri):
            target = self._root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".whole-{os.getpid()}-{target.name}")
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(target)


@contextmanager
def _as_run_failure(uri: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        message = f"{uri}: {error.strerror or 'permission denied'}; give the pod's user the right to read and write there"
        raise BadInputError(Reason.CREDENTIALS_REFUSED, message) from error
    except OSError as error:
        raise EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{uri}: {error.strerror or error}") from error
