"""Pure: how far an adapter's promotion is, by its endpoint's ledger, and what that makes of its phase. Nothing is decided here."""

from dataclasses import dataclass, field, replace

from graft_api.adapter import AdapterPhase
from graft_api.ledger import Rejected
from graft_api.modelendpoint import PromotionStatus
from graft_operator.adapter.observed import Observed
from graft_operator.engine.conditions import shorten
from graft_operator.modelendpoint.gates import SERVING, of_ended, of_gate
from graft_operator.promotion import machine, turns

Told = tuple[str, str, str]
"""Of a condition: status, reason, message."""


@dataclass(frozen=True)
class View:
    """Phase with the sentence that explains it."""

    phase: AdapterPhase
    reason: str
    message: str
    facts: dict[str, object] = field(default_factory=dict)
    extra: dict[str, Told] = field(default_factory=dict)
    look_again: bool = False


UNDER_WAY: dict[str, AdapterPhase] = {"Testing": "Testing", "AwaitingApproval": "AwaitingApproval", "Checking": "Checking"}
"""Phases of what is loaded and waits for others."""
OVER: dict[str, AdapterPhase] = {"NotProven": "NotProven", "Drifted": "NotProven", "Rejected": "Rejected", "RolledBack": "RolledBack"}
"""Phases of what does not serve; whether it is (still) loaded is of no importance then."""
NO_ROOM = frozenset({"NoSlot", "Waiting"})
"""Reasons for which it is Pending, and nothing is wrong with it."""


def shown(observed: Observed, view: View) -> View:
    """Return the view of where an adapter is, with how far its promotion is."""
    told = promotion(observed)
    view = replace(view, facts=view.facts | {"promotion": told})
    if (condition := _condition(observed, told)) is not None:
        view = replace(view, extra=view.extra | {"Promoted": condition})
    state = told.state if told else "Rejected" if _rejection(observed) else ""
    phase = _phase(view, state)
    return replace(view, phase=phase, reason=state, message=_words(observed, told) or view.message) if phase else view


def promotion(observed: Observed) -> PromotionStatus | None:
    """
    Return what the endpoint's ledger says of this very adapter at this digest; None: it was never a candidate.

    In the endpoint's own words, where its status is about the same state already. What a restore has made anew is the same adapter.
    """
    entry, told = observed.endpoint.entry if observed.endpoint else None, observed.endpoint.told if observed.endpoint else None
    if entry is None:
        return None
    own, gate = (observed.name, observed.spec.artifact.digest), entry.gate
    if gate is not None and (gate.version.adapter, gate.version.digest) == own:
        known, words = of_gate(gate), told.promotion if told else None
        return words if words and (words.number, words.state) == (known.number, known.state) else known
    ended = entry.ends_of(*own, observed.uid)
    return of_ended(ended[-1]) if ended else None


def _phase(view: View, state: str) -> AdapterPhase | None:
    if view.phase == "Loaded" and state in UNDER_WAY:
        return UNDER_WAY[state]
    idle = view.phase in {"Loaded", "Loading"} or (view.phase == "Pending" and view.reason in NO_ROOM)
    return OVER.get(state) if idle else None


def _condition(observed: Observed, told: PromotionStatus | None) -> Told | None:
    """Return whether it serves by a promotion. None: there was never one to speak of."""
    if told is not None:
        serves = told.state in SERVING or (told.state == "Confirmed" and _active(observed))
        reason = "Replaced" if told.state == "Confirmed" and not serves else told.state
        return "True" if serves else "False", reason, shorten(_words(observed, told))
    if _rejection(observed):
        return "False", "Rejected", shorten(_words(observed, told))
    domain = observed.domain()
    if domain is not None and domain.promotion is not None:
        return "False", *_waiting(observed)
    before = {condition.type for condition in observed.status.conditions or []}
    return ("False", "NoPolicy", "nothing promotes in its domain") if "Promoted" in before else None


def _waiting(observed: Observed) -> tuple[str, str]:
    if not observed.spec.promote:
        return "NotWanted", "spec.promote is false"
    if _active(observed):
        return "Pinned", "it serves, and no promotion brought it there"
    if (why := _had_its_turn(observed)) is not None:
        return "HadItsTurn", why
    told = observed.endpoint.told if observed.endpoint else None
    if told is not None and told.none_begins:
        return "Waiting", told.none_begins
    other = told.promotion.adapter if told and told.promotion else None
    return "Waiting", f"it is Adapter {other}'s turn" if other else ""


def _had_its_turn(observed: Observed) -> str | None:
    """Return why it does not begin although it was never a candidate that the ledger knows of; None: it has a turn."""
    entry = observed.endpoint.entry if observed.endpoint else None
    return turns.had(entry, observed.candidate()) if entry is not None else None


def _words(observed: Observed, told: PromotionStatus | None) -> str:
    if told is not None:
        return told.message or told.verdict or ""
    why = _rejection(observed)
    return f"rejected by {why.author} at {why.at}{f': {why.reason}' if why.reason else ''}" if why else ""


def _rejection(observed: Observed) -> Rejected | None:
    entry = observed.endpoint.entry if observed.endpoint else None
    return machine.rejected(entry, observed.spec.artifact.digest) if entry is not None else None


def _active(observed: Observed) -> bool:
    entry = observed.endpoint.entry if observed.endpoint else None
    return entry is not None and entry.active is not None and entry.active.digest == observed.spec.artifact.digest
