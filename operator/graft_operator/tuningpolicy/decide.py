"""
What to do about one TuningPolicy. Pure: `decide(observed, now) -> Decision`.

A launch is written ahead:

    criteria met, nothing keeps it -> Record (Intended) -> Create the job -> Record (Created)

Whoever comes after a crash finds the intent and goes on from there, whatever the criteria say by then. Only a policy that is switched
off, or does not name the domain any more, withdraws one that has no job yet; of a policy that is gone, another one of the endpoint does.

The record is the endpoint's, and written on top of what was read: so of two policies one alone launches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from graft_api.launches import Launch, Launches, launches_name
from graft_api.schema import Invalid
from graft_api.tuningpolicy import PolicyDomain, TuningPolicySpec, TuningPolicyStatus
from graft_operator.engine.clock import parse_rfc3339
from graft_operator.tuningpolicy.domains import Judged, judged
from graft_operator.tuningpolicy.observed import JobView, Observed
from graft_operator.tuningpolicy.summarize import View, summarize

POLICY_RETRY = timedelta(seconds=30)
POLICY_PATIENCE = timedelta(minutes=3)
"""An upgrade of the chart replaces policies before it replaces the operator: nothing is launched meanwhile, and nothing is said."""
LISTENING = timedelta(seconds=5)
LOOK_AGAIN = timedelta(minutes=1)
"""Where no watch tells that somebody has acted."""
LONGEST_PASS = timedelta(minutes=15)
"""A pass of a policy that was deleted meanwhile may still create the job that it has recorded; thrice what a pass may take."""

FORBIDDEN = "Forbidden"


@dataclass(frozen=True)
class Record:
    """Write the record of launches, on top of what was read."""

    launches: Launches


@dataclass(frozen=True)
class Create:
    """Create the job of a launch that is recorded."""

    domain: PolicyDomain
    launch: Launch


@dataclass(frozen=True)
class Decision:
    """`step` is done first, followed by a new decision; then status; then `remove`."""

    status: TuningPolicyStatus
    step: Record | Create | None = None
    remove: Sequence[JobView] = ()
    """Jobs that have ended, beyond the history limit."""
    judged: Sequence[Judged] = ()
    requeue_after: timedelta | None = None


@dataclass(frozen=True)
class Refusal:
    """Why the API server did not let the job of a launch be made."""

    reason: str
    message: str


def decide(observed: Observed, now: datetime) -> Decision:
    """Return the next step. Without one, what to say."""
    spec = observed.spec
    if isinstance(spec, Invalid):
        return _failed(observed, "InvalidSpec", str(spec), now, again=None)
    if observed.policies_missing:
        if observed.status.phase and observed.policies_missing_seconds < POLICY_PATIENCE.total_seconds():
            return Decision(observed.status, requeue_after=POLICY_RETRY)
        names = "; ".join(observed.policies_missing)
        told = f"admission policies are missing or do not deny: {names}; nothing is launched until the chart is whole again"
        return _failed(observed, "PolicyMissing", told, now)
    if problem := _record_problem(observed, spec.endpoint_ref.name):
        return _failed(observed, *problem, now)
    step = _settle(observed, spec, now)
    if step is not None:
        return Decision(observed.status, step=step)
    return _judge(observed, spec, now)


def refused(observed: Observed, refusal: Refusal, now: datetime) -> Decision:
    """Return what to say when the job of a launch could not be made. The launch stays recorded, and is tried again."""
    # A quota may grow, and a right be given, without anything that wakes us; a template is changed in the spec.
    return _failed(observed, refusal.reason, refusal.message, now, again=LOOK_AGAIN if refusal.reason == FORBIDDEN else None)


def _record_problem(observed: Observed, endpoint: str) -> tuple[str, str] | None:
    record = observed.record
    if record is not None and record.foreign:
        told = f"ConfigMap {launches_name(endpoint)} is somebody else's: it lacks the label graft.dev/record; delete or rename it"
        return "NameConflict", told
    if record is not None and record.problem is not None:
        told = f"ConfigMap {launches_name(endpoint)} cannot be read ({record.problem}); restore it, or delete it to count from the jobs"
        return "RecordUnreadable", told
    if observed.taken:
        return "NameConflict", f"FineTuneJob {min(observed.taken)} exists and belongs to somebody else; delete or rename it"
    return None


def _settle(observed: Observed, spec: TuningPolicySpec, now: datetime) -> Record | Create | None:
    """Return what completes a launch that is recorded and not done."""
    launches = observed.known_launches()
    if observed.launches is None and launches.domains:
        return Record(launches)
    for known in launches.domains:
        domain = next((domain for domain in spec.domains if domain.name == known.name), None)
        for launch in known.launches:
            if launch.state != "Intended" or _left_alone(observed, launch, now):
                continue
            if observed.job(launch) is not None:
                return Record(_with(launches, known.name, launch, state="Created"))
            if launch.policy != observed.name or domain is None or not spec.enabled:
                return Record(_with(launches, known.name, launch, state="Withdrawn"))
            return Create(domain, launch)
    return None


def _left_alone(observed: Observed, launch: Launch, now: datetime) -> bool:
    """Whether another policy may still complete its launch. It counts as one meanwhile."""
    if launch.policy == observed.name:
        return False
    return launch.policy in observed.beside or now - parse_rfc3339(launch.at) < LONGEST_PASS


def _with(launches: Launches, domain: str, launch: Launch, *, state: str) -> Launches:
    return launches.with_domain(launches.domain(domain).with_launch(launch.model_copy(update={"state": state})))


def _judge(observed: Observed, spec: TuningPolicySpec, now: datetime) -> Decision:
    evaluation = observed.evaluation
    if evaluation is None:
        view = View("Pending", "Listening", "the operator has just begun to hear of the endpoint's collector")
        return Decision(summarize(observed, view, (), now), requeue_after=LISTENING)
    found = [judged(observed, spec, domain, evaluation, now) for domain in spec.domains]
    due = next((one for one in found if one.launch is not None), None)
    if due is not None and due.launch is not None:
        launches = observed.known_launches()
        return Decision(observed.status, step=Record(launches.with_domain(due.launched.with_launch(due.launch))))
    return Decision(summarize(observed, _view(spec, found), found, now), remove=_surplus(observed, spec), judged=found)


def _view(spec: TuningPolicySpec, found: Sequence[Judged]) -> View:
    """Return the phase: what somebody must do comes first."""
    told = "; ".join(f"{one.domain.name}: {one.message}" for one in found)
    if stalled := [one for one in found if one.stalled]:
        message = "; ".join(f"{one.domain.name}: {one.message}" for one in stalled)
        return View("Failed", "CannotLaunch", message)
    if not spec.enabled:
        return View("Disabled", "Disabled", f"spec.enabled is false, nothing is launched; {told}")
    if lacking := [f"{one.domain.name}: {one.message}" for one in found if one.verdict == "Refused"]:
        return View("Degraded", "NoEndpoint", "; ".join(lacking))
    if faults := [fault for one in found for fault in one.faults]:
        return View("Degraded", "CannotRead", "; ".join(faults))
    if waiting := [one for one in found if one.awaiting]:
        return View("AwaitingApproval", "AwaitingApproval", "; ".join(f"{one.domain.name}: {one.message}" for one in waiting))
    return View("Watching", "Watching", told)


def _surplus(observed: Observed, spec: TuningPolicySpec) -> list[JobView]:
    """Return the jobs that have ended and are beyond the history limit, the oldest launches first."""
    remembered = observed.known_launches().names()
    ended = [job for job in observed.jobs if job.ended and not job.deleting and job.name in remembered]
    ended.sort(key=lambda job: (job.created_at, job.ordinal, job.name))
    return ended[: max(0, len(ended) - spec.history_limit)]


def _failed(observed: Observed, reason: str, message: str, now: datetime, again: timedelta | None = LOOK_AGAIN) -> Decision:
    return Decision(summarize(observed, View("Failed", reason, message), (), now), requeue_after=again)
