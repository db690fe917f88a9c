"""
Folders that prove themselves: every file listed with size and sha256, the list written last.

The store never sees a list before the files it lists, so what has no valid list was never finished.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from graft_api.artifact import CHECKPOINT_LIST, CheckpointList, FileEntry
from graft_api.schema import canonical_json
from graft_runtime.digests import list_files
from graft_trainer.store import Store

PARALLEL = 8


def differences(folder: Path, listed: list[FileEntry], without: Iterable[str] = ()) -> list[str]:
    """Return the paths that are missing, unlisted or not as listed. Empty: the folder is what the list says."""
    actual = {file.path: file for file in list_files(folder, without)}
    expected = {file.path: file for file in listed}
    return sorted(path for path in actual.keys() | expected.keys() if actual.get(path) != expected.get(path))


def seal(folder: Path, step: int) -> CheckpointList:
    """Write the folder's own list into it, as its last file."""
    listed = CheckpointList(step=step, files=list_files(folder, [CHECKPOINT_LIST]))
    (folder / CHECKPOINT_LIST).write_bytes(canonical_json(listed.to_json()))
    return listed


def sealed(folder: Path) -> CheckpointList | None:
    """Return the list of a folder that is exactly what its list says, else None."""
    try:
        listed = CheckpointList.model_validate_json((folder / CHECKPOINT_LIST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return None if differences(folder, listed.files, [CHECKPOINT_LIST]) else listed


def upload(store: Store, folder: Path, files: Iterable[str], below: str, last: str) -> None:
    """Copy the named files into the store below `below`, in parallel, and then `last`, which makes them count."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(store.upload, folder / path, f"{below}/{path}") for path in files]:
            done.result()
    store.upload(folder / last, f"{below}/{last}")


def fetch_sealed(store: Store, below: str, target: Path) -> CheckpointList | None:
    """Copy a sealed folder out of the store; return its list, or None if it is not whole."""
    content = store.read(f"{below}/{CHECKPOINT_LIST}")
    if content is None:
        return None
    try:
        listed = CheckpointList.model_validate_json(content)
    except ValidationError:
        return None
    sizes = {entry.path: entry.size_bytes for entry in store.list(f"{below}/")}
    if any(sizes.get(f"{below}/{file.path}") != file.size_bytes or not inside(file.path) for file in listed.files):
        return None
    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(store.download, f"{below}/{file.path}", target / file.path) for file in listed.files]:
            done.result()
    (target / CHECKPOINT_LIST).write_bytes(content)
    return sealed(target)


def inside(path: str) -> bool:
    """Whether a listed path stays below its folder."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts
