"""
The train container, in the order it happens: fetch -> prepare -> train -> evaluate -> package.

Each stage can be repeated by a later attempt and finds what an earlier one finished.
"""

import functools
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from graft_api.artifact import Probes
from graft_api.finetunejob import FineTuneJobSpec, Progress
from graft_api.reports import Reason
from graft_api.run import RunManifest
from graft_trainer.errors import EnvironmentFailureError
from graft_trainer.evaluate import Arms, evaluate, load_arms
from graft_trainer.fetch import fetch
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.operator_client import OperatorClient
from graft_trainer.package import Contents, write_package
from graft_trainer.prepare import prepare
from graft_trainer.records import Admission, load, read_manifest, save
from graft_trainer.reporter import Reporter
from graft_trainer.store import open_store
from graft_trainer.train import train

logger = logging.getLogger(__name__)

Stage = Literal["fetch", "prepare", "train", "evaluate", "package"]


def run_stages(mounts: Mounts) -> None:
    """Do the attempt's work, unless an earlier run of the same spec on the same data has done it."""
    manifest = read_manifest(mounts.run)
    work = WorkFolder(mounts.work)
    admission = load(Admission, work.claim)
    if admission is None:
        raise RuntimeError("there is no claim: preflight did not run in this pod")
    if admission.committed is not None:
        logger.info("the result is committed already: nothing to train")
        return
    timer = Timer(work)
    signal.signal(signal.SIGTERM, timer.on_sigterm)
    Reporter(_client(manifest, mounts), admission.attempt, work.progress, mounts.termination_log).start()
    _work(manifest, admission, mounts, timer)


def _work(manifest: RunManifest, admission: Admission, mounts: Mounts, timer: "Timer") -> None:
    spec, work = manifest.spec, WorkFolder(mounts.work)
    store = open_store(manifest.run_uri, mounts.credentials)
    imports = threading.Thread(target=_import_libraries, name="imports", daemon=True)
    imports.start()  # ten seconds of somebody else's modules, while files are copied and rows are read
    with timer.stage("fetch"):
        base = fetch(spec.base_model, mounts)
    with timer.stage("prepare"):
        lock = prepare(manifest, store, mounts, chat=base.has_chat_template)
    with timer.stage("train"):
        imports.join()
        outcome = train(manifest, base, admission, store, mounts)
    arms = functools.cache(lambda: load_arms(spec, base.path, work.trained))
    with timer.stage("evaluate"):
        evaluation = evaluate(manifest, arms, store, work, admission.attempt)
    with timer.stage("package"):
        probes = _probes(spec, arms())
        contents = Contents(manifest, admission.attempt, base, lock, outcome, evaluation, probes)
        write_package(contents, work.trained, work.package, timer.seconds())


def _probes(spec: FineTuneJobSpec, arms: Arms) -> Probes:
    from graft_trainer.probes import make_probes  # noqa: PLC0415 - torch

    assert spec.training is not None  # noqa: S101 - resolved
    return make_probes(arms, spec.evaluation.precision or "bfloat16", seed=spec.training.seed or 0)


class Timer:
    """Which stage runs, since when, and how long the others took."""

    def __init__(self, work: WorkFolder) -> None:
        self._work = work
        self._done: dict[str, float] = {}
        self._current: Stage | None = None
        self._began = 0.0
        work.stop.unlink(missing_ok=True)

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time one stage, and let the reporter say that it began."""
        self._current, self._began = name, time.monotonic()
        save(self._work.progress, Progress(stage=name))
        yield
        self._done = self.seconds()
        logger.info("%s took %.1f s", name, self._done[name])

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage, the running one up to now."""
        running = {str(self._current): round(time.monotonic() - self._began, 2)} if self._current else {}
        return self._done | running

    def on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Let training save itself; anything else is cheap to repeat and ends here."""
        del number, frame
        self._work.stop.touch()
        if self._current != "train":
            raise EnvironmentFailureError(Reason.UNEXPECTED, f"the pod was asked to go during {self._current}; a later attempt goes on")


def _client(manifest: RunManifest, mounts: Mounts) -> OperatorClient | None:
    return None if manifest.reporting is None else OperatorClient(manifest.job, manifest.reporting, mounts.token, mounts.ca)


def _import_libraries() -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends a package that fetches kernels from a hub
    from graft_trainer import training_loop  # noqa: F401, PLC0415 - brings torch, transformers, peft, trl and ray
