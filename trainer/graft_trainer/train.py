"""
Training, seen from the pod: tokenise, find where to go on, run Ray Train, keep the adapter.

One worker runs in this very process (`num_workers=0`, Ray Train's local mode): starting a Ray cluster inside the pod costs
half a minute and three processes, and one worker gains nothing from it. Several workers get that cluster.
"""

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any, Final

from graft_api.artifact import CHECKPOINT_LIST, attempt_folder
from graft_api.reports import Reason
from graft_api.run import RunManifest
from graft_trainer import checkpoints, folder, split, tokens
from graft_trainer.errors import BadInputError, EnvironmentFailureError, OutOfMemoryError, RunEndedError
from graft_trainer.fetch import BaseModel
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.records import Admission, Outcome, load
from graft_trainer.store import Store

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES: Final = 80 * 1024 * 1024
"""Little more than Ray's minimum: nothing large goes through it."""
RAY_ENVIRONMENT: Final = {
    "RAY_AUTH_MODE": "disabled",  # the cluster listens inside the pod only, and token mode writes to HOME
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # thousands of lines
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how long a report() waits at most
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def train(manifest: RunManifest, base: BaseModel, admission: Admission, store: Store, mounts: Mounts) -> Outcome:
    """Train unless some attempt has finished that already; leave the adapter here and in the store."""
    work = WorkFolder(mounts.work)
    outcome = _finished(store, work)
    if outcome is not None:
        logger.info("training was complete at step %d: not repeated", outcome.step)
        return outcome
    plan = _plan(manifest, base, admission, store, mounts)
    gpus = manifest.spec.workers.gpus_per_worker
    run_workers(plan, max(1, gpus), gpus, mounts)
    if work.stop.exists():
        raise EnvironmentFailureError(Reason.UNEXPECTED, "the pod was asked to go; a later attempt goes on from the last checkpoint")
    outcome = _outcome(work)
    _store_trained(store, work, plan.attempt_folder)
    return outcome


def _plan(manifest: RunManifest, base: BaseModel, admission: Admission, store: Store, mounts: Mounts) -> Any:  # noqa: ANN401 - imported late
    from graft_trainer.training_loop import TrainingPlan  # noqa: PLC0415 - imports torch

    spec, work = manifest.spec, WorkFolder(mounts.work)
    assert spec.training is not None  # noqa: S101 - resolved
    assert spec.training.max_length is not None  # noqa: S101
    tokenizer = tokens.load_tokenizer(base.path)
    train_file, validation_file = work.data / "train.arrow", work.data / "validation.arrow"
    tokenised = tokens.write_arrow(tokenizer, work.data / split.TRAIN, train_file, spec.training.max_length)
    validation = tokens.write_arrow(tokenizer, work.data / split.VALIDATION, validation_file, spec.training.max_length)
    _check_lengths(tokenised, spec.training.max_length)
    resume = checkpoints.newest(store, work.checkpoints, work.output)
    if resume:
        logger.info("resuming from step %d", resume.step)
    return TrainingPlan(
        spec=spec,
        attempt_folder=attempt_folder(admission.attempt, manifest.job.uid),
        run_uri=manifest.run_uri,
        credentials=mounts.credentials,
        work=work,
        base_model=base.path,
        train=train_file,
        validation=validation_file if validation.rows else None,
        tokenised=tokenised,
        resume=resume,
        threads=threads(),
    )


def _check_lengths(tokenised: tokens.Tokenised, max_length: int) -> None:
    if tokenised.rows == 0:
        raise BadInputError(
            Reason.INVALID_SETTING, f"spec.training.maxLength: every prompt alone has {max_length} tokens or more; raise it"
        )
    if tokenised.dropped or tokenised.truncated:
        logger.warning("maxLength %d: %d rows left out, %d cut off", max_length, tokenised.dropped, tokenised.truncated)


def threads() -> int:
    """Return torch's threads: one core is left to everything else, and more than eight only wait for each other on small models."""
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1))


def run_workers(plan: Any, workers: int, gpus: int, mounts: Mounts) -> None:  # noqa: ANN401
    """Train with so many workers; what fails in one of them is raised here."""
    from ray.train import RunConfig, ScalingConfig  # noqa: PLC0415 - imports torch
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    from graft_trainer import training_loop  # noqa: PLC0415

    logging.getLogger("ray").setLevel(logging.WARNING)
    several = workers > 1
    with _cluster(workers, gpus) if several else contextlib.nullcontext():
        trainer = TorchTrainer(
            _loop,
            train_loop_config={"plan": plan},
            scaling_config=ScalingConfig(
                num_workers=workers if several else 0, use_gpu=gpus > 0, resources_per_worker={"CPU": 1} | ({"GPU": 1} if gpus else {})
            ),
            # A run name that was used before silently resumes that run.
            run_config=RunConfig(name=plan.attempt_folder, storage_path=str(mounts.work / "ray")),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise _cause(error, training_loop.advice(plan.spec)) from error


def _loop(config: dict[str, Any]) -> None:
    from graft_trainer import training_loop  # noqa: PLC0415 - in the worker

    training_loop.train(config["plan"])


@contextlib.contextmanager
def _cluster(workers: int, gpus: int) -> Iterator[None]:
    """Start a Ray cluster of this pod alone. Its sockets need a short path (a Unix socket's name holds 107 bytes)."""
    import ray  # noqa: PLC0415

    os.environ.update(RAY_ENVIRONMENT)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    folder_ = tempfile.mkdtemp(prefix="ray-")
    try:
        ray.init(
            address="local",
            num_cpus=workers,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            configure_logging=False,
            log_to_driver=False,  # Ray's own housekeeping; what fails in a worker arrives as an exception
            _temp_dir=folder_,
            _plasma_directory=folder_,  # /dev/shm is smaller than that in a pod
        )
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray put its own there, which ends the process at once
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder_, ignore_errors=True)


def _cause(error: BaseException, memory_advice: str) -> Exception:
    """Return what went wrong in a worker, from below the layers that Ray puts around it."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        found = queue.pop(0)
        if found is None or found in seen:
            continue
        seen.append(found)
        if isinstance(found, RunEndedError):
            return found
        if type(found).__name__ == "OutOfMemoryError":  # Ray's memory monitor
            return OutOfMemoryError(Reason.OUT_OF_MEMORY, memory_advice)
        queue += [getattr(found, "cause", None), found.__cause__, *getattr(found, "worker_failures", {}).values()]
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _finished(store: Store, work: WorkFolder) -> Outcome | None:
    """Return how training went if this work folder or any attempt in the store holds a sealed adapter."""
    if folder.sealed(work.trained):
        return _outcome(work)
    lists = [entry.path for entry in store.list("attempt-") if entry.path.endswith(f"/trained/{CHECKPOINT_LIST}")]
    for path in sorted(lists, reverse=True):
        shutil.rmtree(work.trained, ignore_errors=True)
        if folder.fetch_sealed(store, path.removesuffix(f"/{CHECKPOINT_LIST}"), work.trained):
            return _outcome(work)
    shutil.rmtree(work.trained, ignore_errors=True)
    return None


def _outcome(work: WorkFolder) -> Outcome:
    outcome = load(Outcome, work.trained / "outcome.json")
    if outcome is None:
        raise RuntimeError("training ended without an outcome")
    return outcome


def _store_trained(store: Store, work: WorkFolder, below: str) -> None:
    files = [str(path.relative_to(work.trained)) for path in work.trained.rglob("*") if path.is_file() and path.name != CHECKPOINT_LIST]
    folder.upload(store, work.trained, files, f"{below}/trained", CHECKPOINT_LIST)
