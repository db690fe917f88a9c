"""
The train container, in the order it happens: fetch -> prepare -> train -> evaluate -> package.

Each stage can be repeated by a later attempt and finds what an earlier one finished.
"""

import functools
import logging
import os
import signal
import threading
from types import FrameType

from graft_api.artifact import Probes
from graft_api.finetunejob import FineTuneJobSpec
from graft_api.reports import Reason
from graft_api.run import RunManifest
from graft_trainer import scoring
from graft_trainer.errors import EnvironmentFailureError
from graft_trainer.evaluate import Arms, evaluate, load_arms
from graft_trainer.fetch import fetch
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.operator_client import OperatorClient
from graft_trainer.package import Contents, write_package
from graft_trainer.prepare import prepare
from graft_trainer.records import Admission, load, read_manifest
from graft_trainer.reporter import Reporter
from graft_trainer.store import open_store
from graft_trainer.timer import Timer
from graft_trainer.train import train

logger = logging.getLogger(__name__)


def run_stages(mounts: Mounts) -> None:
    """Do the attempt's work, unless an earlier run of the same spec on the same data has done it."""
    manifest = read_manifest(mounts.run)
    work = WorkFolder(mounts.work)
    admission = load(Admission, work.claim)
    if admission is None:
        raise RuntimeError("there is no claim: preflight did not run in this pod")
    if admission.committed:
        logger.info("the result is committed already: nothing to train")
        return
    timer = Timer(work)
    work.stop.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: _on_sigterm(number, frame, timer, work))
    Reporter(_client(manifest, mounts), admission.attempt, work, mounts.termination_log).start()
    _work(manifest, admission, mounts, timer)


def _work(manifest: RunManifest, admission: Admission, mounts: Mounts, timer: Timer) -> None:
    spec, work = manifest.spec, WorkFolder(mounts.work)
    scoring.check_scorers(spec, os.environ)  # again, with this container's variables and programs, before hours of training
    scoring.check_commands(spec)
    store = open_store(manifest.run_uri, mounts.credentials)
    imports = threading.Thread(target=_import_libraries, name="imports", daemon=True)
    imports.start()  # ten seconds of somebody else's modules, while files are copied and rows are read
    with timer.stage("fetch"):
        base = fetch(spec.base_model, mounts)
    with timer.stage("prepare"):
        lock = prepare(manifest, base, store, mounts)
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


def _on_sigterm(number: int, frame: FrameType | None, timer: Timer, work: WorkFolder) -> None:
    """Let training save itself; anything else is cheap to repeat and ends here."""
    del number, frame
    work.stop.touch()
    if timer.current != "train":
        where = f"during {timer.current}" if timer.current else "between two stages"
        raise EnvironmentFailureError(Reason.UNEXPECTED, f"the pod was asked to go {where}; a later attempt goes on")


def _client(manifest: RunManifest, mounts: Mounts) -> OperatorClient | None:
    return None if manifest.reporting is None else OperatorClient(manifest.job, manifest.reporting, mounts.token, mounts.ca)


def _import_libraries() -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends a package that fetches kernels from a hub
    from graft_trainer import training_loop  # noqa: F401, PLC0415 - brings torch, transformers, peft, trl and ray
