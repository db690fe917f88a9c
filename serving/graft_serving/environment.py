"""What the operator tells the containers of the data plane, through their environment."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_api.dataplane import REPORTS_DIRECTORY, ROUTES_DIRECTORY


class MissingSetting(ValueError):  # noqa: N818 - says what is wrong
    """A variable is not there, or not what it must be."""


@dataclass(frozen=True)
class Identity:
    """Which endpoint a process serves, as which pod, and where it reports."""

    namespace: str
    endpoint: str
    pod_name: str
    pod_ip: str = ""
    reports_url: str = ""
    """Empty: nobody to report to (a benchmark, a test)."""
    reports_directory: Path = Path(REPORTS_DIRECTORY)
    routes_directory: Path = Path(ROUTES_DIRECTORY)


def identity_from(environ: Mapping[str, str]) -> Identity:
    """Read what all containers share. Raises `MissingSetting`."""
    return Identity(
        namespace=required(environ, "GRAFT_NAMESPACE"),
        endpoint=required(environ, "GRAFT_ENDPOINT"),
        pod_name=required(environ, "GRAFT_POD_NAME"),
        pod_ip=environ.get("GRAFT_POD_IP", ""),
        reports_url=environ.get("GRAFT_REPORTS_URL", ""),
        reports_directory=Path(environ.get("GRAFT_REPORTS_DIRECTORY", REPORTS_DIRECTORY)),
        routes_directory=Path(environ.get("GRAFT_ROUTES_DIRECTORY", ROUTES_DIRECTORY)),
    )


def required(environ: Mapping[str, str], name: str) -> str:
    """Return the variable. Raises `MissingSetting`."""
    if not (value := environ.get(name)):
        raise MissingSetting(f"{name} is not set: the operator sets it in the pod's template")
    return value


def whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    """Return the variable as a number of zero or more. Raises `MissingSetting`."""
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise MissingSetting(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


def log_level(environ: Mapping[str, str]) -> str:
    """Return GRAFT_LOG_LEVEL. Raises `MissingSetting`."""
    level = environ.get("GRAFT_LOG_LEVEL", "INFO").upper()
    if level not in (levels := logging.getLevelNamesMapping()):
        raise MissingSetting(f"GRAFT_LOG_LEVEL must be one of {', '.join(levels)}")
    return level
