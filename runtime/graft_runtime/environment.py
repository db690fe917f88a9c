"""What a process is told through its environment; whatever is wrong with it is a `MissingSetting`, which a restart does not cure."""

import logging
from collections.abc import Mapping


class MissingSetting(ValueError):  # noqa: N818 - says what is wrong
    """A variable is not there, or not what it must be."""


def required(environ: Mapping[str, str], name: str) -> str:
    """Return the variable. Raises `MissingSetting`."""
    if not (value := environ.get(name)):
        raise MissingSetting(f"{name} is not set: the pod's template must set it")
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
