"""
Init container of a server pod: the base model's folder, whole and proven, before vLLM starts.

An s3:// base is copied; a pvc:// base is mounted, read-only, and only proven. The digest that was found is written last, for
the agent: without it nothing here counts.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from graft_api.artifact import FileEntry
from graft_api.dataplane import CREDENTIALS_DIRECTORY, MODEL_DIGEST_FILE, MODEL_DIRECTORY, READ_ONLY_MODEL_DIGEST_FILE
from graft_api.fleet import LoadFailure
from graft_runtime.digests import PICKLES, folder_digest, list_files
from graft_runtime.environment import required
from graft_runtime.store import Entry
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.store import Store, copy, listed, open_store

logger = logging.getLogger(__name__)

BAD_INPUT, ENVIRONMENT = 10, 20
"""Exit codes, those of the training pods: the user must act; trying again may help."""
MOST_BYTES = 4 * 1024**4
_PARTIAL = ".graft-partial"
_DIGEST = Path(MODEL_DIGEST_FILE).name
TERMINATION_LOG = Path("/dev/termination-log")
BAD = frozenset(
    {
        LoadFailure.NOT_FOUND,
        LoadFailure.CREDENTIALS_REFUSED,
        LoadFailure.TOO_LARGE,
        LoadFailure.UNSAFE_PATH,
        LoadFailure.INVALID_ARTIFACT,
    }
)
"""Refusals of a store that the user must act on."""

OpenStore = Callable[[str, Path], Store]
"""Returns the store of a URI, signed in to by the files of a folder."""


class BaseInvalidError(Exception):
    """The user must change the base model's folder, its digest in the spec, or the credentials."""


def run(environ: Mapping[str, str], open_store: OpenStore = open_store) -> int:
    """Return the exit code."""
    uri = required(environ, "GRAFT_BASE_URI")
    folder = Path(environ.get("GRAFT_MODEL_DIRECTORY", MODEL_DIRECTORY))
    credentials = Path(environ.get("GRAFT_CREDENTIALS_DIRECTORY", CREDENTIALS_DIRECTORY))
    try:
        digest = provide(uri, environ.get("GRAFT_BASE_DIGEST", ""), folder, lambda: open_store(uri, credentials))
        _write_digest(folder, Path(environ.get("GRAFT_READ_ONLY_MODEL_DIGEST_FILE", READ_ONLY_MODEL_DIGEST_FILE)), digest)
    except BaseInvalidError as error:
        return _ended(BAD_INPUT, str(error))
    except VersionRefusedError as error:
        return _ended(BAD_INPUT if error.reason in BAD else ENVIRONMENT, str(error))
    except OSError as error:
        return _ended(ENVIRONMENT, f"{folder}: {error.strerror or error}")
    logger.info("the base model is here", extra={"digest": digest})
    return 0


def provide(uri: str, wanted: str, folder: Path, opened: Callable[[], Store]) -> str:
    """Return the digest of the folder, which is the base model of `uri` then. `wanted` empty: whatever is found."""
    kept = urlsplit(uri).scheme != "pvc" and _copy(opened(), folder)
    found = _proven(uri, folder)
    if kept and wanted and found != wanted:  # what an earlier try left may be what is wrong
        _remove_others(folder, set())
        _copy(opened(), folder)
        found = _proven(uri, folder)
    if wanted and found != wanted:
        raise BaseInvalidError(f"spec.baseModel.digest: {uri} has {found}, but {wanted} is expected; correct the digest or the folder")
    return found


def _proven(uri: str, folder: Path) -> str:
    files = list_files(folder, without=[_DIGEST])
    _check(files, uri)
    return folder_digest(files)


def _copy(store: Store, folder: Path) -> bool:
    """
    Bring every object here. A file of the right size is kept; return whether any was, for the digest decides what it is worth.

    One object after the other, each in parallel parts, under its own name only when it is whole: a container that is started
    again goes on where it was.
    """
    (folder / _DIGEST).unlink(missing_ok=True)
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    entries = [entry for entry in listed(store, MOST_BYTES) if not entry.path.endswith(PICKLES)]
    _remove_others(folder, {entry.path for entry in entries})
    missing = [entry for entry in entries if not _is_here(entry, folder)]
    for entry in missing:
        copy(store, [entry], folder / _PARTIAL, time.sleep, threading.Event())
        (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / _PARTIAL / entry.path).rename(folder / entry.path)
        logger.info("fetched %s, %d bytes", entry.path, entry.size_bytes)
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    return len(missing) < len(entries)


def _is_here(entry: Entry, folder: Path) -> bool:
    path = folder / entry.path
    return path.is_file() and path.stat().st_size == entry.size_bytes


def _remove_others(folder: Path, wanted: set[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]:
        if str(path.relative_to(folder)) not in wanted:
            path.unlink()


def _check(files: list[FileEntry], uri: str) -> None:
    names = {file.path for file in files}
    if "config.json" not in names:
        raise BaseInvalidError(f"spec.baseModel.uri: {uri} holds no config.json; it must be a folder in the Hugging Face layout")
    if not any(name.endswith(".safetensors") for name in names):
        raise BaseInvalidError(f"spec.baseModel.uri: {uri} holds no weights as safetensors; convert them")


def _write_digest(folder: Path, elsewhere: Path, digest: str) -> None:
    try:
        (folder / _DIGEST).write_text(digest)
    except OSError:  # mounted read-only
        elsewhere.write_text(digest)


def _ended(code: int, message: str) -> int:
    logger.error("%s", message)
    if TERMINATION_LOG.exists():
        TERMINATION_LOG.write_text(message[:4000])
    return code
