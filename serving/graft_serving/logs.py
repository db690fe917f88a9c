"""One JSON object per line on stderr, with a fixed set of fields: what is not named here cannot leak into a log."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

FIELDS = ("endpoint", "pod", "version", "domain", "digest", "epoch", "revision", "state", "reason", "status", "attempt", "seconds")
"""What may be given in `extra`. Names, numbers and digests; never content, never a secret."""

_LENGTH = 2000


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, the fields above; for an error its type and where it was raised, without values."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_LENGTH],
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[1]:
            line |= _error(record.exc_info[1])
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(level: str = "INFO") -> None:
    """For the whole process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _error(error: BaseException) -> dict[str, Any]:
    # Not the error's words, as the operator has them: here they may quote a client's request.
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "trace": [f"{frame.filename.rpartition('/site-packages/')[2]}:{frame.lineno} {frame.name}" for frame in frames],
    }
