"""What one collector process is told: its environment, and the settings file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_api.collect import COLLECTOR_DIRECTORY, COLLECTOR_HEALTH_PORT, COLLECTOR_PORT, SETTINGS_KEY, CollectorSettings
from graft_api.dataplane import CREDENTIALS_DIRECTORY, RUN_DIRECTORY
from graft_api.schema import Invalid, parse
from graft_runtime.environment import MissingSetting, whole_number
from graft_serving.environment import Identity, identity_from


@dataclass(frozen=True)
class Settings:
    """Of one process."""

    identity: Identity
    file: Path
    """Where it is said what is to be measured, as it was at the last look of the kubelet."""
    measuring: CollectorSettings
    """As it was at the start. Of it `watches` alone change without another process."""
    host: str
    port: int
    health_port: int
    credentials: Path
    run_directory: Path
    memory_bytes: int
    """Batches and exchanges in memory."""


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read them. Raises `MissingSetting`."""
    file = Path(environ.get("GRAFT_COLLECTOR_SETTINGS", f"{COLLECTOR_DIRECTORY}/{SETTINGS_KEY}"))
    return Settings(
        identity=identity_from(environ),
        file=file,
        measuring=read_settings(file),
        host=environ.get("GRAFT_COLLECTOR_HOST", "0.0.0.0"),  # noqa: S104 - gateways are on other pods
        port=whole_number(environ, "GRAFT_COLLECTOR_PORT", COLLECTOR_PORT),
        health_port=whole_number(environ, "GRAFT_COLLECTOR_HEALTH_PORT", COLLECTOR_HEALTH_PORT),
        credentials=Path(environ.get("GRAFT_CREDENTIALS_DIRECTORY", CREDENTIALS_DIRECTORY)),
        run_directory=Path(environ.get("GRAFT_RUN_DIRECTORY", RUN_DIRECTORY)),
        memory_bytes=whole_number(environ, "GRAFT_COLLECTOR_MEMORY_BYTES", 256 * 1024 * 1024),
    )


def read_settings(file: Path) -> CollectorSettings:
    """Return what is to be measured. Raises `MissingSetting`."""
    try:
        return parsed(file.read_bytes())
    except OSError as error:
        raise MissingSetting(f"{file}: {error.strerror}") from error
    except Invalid as invalid:
        raise MissingSetting(f"{file}: {invalid}") from invalid
    except ValueError as error:
        raise MissingSetting(f"{file} is no JSON") from error


def parsed(document: bytes | str) -> CollectorSettings:
    """Return what a document says. Raises `Invalid`, and ValueError for what is no JSON."""
    # The operator may be newer; what it says beyond what is known here is of no use here.
    return parse(CollectorSettings, json.loads(document), from_newer=True)
