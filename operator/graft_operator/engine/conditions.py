"""Conditions as metav1 has them: a list-map by type, whose lastTransitionTime moves only when the status flips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from graft_operator.engine.clock import rfc3339

MESSAGE_LENGTH = 1024
"""Characters of a message that are kept. The CRDs allow more; a condition is for people to read."""


@dataclass(frozen=True)
class Condition:
    """One statement about an object. `status` is True, False or Unknown; `reason` one CamelCase word."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int


def set_condition(conditions: Sequence[Mapping[str, Any]], condition: Condition, now: datetime) -> list[dict[str, Any]]:
    """The list with this condition in it, at its old place if it was there. Nothing given is changed."""
    updated = [dict(entry) for entry in conditions]
    place = next((n for n, entry in enumerate(updated) if entry["type"] == condition.type), None)
    if place is None:
        return [*updated, _entry(condition, rfc3339(now))]
    before = updated[place]
    flipped = before["status"] != condition.status
    updated[place] = _entry(condition, rfc3339(now) if flipped else before["lastTransitionTime"])
    return updated


def find_condition(conditions: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    """The condition of this type, or None."""
    return next((entry for entry in conditions if entry["type"] == kind), None)


def is_true(conditions: Sequence[Mapping[str, Any]], kind: str) -> bool:
    found = find_condition(conditions, kind)
    return found is not None and found["status"] == "True"


def shorten(text: str, length: int = MESSAGE_LENGTH) -> str:
    """At most `length` characters; what is cut off is shown to be cut off."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _entry(condition: Condition, since: str) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": shorten(condition.message),
        "observedGeneration": condition.observed_generation,
        "lastTransitionTime": since,
    }
