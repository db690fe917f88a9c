"""What a state of a ShadowTest comes to: words for its status, and what is to be done beside it."""

from dataclasses import dataclass, field
from datetime import timedelta

from graft_api.fleet import REPORT_SECONDS
from graft_api.shadowtest import ShadowPhase

LOOK_AGAIN = timedelta(seconds=REPORT_SECONDS)
"""While something is awaited: silence is no event, so that a silent collector or pod is only noticed by looking."""
WAITING = timedelta(seconds=30)
"""For a turn, or for somebody to act."""


@dataclass(frozen=True)
class View:
    """Phase with the sentence that explains it."""

    phase: ShadowPhase
    reason: str
    message: str
    extra: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Conditions beyond the phase's own row: status, reason, message."""
    facts: dict[str, object] = field(default_factory=dict)
    """Fields of the status."""
    stalled: bool = False
    """Somebody must act, but the test has not ended."""
    evidence: bytes | None = None
    """What its verdict was read from; written before the status is."""


@dataclass(frozen=True)
class Step:
    """One pass."""

    view: View | None
    """None: the status stays as it is."""
    create: bool = False
    """Make the shadow server."""
    remove: bool = False
    """Delete the shadow server, if there is one of this test's."""
    again: timedelta | None = LOOK_AGAIN
