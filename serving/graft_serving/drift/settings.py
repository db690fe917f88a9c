"""What the operator tells a Job that measures drift."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_api.dataplane import CREDENTIALS_DIRECTORY
from graft_api.drift import PRINCIPLES_DIRECTORY, PRINCIPLES_KEY, TASK_VARIABLE, DriftTask
from graft_api.schema import Invalid, parse
from graft_runtime.environment import MissingSetting, required
from graft_serving.environment import Identity, identity_from


@dataclass(frozen=True)
class Settings:
    """Of one Job."""

    identity: Identity
    task: DriftTask
    principles: Path
    credentials: Path
    """Folder with those of the store."""


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read them. Raises `MissingSetting`."""
    required(environ, "GRAFT_REPORTS_URL")
    return Settings(
        identity=identity_from(environ),
        task=_task(required(environ, TASK_VARIABLE)),
        principles=Path(environ.get("GRAFT_PRINCIPLES_DIRECTORY", PRINCIPLES_DIRECTORY)) / PRINCIPLES_KEY,
        credentials=Path(environ.get("GRAFT_CREDENTIALS_DIRECTORY", CREDENTIALS_DIRECTORY)),
    )


def _task(told: str) -> DriftTask:
    try:
        # The operator may be newer; what it says beyond what is known here is of no use here.
        return parse(DriftTask, json.loads(told), from_newer=True)
    except Invalid as invalid:
        raise MissingSetting(f"{TASK_VARIABLE}: {invalid}") from invalid
    except ValueError as error:
        raise MissingSetting(f"{TASK_VARIABLE} is no JSON") from error
