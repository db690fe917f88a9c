"""Data: gates, split, mixture and order, then the checks against the spec's minimums."""

import hashlib
import logging
from pathlib import Path

from graft_api.artifact import RunLock
from graft_api.finetunejob import DatasetSummary, FineTuneJobSpec
from graft_api.reports import Reason
from graft_api.run import RunManifest
from graft_runtime.digests import file_sha256
from graft_trainer.errors import BadInputError
from graft_trainer.fetch import BaseModel
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.lock import keep_or_compare
from graft_trainer.mixture import write_in_order
from graft_trainer.sources import find_data
from graft_trainer.split import HOLDOUT, TRAIN, VALIDATION, Counts, foreign_rows, lock_of, new_gate, split
from graft_trainer.store import Store

logger = logging.getLogger(__name__)


def prepare(manifest: RunManifest, base: BaseModel, store: Store, mounts: Mounts) -> RunLock:
    """Write the three sets into the work folder, check them, and lock them and the base for every later attempt."""
    spec, chat = manifest.spec, base.has_chat_template
    files = find_data(spec, mounts)
    folder = WorkFolder(mounts.work).data
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HOLDOUT).write_bytes(b"")
    paths = {file.uri: file.bring(folder, number) for number, file in enumerate(files.all())}
    foreign = foreign_rows(files.holdout, paths, folder / HOLDOUT, spec, chat=chat)
    for name, file in files.suites.items():
        foreign |= foreign_rows(file, paths, suite_file(folder, name), spec, chat=chat)
    gate = new_gate(spec, foreign)
    parts, locks = split(files.sources, paths, folder, gate, chat=chat)
    trained = write_in_order(parts, spec, folder / TRAIN)
    summary = _summary(folder, gate.counts, trained)
    check(summary, gate.counts, spec)
    lock = RunLock(
        base_model=base.lock,
        sources=locks,
        holdout=lock_of(files.holdout, paths, _lines(folder / HOLDOUT)) if files.holdout else None,
        suites=[lock_of(file, paths, _lines(suite_file(folder, name))) for name, file in sorted(files.suites.items())],
        summary=summary,
    )
    keep_or_compare(store, lock)
    logger.info(
        "data: %d to train, %d validation, %d hold-out, %d negatives, %d rejected",
        summary.train, summary.validation, summary.holdout, summary.negatives, summary.rejected,
    )  # fmt: skip
    return lock


def suite_file(folder: Path, suite: str) -> Path:
    """Return where the rows of a suite that brings its own lie."""
    return folder / f"suite-{suite}.jsonl"


def check(summary: DatasetSummary, counts: Counts, spec: FineTuneJobSpec) -> None:
    """Hold the counts against the spec's minimums."""
    dataset = spec.dataset
    usable = summary.train + counts.negatives_trained_on_side
    if summary.train == 0 or usable < (dataset.min_examples or 1):
        elsewhere = f"{summary.holdout} are hold-out, {summary.validation} validation, {summary.rejected} rejected"
        message = f"spec.dataset: {usable} rows to train on ({elsewhere}), but minExamples is {dataset.min_examples}; add rows or lower it"
        raise BadInputError(Reason.TOO_FEW_EXAMPLES, message)
    if summary.holdout == 0 and any(suite.uri is None for suite in spec.evaluation.suites):
        raise BadInputError(
            Reason.EMPTY_HOLDOUT, "spec.dataset.holdout: no row is held out, so nothing can be accepted; raise fraction or give uri"
        )
    least = dataset.holdout.min_examples if dataset.holdout else None
    if least and summary.holdout < least:
        message = f"spec.dataset.holdout: {summary.holdout} rows are held out, but minExamples is {least}; add rows or raise fraction"
        raise BadInputError(Reason.EMPTY_HOLDOUT, message)
    wanted = float(dataset.negatives.min_fraction or 0) if dataset.negatives else 0.0
    share = counts.negatives / max(1, counts.rows - counts.rejected)
    if share < wanted:
        message = (
            f'spec.dataset.negatives: {share:.2%} of the rows are negatives, but minFraction is {wanted:.2%}; add rows with "label": false'
        )
        raise BadInputError(Reason.TOO_FEW_EXAMPLES, message)


def _summary(folder: Path, counts: Counts, trained: int) -> DatasetSummary:
    digest = hashlib.sha256("".join(f"{file_sha256(folder / name)}  {name}\n" for name in (TRAIN, VALIDATION, HOLDOUT)).encode())
    return DatasetSummary(
        train=trained,
        validation=counts.validation,
        holdout=_lines(folder / HOLDOUT),
        negatives=counts.negatives,
        rejected=counts.rejected,
        digest=f"sha256:{digest.hexdigest()}",
    )


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
