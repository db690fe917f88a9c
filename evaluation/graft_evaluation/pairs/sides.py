"""What one side of a pair said."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.scorers import ToolCall


class Whose(StrEnum):
    """Whose doing an exclusion is."""

    INCUMBENT = "Incumbent"
    CANDIDATE = "Candidate"
    BOTH = "Both"


@dataclass(frozen=True)
class Said:
    """What one side said."""

    ended: Answer
    text: str = ""
    tool_calls: tuple[ToolCall, ...] | None = None
    """None: the server gave none, so that calls may be in the text."""
    tokens: int | None = None


@dataclass(frozen=True)
class Side:
    """What one side said, and how long it took."""

    said: Said
    seconds: float
    first_byte_seconds: float | None = None
