"""
The adapters on this pod's disk: one immutable folder per version, under the version's name.

A folder with a visible name was verified before it got that name. Everything hidden is half done and worth nothing after a crash.
"""

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from graft_api.fleet import LoadFailure
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.paths import check_version_name

_FETCHING = ".fetching-"


class Cache:
    """At most `limit_bytes` below `root`. Its methods block."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self._reserved: dict[str, int] = {}

    def clean(self) -> None:
        """Remove what an earlier process left half done."""
        self.root.mkdir(parents=True, exist_ok=True)
        for entry in self.root.iterdir():
            if entry.name.startswith("."):
                _remove(entry)

    def path(self, name: str) -> Path:
        """Return where a version's folder is, or would be."""
        check_version_name(name)
        return self.root / name

    def names(self) -> frozenset[str]:
        """Return the versions that are here whole."""
        return frozenset(entry.name for entry in self.root.iterdir() if not entry.name.startswith("."))

    def begin(self, name: str, size: int, keep: Callable[[], Collection[str]]) -> Path:
        """
        Make room for `size` bytes and return an empty folder to fetch into.

        What makes room are the folders that were used longest ago; `keep` returns those that may not go, for vLLM reads them again
        whenever it likes. It is asked before each removal: what was loaded a moment ago counts.
        """
        folder = self.path(name).with_name(_FETCHING + name)
        _remove(folder)
        self._make_room(name, size, keep)
        self._reserved[name] = size
        folder.mkdir(mode=0o755)
        return folder

    def commit(self, name: str) -> Path:
        """Give the fetched and verified folder its name, for good."""
        target = self.path(name)
        folder = self.root / (_FETCHING + name)
        for file in [folder, *folder.rglob("*")]:
            file.chmod(0o755 if file.is_dir() else 0o644)  # vLLM runs as another user
        _remove(target)
        folder.rename(target)
        self._reserved.pop(name, None)
        return target

    def abandon(self, name: str) -> None:
        """Remove what was fetched."""
        self._reserved.pop(name, None)
        _remove(self.root / (_FETCHING + name))

    def touch(self, name: str) -> None:
        """Note that the version was used now."""
        os.utime(self.path(name))

    def remove(self, name: str) -> None:
        """Remove a version's folder. Only after vLLM has let go of it: it reads adapters again, and dies if one is gone."""
        _remove(self.path(name))

    def _make_room(self, name: str, size: int, keep: Callable[[], Collection[str]]) -> None:
        sizes = {entry: _size(self.root / entry) for entry in self.names()}
        free = self.limit_bytes - sum(sizes.values()) - sum(bytes_ for other, bytes_ in self._reserved.items() if other != name)
        for entry in sorted(self.names() - {name}, key=lambda entry: (self.root / entry).stat().st_mtime):
            if free >= size:
                return
            if entry in keep():
                continue
            _remove(self.root / entry)
            free += sizes[entry]
        if free < size:
            message = f"{size} bytes do not fit: {max(free, 0)} of the cache's {self.limit_bytes} are free (spec.server.adapterCache)"
            raise VersionRefusedError(LoadFailure.TOO_LARGE, message)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Hidden first: a removal that is cut off must not leave half a folder under a name that counts.
        if not path.name.startswith("."):
            hidden = path.with_name(f".removing-{path.name}")
            _remove(hidden)
            path = path.rename(hidden)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
