"""
The truth table phase -> conditions, and what kstatus, Argo CD and Flux make of it.

Running as designed (queued, training, suspended on request) is Ready: a GitOps tool must not wait for a three-day job.
"""

from dataclasses import dataclass
from typing import Literal

from graft_api.adapter import AdapterPhase
from graft_api.finetunejob import Phase
from graft_api.modelendpoint import EndpointPhase
from graft_api.shadowtest import ShadowPhase
from graft_api.tuningpolicy import PolicyPhase

Truth = Literal["True", "False", "Unknown"]
Kstatus = Literal["InProgress", "Current", "Failed"]
ArgoHealth = Literal["Progressing", "Healthy", "Degraded", "Suspended"]


@dataclass(frozen=True)
class Health:
    """One row of the table."""

    ready: Truth
    reconciling: Truth
    stalled: Truth
    succeeded: Truth
    kstatus: Kstatus
    """Computed by cli-utils from Ready, Reconciling and Stalled; Flux `wait` uses it."""
    argo: ArgoHealth
    """What the Lua check of docs/gitops.md answers."""


FINETUNEJOB: dict[Phase, Health] = {
    "Pending": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
    "Queued": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Running": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Suspended": Health("True", "False", "False", "Unknown", "Current", "Suspended"),
    "Succeeded": Health("True", "False", "False", "True", "Current", "Healthy"),
    "Failed": Health("False", "False", "True", "False", "Failed", "Degraded"),
}
"""A job that succeeded but missed a threshold is Succeeded with Accepted=False: it did what it was asked to do."""

TERMINAL: frozenset[Phase] = frozenset({"Succeeded", "Failed"})

MODELENDPOINT: dict[EndpointPhase, Health] = {
    "Pending": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
    "Starting": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
    "Ready": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Degraded": Health("False", "True", "False", "Unknown", "InProgress", "Degraded"),
    "Failed": Health("False", "False", "True", "Unknown", "Failed", "Degraded"),
}
"""Degraded: something that serves is missing; the operator goes on, nobody else needs to act yet."""

ADAPTER: dict[AdapterPhase, Health] = {
    "Pending": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
    "Loading": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
    "Loaded": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Testing": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "AwaitingApproval": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Checking": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Serving": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "NotProven": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Rejected": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "RolledBack": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Failed": Health("False", "False", "True", "Unknown", "Failed", "Degraded"),
    "Retiring": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
}
"""
Loaded is as designed: whether it may serve is not its own decision. So are all ends of a promotion: RolledBack is Ready, with
Promoted=False.
"""

FIT: frozenset[AdapterPhase] = frozenset(
    {"Loaded", "Testing", "AwaitingApproval", "Checking", "Serving", "NotProven", "Rejected", "RolledBack"}
)
"""Phases of an adapter that was loaded and whose effect was proven: it can be tested."""

SHADOWTEST: dict[ShadowPhase, Health] = {
    "Pending": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
    "Queued": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Starting": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
    "Running": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Passed": Health("True", "False", "False", "True", "Current", "Healthy"),
    "Failed": Health("True", "False", "False", "False", "Current", "Healthy"),
    "Inconclusive": Health("True", "False", "False", "False", "Current", "Healthy"),
    "Error": Health("False", "False", "True", "False", "Failed", "Degraded"),
}
"""A candidate that failed is a test that did its work: Ready, with Succeeded=False."""

SHADOW_TERMINAL: frozenset[ShadowPhase] = frozenset({"Passed", "Failed", "Inconclusive", "Error"})

TUNINGPOLICY: dict[PolicyPhase, Health] = {
    "Pending": Health("False", "True", "False", "Unknown", "InProgress", "Progressing"),
    "Disabled": Health("True", "False", "False", "Unknown", "Current", "Suspended"),
    "Watching": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "AwaitingApproval": Health("True", "False", "False", "Unknown", "Current", "Healthy"),
    "Degraded": Health("False", "True", "False", "Unknown", "InProgress", "Degraded"),
    "Failed": Health("False", "False", "True", "Unknown", "Failed", "Degraded"),
}
"""Degraded: a criterion cannot be read, so that nobody would notice; too little data yet is as designed."""
