"""One JSON object per line on stderr, with a fixed set of fields: what is not named here cannot leak into a log."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

FIELDS = (
    "adapter",
    "attempt",
    "before",
    "controller",
    "digest",
    "domain",
    "endpoint",
    "epoch",
    "evidence",
    "id",
    "identity",
    "job",
    "object",
    "ordinal",
    "pod",
    "policy",
    "reason",
    "revision",
    "seconds",
    "service",
    "state",
    "status",
    "version",
    "who",
    "why",
)
"""What may be given in `extra`. Names, numbers and digests; never content, never a secret."""

_LENGTH = 2000


class JsonFormatter(logging.Formatter):
    """
    time, level, logger, message, the fields above; for an error its type and where it was raised, without values.

    `words`: with the error's own words as `detail`. Not where they may quote a client's request.
    """

    def __init__(self, *, words: bool) -> None:
        super().__init__()
        self._words = words

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_LENGTH],
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and (error := record.exc_info[1]):
            line |= {"error": type(error).__name__, "trace": _trace(error)}
            if self._words:
                line["detail"] = "".join(traceback.format_exception_only(error))[:_LENGTH].strip()
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(level: str = "INFO", *, words: bool, quiet: Iterable[str] = ()) -> None:
    """For the whole process. `quiet`: loggers of libraries of which only warnings are of use."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(words=words))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)


def _trace(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/site-packages/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
