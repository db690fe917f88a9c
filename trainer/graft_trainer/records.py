"""What the containers of one pod leave for each other in the work folder."""

import json
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from graft_api.finetunejob import SuiteResult
from graft_api.reports import Reason
from graft_api.run import RunManifest
from graft_api.schema import Invalid, Model, canonical_json, parse
from graft_trainer.errors import BadInputError

M = TypeVar("M", bound=Model)


class Admission(Model):
    """claim.json: what preflight found out."""

    attempt: Annotated[int, Field(ge=1)]
    conditional_writes: bool
    """The store refuses to replace where it is told not to. If it does not, only the operator's accepted report decides."""
    committed: bool = False
    """There is a result already, on the same base and data: nothing is left to train. Its checks are publish's own."""


class Outcome(Model):
    """outcome.json beside the trained adapter: how training went."""

    step: int
    best_step: int | None = None
    resumed_from_step: int | None = None
    tokens: int | None = None
    truncated_rows: int = 0
    dropped_rows: int = 0
    """Rows whose prompt alone fills maxLength: nothing of the completion would be left to learn from."""
    peak_memory_bytes: int | None = None
    log: list[dict[str, float]]
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]


class EvaluationRecord(Model):
    """evaluation.json: what the suites came to, for this very adapter."""

    trained: str
    """sha256 of the trained adapter's list."""
    suites: list[SuiteResult]
    accepted: bool


def read_manifest(path: Path) -> RunManifest:
    """Read the run manifest that the operator mounted."""
    try:
        return parse(RunManifest, json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise BadInputError(Reason.INVALID_SETTING, f"{path}: there is no run manifest") from error
    except (Invalid, ValueError) as error:
        raise BadInputError(Reason.INVALID_SETTING, f"run manifest: {error}") from error


def load(model: type[M], path: Path) -> M | None:
    """Read a record, or return None if it is not there or not whole."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def save(path: Path, record: Model) -> None:
    """Write a record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(canonical_json(record.to_json()))
    temporary.replace(path)
