"""
What to do about one ShadowTest. Pure: `decide(observed, now) -> Decision`.

    Pending    something stands against it; it takes nobody's turn
    Queued     it could run; another test has the endpoint's collector
    Starting   frozen; its shadow server comes up
    Running    pairs are made, until a verdict is read
    Passed, Failed, Inconclusive, Error   the shadow server goes, the report comes

Every step but the freeze follows from a status that was read: what a phase promises is done in the next pass, not in the same.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from graft_api.health import SHADOW_TERMINAL
from graft_api.schema import Invalid
from graft_api.shadowtest import ShadowPhase, ShadowTestSpec, ShadowTestStatus
from graft_operator.shadowtest import children, ended, resolve, running, starting
from graft_operator.shadowtest.observed import Observed
from graft_operator.shadowtest.summarize import summarize
from graft_operator.shadowtest.turns import ahead
from graft_operator.shadowtest.views import LOOK_AGAIN, WAITING, Step, View

BEGUN = frozenset({"Starting", "Running"})
POLICY_PATIENCE = timedelta(minutes=3)


@dataclass(frozen=True)
class Decision:
    """What the pass shall bring about, in this order."""

    status: ShadowTestStatus
    create: children.Manifest | None = None
    """The shadow server, which is not there."""
    remove: str | None = None
    """The uid of a shadow server that is not wanted any more."""
    evidence: children.Manifest | None = None
    """Of the verdict in the status, and written before it."""
    requeue_after: timedelta | None = None


@dataclass(frozen=True)
class Refusal:
    """Why the API server did not let the shadow server be made."""

    reason: str
    message: str
    final: bool
    """Asking again would change nothing: neither the test nor what it was resolved to ever changes."""


def decide(observed: Observed, now: datetime) -> Decision:
    """Return what to do and what to say."""
    spec = observed.spec
    if isinstance(spec, Invalid):
        return _said(observed, _phase(observed), "InvalidSpec", str(spec), now)
    if observed.policies_missing:
        if observed.status.phase in BEGUN and observed.policies_missing_seconds < POLICY_PATIENCE.total_seconds():
            return Decision(observed.status, requeue_after=LOOK_AGAIN)  # an upgrade of the chart replaces them one by one
        names = "; ".join(observed.policies_missing)
        told = f"admission policies are missing or do not deny: {names}; nothing is started or counted until the chart is whole again"
        return _said(observed, _phase(observed), "PolicyMissing", told, now)
    return _carried_out(observed, spec, _step(observed, spec, now), now)


def refused(observed: Observed, refusal: Refusal, now: datetime) -> Decision:
    """Return what to say when the shadow server could not be made, and nothing more to do."""
    if refusal.final or starting.is_too_late(observed, now):
        return Decision(summarize(observed, ended.view("Error", refusal.reason, refusal.message, now), now), requeue_after=LOOK_AGAIN)
    return _said(observed, _phase(observed), refusal.reason, refusal.message, now)


def _step(observed: Observed, spec: ShadowTestSpec, now: datetime) -> Step:
    phase, resolved = observed.status.phase, observed.status.resolved
    if phase in SHADOW_TERMINAL:
        return ended.after(observed, spec, now)
    if observed.gate_is_over():
        told = "the candidate that it was made for is not on its way any more: see status.promotion of its Adapter"
        return Step(ended.view("Inconclusive", "GateEnded", told, now), again=LOOK_AGAIN)
    if phase == "Running" and resolved is not None:
        return running.step(observed, spec, resolved, now)
    if phase == "Starting" and resolved is not None:
        return starting.step(observed, spec, resolved, now)
    return _begin(observed, spec, now)


def _begin(observed: Observed, spec: ShadowTestSpec, now: datetime) -> Step:
    """Queue first, and start in a later pass: of two tests, each then sees the other before it starts."""
    if (stop := resolve.unfit(observed, spec)) is not None:
        return Step(starting.let_go(stop), remove=True, again=WAITING)
    resolved = resolve.resolve(observed, spec)
    facts: dict[str, object] = {"resolved": resolved}
    first = ahead(observed.tests, observed.name, resolved.endpoint_uid, now)
    if first is not None:
        told = (
            f"waits for ShadowTest {first.name}, which is {first.status.phase}: the collector of {resolved.endpoint} compares one at a time"
        )
        return Step(View("Queued", "Queued", told, facts=facts), remove=True, again=WAITING)
    if observed.status.phase != "Queued":
        told = f"is next at the collector of ModelEndpoint {resolved.endpoint}"
        return Step(View("Queued", "Next", told, facts=facts), remove=True)
    if observed.shadow is not None:
        return Step(View("Queued", "Next", "an earlier shadow server of its name goes first", facts=facts), remove=True)
    sides = f"{resolved.candidate.version} against {resolved.incumbent.version}"
    return Step(View("Starting", "Starting", f"starts {spec.shadow.replicas} shadow servers: {sides}", facts=facts))


def _carried_out(observed: Observed, spec: ShadowTestSpec, step: Step, now: datetime) -> Decision:
    shadow, resolved = observed.shadow, observed.status.resolved
    known = {"attempt": observed.attempt(resolved)} if resolved and observed.status.phase in BEGUN else {}
    view = step.view and replace(step.view, facts=known | step.view.facts)
    status = observed.status if view is None else summarize(observed, view, now)
    removable = shadow is not None and shadow.ours and not shadow.deleting
    return Decision(
        status=status,
        create=children.shadow_server(observed, spec, resolved) if step.create and resolved else None,
        remove=shadow.uid if step.remove and shadow is not None and removable else None,
        evidence=children.evidence(observed, view.evidence) if view and view.evidence else None,
        requeue_after=step.again,
    )


def _said(observed: Observed, phase: ShadowPhase, reason: str, message: str, now: datetime) -> Decision:
    """Say what somebody must do, whatever the phase; what has ended has nothing more to say."""
    if phase in SHADOW_TERMINAL:
        return Decision(observed.status, requeue_after=WAITING)
    kept = {kind: told for kind, told in starting.standing(observed).items() if phase in BEGUN}
    extra = kept | ({"Measuring": ("False", reason, "")} if phase == "Running" else {})
    return Decision(summarize(observed, View(phase, reason, message, extra, stalled=True), now), requeue_after=WAITING)


def _phase(observed: Observed) -> ShadowPhase:
    return observed.status.phase or "Pending"
