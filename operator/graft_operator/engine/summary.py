"""Pure: what every kind's status says in the same way, from its row of the truth table of `graft_api.health`."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from graft_api.finetunejob import Condition as ConditionStatus
from graft_api.health import Health
from graft_operator.engine.conditions import Condition, set_condition
from graft_operator.engine.events import Happening

Told = Mapping[str, tuple[str, str, str]]
"""Conditions by type: status, reason, message."""


def of_phase(row: Health, reason: str, message: str) -> dict[str, tuple[str, str, str]]:
    """Return the conditions of kstatus. The message stands where it explains something."""
    return {
        "Ready": (row.ready, reason, message),
        "Reconciling": (row.reconciling, reason, message if row.reconciling == "True" else ""),
        "Stalled": (row.stalled, reason, message if row.stalled == "True" else ""),
    }


def tell(before: Sequence[ConditionStatus] | None, told: Told, generation: int, now: datetime) -> list[ConditionStatus]:
    """Return the conditions with these in them."""
    conditions = [condition.to_json() for condition in before or []]
    for kind, (truth, reason, message) in told.items():
        conditions = set_condition(conditions, Condition(kind, truth, reason, message, generation), now)
    return [ConditionStatus.model_validate(condition) for condition in conditions]


def phase_changed(
    before: str | None, after: str | None, conditions: Sequence[ConditionStatus] | None, bad: Collection[str]
) -> list[Happening]:
    """Return the Event of a new phase, with the words of Ready; a Warning for those in `bad`."""
    if before == after or after is None:
        return []
    ready = next((condition for condition in conditions or [] if condition.type == "Ready"), None)
    reason, message = (ready.reason, ready.message) if ready else (after, "")
    return [Happening("Warning" if after in bad else "Normal", reason, "Reconcile", message)]
