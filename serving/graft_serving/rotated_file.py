"""Files that somebody else replaces while we run: tokens, authorities, mounted documents."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class RotatedFile(Generic[T]):
    """
    What a file says, parsed again only when the file has changed.

    A look costs one stat(2), so it may be taken for every request. While the file is away or unreadable, or says something that
    does not parse, the last good value stays: the kubelet swaps a whole folder, and an old token is better than none.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        self.path = path
        self._parse = parse
        self._seen: tuple[int, int, int] | None = None
        self._value: tuple[T] | None = None

    def read(self) -> T:
        """Return the newest good value. Raises OSError or ValueError if there never was one."""
        try:
            self._refresh()
        except (OSError, ValueError):
            if self._value is None:
                raise
        assert self._value is not None  # noqa: S101 - else the first refresh has raised
        return self._value[0]

    def _refresh(self) -> None:
        status = os.stat(self.path)  # noqa: PTH116 - three times as fast as Path.stat, and it is asked for every request
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen != self._seen or self._value is None:
            self._value = (self._parse(self.path.read_bytes()),)
            self._seen = seen


def token_file(path: Path) -> RotatedFile[str]:
    """Return a bearer token that the kubelet rotates."""
    return RotatedFile(path, _token)


def authority_file(path: Path) -> RotatedFile[ssl.SSLContext]:
    """Return a client's TLS context that trusts the certificates in `path`, and nobody else."""
    return RotatedFile(path, lambda pem: ssl.create_default_context(cadata=pem.decode()))


def _token(content: bytes) -> str:
    token = content.decode().strip()
    if not token:
        raise ValueError("the token file is empty")
    return token
