"""
Checkpoints that survive the pod: sealed on disk, copied to the store in the background, found again by any later attempt.

Files are hard-linked out of transformers' folder, so that its rotation cannot remove what is still being copied.
"""

import json
import logging
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from graft_api.artifact import CHECKPOINT_LIST
from graft_trainer import folder
from graft_trainer.errors import EnvironmentFailureError
from graft_trainer.store import Store

logger = logging.getLogger(__name__)

STATE = "trainer_state.json"
NOT_RESUMED = frozenset({"training_args.bin", "README.md", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"})
"""training_args.bin is a pickle of everything; nothing here reads it."""
STEP = re.compile(r"(?P<folder>attempt-(?P<attempt>[0-9]+)-[0-9a-f]{8}/checkpoints/step-(?P<step>[0-9]+))/" + re.escape(CHECKPOINT_LIST))


def name_of(step: int) -> str:
    """Return a checkpoint's folder name; as text they sort by step."""
    return f"step-{step:06d}"


def seal(source: Path, checkpoints: Path, step: int) -> Path:
    """Link the files of transformers' checkpoint into a folder of their own and seal it."""
    target = checkpoints / name_of(step)
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.name not in NOT_RESUMED:
            (target / file.name).hardlink_to(file)
    folder.seal(target, step)
    return target


class Uploader:
    """Copies sealed checkpoints to the store, one at a time, and keeps the newest ones and the best one there."""

    def __init__(self, store: Store, attempt_folder: str, checkpoints: Path, keep: int) -> None:
        self._store = store
        self._below = f"{attempt_folder}/checkpoints"
        self._checkpoints = checkpoints
        self._keep = keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._running: list[Future[None]] = []

    def put(self, step: int, best_step: int | None) -> None:
        """Copy one checkpoint in the background. A store that is away costs this checkpoint, never the training."""
        self._running.append(self._pool.submit(self._put, step, best_step))

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown(wait=True)
        for done in self._running:
            done.result()

    def _put(self, step: int, best_step: int | None) -> None:
        source = self._checkpoints / name_of(step)
        files = [file.name for file in source.iterdir() if file.name != CHECKPOINT_LIST]
        try:
            folder.upload(self._store, source, files, f"{self._below}/{source.name}", CHECKPOINT_LIST)
            self._retain(step, best_step)
        except EnvironmentFailureError as error:
            logger.warning("checkpoint of step %d was not stored: %s", step, error)

    def _retain(self, step: int, best_step: int | None) -> None:
        kept = sorted(path.name for path in self._checkpoints.iterdir() if path.name <= name_of(step))[-self._keep :]
        wanted = {*kept, name_of(step)} | ({name_of(best_step)} if best_step is not None else set())
        for path in self._checkpoints.iterdir():
            if path.name not in wanted and path.name < name_of(step):
                self._remove(path)

    def _remove(self, path: Path) -> None:
        below = f"{self._below}/{path.name}"
        self._store.delete(f"{below}/{CHECKPOINT_LIST}")  # first: without its list it counts for nothing
        for entry in self._store.list(f"{below}/"):
            self._store.delete(entry.path)
        shutil.rmtree(path)


@dataclass(frozen=True)
class ResumePoint:
    """Where training goes on."""

    step: int
    path: Path


def newest(store: Store, checkpoints: Path, output: Path) -> ResumePoint | None:
    """
    Lay out the newest checkpoint that verifies, of this work folder or of any attempt in the store, as transformers wants it.

    The best checkpoint so far comes along if it can be had, since the end of training may go back to it.
    """
    for step in sorted(_steps(store, checkpoints), reverse=True):
        path = _bring(store, checkpoints, output, step)
        if path is not None:
            _bring_best(store, checkpoints, output, path)
            return ResumePoint(step, path)
        logger.warning("no checkpoint of step %d verifies: an older one is tried", step)
    return None


def _steps(store: Store, checkpoints: Path) -> set[int]:
    here = {int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*") if (path / CHECKPOINT_LIST).is_file()}
    return here | {int(found["step"]) for found in _stored(store)}


def _stored(store: Store) -> list[re.Match[str]]:
    return [found for entry in store.list("attempt-") if (found := STEP.fullmatch(entry.path))]


def _bring(store: Store, checkpoints: Path, output: Path, step: int) -> Path | None:
    sealed = checkpoints / name_of(step)
    if folder.sealed(sealed) is None and not _download(store, sealed, step):
        return None
    target = output / f"checkpoint-{step}"
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for file in sealed.iterdir():
        if file.name != CHECKPOINT_LIST:
            shutil.copyfile(file, target / file.name)
    return target


def _download(store: Store, target: Path, step: int) -> bool:
    found = [match for match in _stored(store) if int(match["step"]) == step]
    for match in sorted(found, key=lambda match: int(match["attempt"]), reverse=True):
        shutil.rmtree(target, ignore_errors=True)
        if folder.fetch_sealed(store, match["folder"], target) is not None:
            return True
    shutil.rmtree(target, ignore_errors=True)
    return False


def _bring_best(store: Store, checkpoints: Path, output: Path, resumed: Path) -> None:
    state_file = resumed / STATE
    state = json.loads(state_file.read_bytes())
    best = state.get("best_global_step")
    if not best:
        return
    path = resumed if resumed.name == f"checkpoint-{best}" else _bring(store, checkpoints, output, best)
    # transformers follows this path at the end; it names another pod's folder until it is set right.
    state["best_model_checkpoint"] = None if path is None else str(path)
    if path is None:
        state["best_metric"] = state["best_global_step"] = None
    state_file.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
