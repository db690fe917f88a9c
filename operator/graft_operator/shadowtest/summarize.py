"""Pure: project a view onto phase and conditions by the truth table of `graft_api.health`."""

from dataclasses import replace
from datetime import datetime
from typing import Literal

from graft_api import health
from graft_api.health import SHADOW_TERMINAL, Health
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.schema import Invalid
from graft_api.shadowtest import ShadowTestStatus
from graft_operator.engine.conditions import shorten
from graft_operator.engine.events import Happening
from graft_operator.engine.summary import of_phase, tell
from graft_operator.shadowtest.observed import Observed
from graft_operator.shadowtest.resolve import endpoint_spec_digest
from graft_operator.shadowtest.views import View

EVENTS = {"Running": "Started"}
"""Reasons of Events whose phase has another name."""
WARNINGS = {"Failed", "Error"}


def summarize(observed: Observed, view: View, now: datetime) -> ShadowTestStatus:
    """Return the status as the user should see it now."""
    row, message = _row(view), shorten(view.message, 1000)
    told = of_phase(row, view.reason, message) | {"Succeeded": (row.succeeded, view.reason, "")} | _standing(observed, view) | view.extra
    facts = {
        "phase": view.phase,
        "observed_generation": observed.generation,
        "conditions": tell(observed.status.conditions, told, observed.generation, now),
    }
    return observed.status.model_copy(update=facts | view.facts)


def happenings(before: ShadowTestStatus, after: ShadowTestStatus) -> list[Happening]:
    """Return the Events that a change of status deserves: transitions, never repetitions."""
    ready = next((condition for condition in after.conditions or [] if condition.type == "Ready"), None)
    if ready is None or after.phase is None:
        return []
    if after.phase not in {before.phase, "Pending"}:
        kind: Literal["Warning", "Normal"] = "Warning" if after.phase in WARNINGS else "Normal"
        return [Happening(kind, EVENTS.get(after.phase, after.phase), "Reconcile", ready.message)]
    if after.phase not in SHADOW_TERMINAL and _stalled(after) and not _stalled(before):
        return [Happening("Warning", ready.reason, "Reconcile", ready.message)]
    return []


def _row(view: View) -> Health:
    """Return the phase's row; where somebody must act, it is neither ready nor getting on by itself."""
    row = health.SHADOWTEST[view.phase]
    return replace(row, ready="False", reconciling="False", stalled="True") if view.stalled else row


def _standing(observed: Observed, view: View) -> dict[str, tuple[str, str, str]]:
    """Return the test's own conditions, as they are where a state says nothing of them."""
    begun = view.phase in {"Starting", "Running"}
    ended = view.phase in SHADOW_TERMINAL
    return {
        "ShadowReady": ("False", "Starting", "") if begun else ("Unknown", "NotStarted", ""),
        "Measuring": ("False", "Ended" if ended else "NotStarted", ""),
        "Reported": ("False", "NotEnded", "") if not ended else ("False", "NothingToReport", "it ended before there was a verdict to read"),
        "SpecChangedAfterStart": _changed(observed) if begun else ("False", "NotRunning", ""),
    }


def _changed(observed: Observed) -> tuple[str, str, str]:
    """Say whether the endpoint was edited since the shadow server was made from it."""
    resolved, production = observed.status.resolved, observed.production
    if resolved is None or production is None:
        return "False", "NotStarted", ""
    if isinstance(production.spec, Invalid):
        return "True", "InvalidSpec", shorten(f"ModelEndpoint {production.name} has an invalid spec: {production.spec}", 1000)
    assert isinstance(production.spec, ModelEndpointSpec)  # noqa: S101 - the other of two
    if endpoint_spec_digest(production.spec) == resolved.endpoint_spec_digest:
        return "False", "Unchanged", ""
    told = f"base model, server, keys or credentials of ModelEndpoint {production.name} were edited; the shadow server stays as it was made"
    return "True", "EndpointChanged", f"{told}. Create a new ShadowTest for the new one"


def _stalled(status: ShadowTestStatus) -> bool:
    return any(condition.type == "Stalled" and condition.status == "True" for condition in status.conditions or [])
