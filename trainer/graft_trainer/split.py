"""
One pass over the sources: every row through the gates and to its side.

Rows go to disk as they come; only hashes and offsets stay in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from graft_api.artifact import SourceLock
from graft_api.dataset import Dataset
from graft_api.finetunejob import FineTuneJobSpec
from graft_api.reports import Reason
from graft_runtime.digests import file_sha256
from graft_trainer.errors import BadInputError
from graft_trainer.mixture import TrainPart
from graft_trainer.rows import Row, RowInvalidError, RowReader, share_of
from graft_trainer.sources import DataFile

TRAIN, VALIDATION, HOLDOUT = "train.jsonl", "validation.jsonl", "holdout.jsonl"


@dataclass
class Counts:
    """What happened to the rows so far."""

    rows: int = 0
    negatives: int = 0
    negatives_trained_on_side: int = 0
    invalid: int = 0
    duplicates: int = 0
    contaminated: int = 0
    validation: int = 0
    holdout: int = 0
    first_invalid: tuple[str, int, str] | None = None

    @property
    def rejected(self) -> int:
        """Rows that the gates dropped."""
        return self.invalid + self.duplicates + self.contaminated


@dataclass(frozen=True)
class Gate:
    """What decides about one row, for one run."""

    spec: FineTuneJobSpec
    holdout_share: float
    validation_share: float
    foreign_holdout: frozenset[bytes]
    """Groups of `holdout.uri` and of suites that bring rows of their own."""
    seen: set[bytes]
    counts: Counts


def new_gate(spec: FineTuneJobSpec, foreign: frozenset[bytes]) -> Gate:
    holdout, validation = spec.dataset.holdout, spec.dataset.validation
    return Gate(
        spec=spec,
        holdout_share=float(holdout.fraction or 0) if holdout and not holdout.uri else 0.0,
        validation_share=float(validation.fraction or 0) if validation else 0.0,
        foreign_holdout=foreign,
        seen=set(),
        counts=Counts(),
    )


def split(
    sources: tuple[DataFile, ...], paths: dict[str, Path], folder: Path, gate: Gate, *, chat: bool
) -> tuple[list[TrainPart], list[SourceLock]]:
    parts, locks = [], []
    with (folder / VALIDATION).open("wb") as validation, (folder / HOLDOUT).open("ab") as holdout:
        for number, file in enumerate(sources):
            part = TrainPart(folder / f"train-{number}.jsonl")
            before = gate.counts.rows
            with part.path.open("wb") as train:
                for line, row in _rows(file, paths[file.uri], _reader(gate.spec, number, chat=chat), gate):
                    _place(row, (train, validation, holdout), part, gate, f"{file.field} ({file.uri}) line {line}")
            _check_digest(file, paths[file.uri], gate.spec.dataset, number)
            locks.append(lock_of(file, paths, gate.counts.rows - before))
            parts.append(part)
    _check_invalid(gate)
    return parts, locks


def _rows(file: DataFile, path: Path, reader: RowReader, gate: Gate) -> Iterator[tuple[int, Row]]:
    for line, text in _lines_of(path):
        gate.counts.rows += 1
        try:
            reader = reader.detect(text)
            yield line, reader.read(text)
        except RowInvalidError as error:
            gate.counts.invalid += 1
            gate.counts.first_invalid = gate.counts.first_invalid or (f"{file.field} ({file.uri})", line, str(error))
            if not _tolerated(gate.spec):
                raise _invalid(gate.counts) from error


def _place(row: Row, sinks: tuple[BinaryIO, BinaryIO, BinaryIO], part: TrainPart, gate: Gate, where: str) -> None:
    train, validation, holdout = sinks
    counts = gate.counts
    if not _passes(row, gate, where):
        return
    counts.negatives += row.negative
    if share_of(gate.spec.domain, row.group) < gate.holdout_share:
        counts.holdout += 0 if row.negative else _write(holdout, row)
    elif share_of(f"{gate.spec.domain}/validation", row.group) < gate.validation_share:
        counts.validation += 0 if row.negative else _write(validation, row)
    elif row.negative:
        counts.negatives_trained_on_side += 1
    else:
        for example in row.examples:
            part.starts.append(train.tell())
            if gate.spec.dataset.curriculum:
                part.order.append(example.length() if row.order is None else row.order)
            train.write(example.to_line())


def _passes(row: Row, gate: Gate, where: str) -> bool:
    gates = gate.spec.dataset.gates
    duplicates = (gates.duplicates if gates else None) or "Drop"
    if duplicates != "Keep":
        if row.identity in gate.seen:
            if duplicates == "Fail":
                raise BadInputError(
                    Reason.INVALID_DATA, f"{where} repeats an earlier row; remove it or set spec.dataset.gates.duplicates: Drop"
                )
            gate.counts.duplicates += 1
            return False
        gate.seen.add(row.identity)
    if row.group in gate.foreign_holdout:
        if gates and gates.contamination == "Fail":
            message = (
                f"{where} asks what the hold-out of spec.dataset.holdout.uri asks; remove it or set spec.dataset.gates.contamination: Drop"
            )
            raise BadInputError(Reason.INVALID_DATA, message)
        gate.counts.contaminated += 1
        return False
    return True


def _write(sink: BinaryIO, row: Row) -> int:
    sink.writelines(example.to_line() for example in row.examples)
    return len(row.examples)


def foreign_rows(file: DataFile | None, paths: dict[str, Path], target: Path, spec: FineTuneJobSpec, *, chat: bool) -> frozenset[bytes]:
    """Write the rows of a file that is only ever asked, never trained on; return their groups."""
    if file is None:
        return frozenset()
    groups = set()
    reader = RowReader(
        "auto", chat, spec.dataset.holdout.group_by if spec.dataset.holdout and file.field.startswith("spec.dataset") else None
    )
    with target.open("wb") as sink:
        for line, text in _lines_of(paths[file.uri]):
            try:
                reader = reader.detect(text)
                row = reader.read(text)
            except RowInvalidError as error:
                raise BadInputError(Reason.INVALID_DATA, f"{file.field} ({file.uri}) line {line}: {error}", line) from error
            groups.add(row.group)
            if not row.negative:
                _write(sink, row)
    if not groups:
        raise BadInputError(Reason.EMPTY_HOLDOUT, f"{file.field}: {file.uri} holds no rows")
    return frozenset(groups)


def _reader(spec: FineTuneJobSpec, number: int, *, chat: bool) -> RowReader:
    dataset = spec.dataset
    return RowReader(
        format=dataset.sources[number].format,
        chat=chat,
        group_by=dataset.holdout.group_by if dataset.holdout else None,
        order_by=dataset.curriculum.field if dataset.curriculum else None,
    )


def _tolerated(spec: FineTuneJobSpec) -> float:
    gates = spec.dataset.gates
    return float(gates.invalid_rows.max_fraction or 0) if gates and gates.invalid_rows else 0.0


def _check_invalid(gate: Gate) -> None:
    counts = gate.counts
    if counts.invalid > _tolerated(gate.spec) * counts.rows:
        raise _invalid(counts)


def _invalid(counts: Counts) -> BadInputError:
    assert counts.first_invalid is not None  # noqa: S101
    where, line, problem = counts.first_invalid
    share = f"{counts.invalid} of the {counts.rows} rows read so far are invalid"
    message = f"{where} line {line}: {problem}; {share}; correct them or set spec.dataset.gates.invalidRows.maxFraction"
    return BadInputError(Reason.INVALID_DATA, message, line)


def _check_digest(file: DataFile, path: Path, dataset: Dataset, number: int) -> None:
    wanted = dataset.sources[number].digest
    if wanted is not None and (found := f"sha256:{file_sha256(path)}") != wanted:
        message = f"spec.dataset.sources[{number}].digest: {file.uri} has {found}, but {wanted} is expected; correct the digest or the file"
        raise BadInputError(Reason.DIGEST_MISMATCH, message)


def lock_of(file: DataFile, paths: dict[str, Path], rows: int) -> SourceLock:
    return SourceLock(uri=file.uri, sha256=file_sha256(paths[file.uri]), version=file.entry.version, rows=rows)


def _lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, text) of the lines that are not blank."""
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield number, text
