"""
Pure: what to do next for a FineTuneJob, and what to say about it.

A ladder of early returns in the order of a job's life. One-way steps are written ahead: the status that records them is
written before what they destroy (`after`), and after what they create (`before`).
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from graft_api import resolve
from graft_api.finetunejob import Budget, Failure, FineTuneJobSpec, FineTuneJobStatus, JobReference, Outcome, RunReference
from graft_api.health import TERMINAL
from graft_api.podtemplate import LocalObjectReference
from graft_api.reports import Reason, Result
from graft_api.schema import Invalid
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.finetunejob import children, views
from graft_operator.finetunejob.children import Launch
from graft_operator.finetunejob.observed import Job, Observed, Settings, View
from graft_operator.finetunejob.summarize import restate, summarize

POLICY_RETRY = timedelta(seconds=30)
FORBIDDEN_RETRY = timedelta(minutes=1)
POLICY_GRACE_SECONDS = 180
"""An upgrade of the chart replaces policies before it replaces the operator: nothing is counted meanwhile, and nothing is said."""


@dataclass(frozen=True)
class StartRun:
    """Freeze the spec into the run manifest."""


@dataclass(frozen=True)
class StartJob:
    """Create the Job of a launch."""

    launch: Launch


@dataclass(frozen=True)
class StartReport:
    """Create the Job that reads the run folder."""


@dataclass(frozen=True)
class CreateAdapter:
    """Create the Adapter of the accepted result."""


@dataclass(frozen=True)
class DeleteJob:
    """Delete a Job in the foreground: it is gone when its pods are."""

    name: str
    uid: str


@dataclass(frozen=True)
class ExpireJob:
    """Let the cluster's TTL controller remove a Job: its result is recorded."""

    name: str
    seconds: int


Create = StartRun | StartJob | StartReport | CreateAdapter
Remove = DeleteJob | ExpireJob


@dataclass(frozen=True)
class Decision:
    """`before` is done first, one at a time, each followed by a new decision; then status; then `after`."""

    status: FineTuneJobStatus
    before: Create | None = None
    after: tuple[Remove, ...] = ()
    requeue_after: timedelta | None = None


def decide(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """Return the next step. Pure: the same observation and instant give the same decision."""
    status = observed.status
    spec = observed.running_spec()
    if status.phase in TERMINAL and not _starts_over(observed):
        return Decision(restate(observed, now), after=_expire(observed, now))
    if observed.policies_missing:
        if status.run is not None and observed.policies_missing_seconds < POLICY_GRACE_SECONDS:
            return Decision(status, requeue_after=POLICY_RETRY)
        return _say(observed, now, views.policy_missing(observed), requeue_after=POLICY_RETRY)
    if isinstance(spec, Invalid):
        return _fail(observed, now, Failure(reason="InvalidSpec", message=views.cut("; ".join(spec.problems))))
    if status.outcome is not None:
        return _finish(observed, spec, now)
    step = _start if status.run is None else _run
    return step(observed, spec, settings, now)


def _starts_over(observed: Observed) -> bool:
    """A spec that was refused before anything ran may be corrected; a run that ended stays ended."""
    status = observed.status
    return status.phase == "Failed" and status.run is None and status.observed_generation != observed.generation


def _start(observed: Observed, spec: FineTuneJobSpec, settings: Settings, now: datetime) -> Decision:
    if problems := resolve.unsupported(spec) + resolve.unsupported_in_cluster(spec):
        return _fail(observed, now, Failure(reason=str(Reason.UNSUPPORTED), message=views.cut("; ".join(problems))))
    if spec.suspend:
        return _say(observed, now, View("Suspended", "Suspended", "spec.suspend is true; nothing was started"))
    frozen = observed.frozen
    if frozen is None or observed.run_uid is None:
        return Decision(observed.status, before=StartRun())
    status = observed.status.model_copy(
        update={
            "failure": None,
            "run": RunReference(
                name=children.manifest_name(observed.parent),
                uid=observed.run_uid,
                spec_hash=frozen.spec_hash,
                source_hash=frozen.source_hash,
                generation=observed.generation,
                uri=frozen.run_uri,
            ),
            "resolved": resolve.summary(frozen.spec, settings.trainer_image),
            "started_at": rfc3339(now),
        }
    )
    return _run(replace(observed, status=status), spec, settings, now)


def _run(observed: Observed, spec: FineTuneJobSpec, settings: Settings, now: datetime) -> Decision:
    """Nothing is recorded yet: launch, wait, suspend, resume, or find out how it ended."""
    known = observed.status.job
    newest = max((job.launch for job in observed.jobs), default=0)
    number = max(newest, known.launch if known else 0)
    job = observed.launch(number) if number else None
    if job is None:
        return _without_job(observed, spec, settings, now)
    status = observed.status.model_copy(update={"job": JobReference(name=job.name, uid=job.uid, launch=job.launch)})
    observed = replace(observed, status=status)
    if recorded := _recorded(observed, job):
        return _finish(recorded, spec, now)
    if job.end is not None:
        return _ended(observed, spec, job, now)
    if spec.suspend:
        return _suspend(observed, job, now)
    if pod := views.killed_for_memory(observed, job):
        return _fail(observed, now, views.out_of_memory(pod), after=(DeleteJob(job.name, job.uid),))
    return _say(observed, now, views.live(observed, job))


def _without_job(observed: Observed, spec: FineTuneJobSpec, settings: Settings, now: datetime) -> Decision:
    """No Job exists: never launched, suspended, or somebody deleted it."""
    status = observed.status
    launched = status.job.launch if status.job else 0
    budget = status.budget or Budget()
    if launched > budget.through_launch:
        # Deleted by somebody else. It counts as a failure, so that deleting again and again ends, too.
        since = parse_rfc3339(status.claim.claimed_at) if status.claim else now
        seconds = budget.active_seconds + max(0, int((now - since).total_seconds()))
        budget = Budget(through_launch=launched, failures=budget.failures + 1, active_seconds=seconds)
        observed = replace(observed, status=status.model_copy(update={"budget": budget}))
    if observed.frozen is None:
        return _without_manifest(observed, now)
    if spec.suspend:
        return _say(observed, now, View("Suspended", "Suspended", "spec.suspend is true; resuming continues from the last checkpoint"))
    if budget.failures > spec.backoff_limit:
        return _fail(
            observed,
            now,
            Failure(reason="BackoffLimitExceeded", message=f"{budget.failures} failures, spec.backoffLimit {spec.backoff_limit}"),
        )
    left = spec.active_deadline_seconds - budget.active_seconds
    if left <= 0:
        return _fail(observed, now, views.too_long(spec))
    assert observed.status.resolved is not None  # noqa: S101 - written together with run
    launch = Launch(
        number=launched + 1,
        backoff_limit=spec.backoff_limit - budget.failures,
        deadline_seconds=left,
        image=observed.status.resolved.image,
        pull_policy=settings.pull_policy,
    )
    return Decision(observed.status, before=StartJob(launch))


def _without_manifest(observed: Observed, now: datetime) -> Decision:
    """Somebody deleted the frozen spec: write it again if the spec is still the same, else nobody knows what was frozen."""
    run = observed.status.run
    same = run is not None and not isinstance(observed.spec, Invalid) and resolve.source_hash(observed.spec) == run.source_hash
    if same:
        return Decision(observed.status, before=StartRun())
    message = "the run manifest was deleted and the spec was changed since; create a new FineTuneJob"
    return _fail(observed, now, Failure(reason="RunManifestMissing", message=message))


def _suspend(observed: Observed, job: Job, now: datetime) -> Decision:
    """Count what the launch used, then delete it; the count is written before the Job's own counters go."""
    budget = observed.status.budget or Budget()
    if budget.through_launch < job.launch:
        seconds = int((now - parse_rfc3339(job.started_at)).total_seconds()) if job.started_at else 0
        budget = Budget(
            through_launch=job.launch,
            failures=budget.failures + job.failures,
            active_seconds=budget.active_seconds + max(0, seconds),
        )
    observed = replace(observed, status=observed.status.model_copy(update={"budget": budget}))
    view = View("Suspended", "Suspending", "spec.suspend is true; waiting for the pods to end")
    return _say(observed, now, view, after=() if job.deleting else (DeleteJob(job.name, job.uid),))


def _ended(observed: Observed, spec: FineTuneJobSpec, job: Job, now: datetime) -> Decision:
    """The Job is over and no pod left a result that counts."""
    failure = views.why(observed, spec, job)
    reporter = observed.report_job()
    # A pod may have died between its commit and its last word: then the run folder knows. Bad input never got that far.
    if job.end == "Failed" and (observed.status.claim is None or job.end_reason == "PodFailurePolicy"):
        return _fail(observed, now, failure)
    if reporter is None:
        return Decision(observed.status, before=StartReport())
    if recorded := _recorded(observed, reporter):
        return _finish(recorded, spec, now)
    if reporter.end is None:
        return _say(observed, now, View("Running", "ReadingResult", "the pods ended without a result; reading the run folder"))
    return _fail(observed, now, failure)


def _finish(observed: Observed, spec: FineTuneJobSpec, now: datetime) -> Decision:
    """The result is recorded: hand it on, then say so. A phase is terminal only when nothing is left to do."""
    status, outcome = observed.status, observed.status.outcome
    assert outcome and status.artifact  # noqa: S101, PT018 - recorded together
    if spec.adapter and outcome.accepted and status.adapter_ref is None:
        if observed.adapter is None:
            return Decision(status, before=CreateAdapter())
        digest = observed.adapter["spec"]["artifact"]["digest"]
        if digest != status.artifact.digest:
            name = observed.adapter["metadata"]["name"]
            return _fail(
                observed, now, Failure(reason="NameConflict", message=f"Adapter {name} exists with digest {digest}; delete or rename it")
            )
        status = status.model_copy(update={"adapter_ref": LocalObjectReference(name=observed.adapter["metadata"]["name"])})
    observed = replace(observed, status=status.model_copy(update={"completed_at": status.completed_at or rfc3339(now), "failure": None}))
    return _say(observed, now, views.succeeded(observed.status, outcome), after=_expire(observed, now))


def _recorded(observed: Observed, job: Job) -> Observed | None:
    """Return what is known with the Job's result in it, if it left one."""
    result = _left_result(observed, job)
    status = record(observed.status, result) if result else observed.status
    return replace(observed, status=status) if status.outcome else None


def _left_result(observed: Observed, job: Job) -> Result | None:
    """Return the result that a pod left in its termination message, if that pod may speak."""
    claim = observed.status.claim
    for pod in observed.pods_of(job):
        if job.launch and (claim is None or claim.pod_uid != pod.uid):
            continue
        for end in pod.ends:
            word = end.last_word()
            if end.name in {"publish", "report"} and end.exit_code == 0 and word and word.result:
                return word.result
    return None


def _expire(observed: Observed, now: datetime) -> tuple[Remove, ...]:
    """Set the TTL of Jobs that ended. Kubernetes counts from a Job's end, we from when its result was recorded."""
    spec = observed.running_spec()
    if isinstance(spec, Invalid):
        return ()
    ended = [job for job in observed.jobs if job.end is not None and not job.has_ttl and not job.deleting]
    return tuple(ExpireJob(job.name, _since(job, now) + spec.ttl_seconds_after_finished) for job in ended)


def _since(job: Job, now: datetime) -> int:
    return max(0, int((now - parse_rfc3339(job.ended_at)).total_seconds())) if job.ended_at else 0


def record(status: FineTuneJobStatus, result: Result) -> FineTuneJobStatus:
    """Return the status with a run's result in it. The first result that is recorded stays; one of another run is none."""
    of_this_run = status.run is not None and result.artifact.uri.startswith(f"{status.run.uri}/")
    if status.outcome is not None or not of_this_run:
        return status
    outcome = Outcome(accepted=result.accepted, base_model_digest=result.base_model_digest, earlier_run=result.earlier_run)
    return status.model_copy(
        update={
            "artifact": result.artifact,
            "outcome": outcome,
            "dataset": result.dataset,
            "evaluation": result.evaluation,
            "stage_seconds": result.stage_seconds or None,
            "resumed_from_step": result.resumed_from_step,
        }
    )


def _fail(observed: Observed, now: datetime, failure: Failure, after: tuple[Remove, ...] = ()) -> Decision:
    status = observed.status.model_copy(update={"failure": failure, "completed_at": observed.status.completed_at or rfc3339(now)})
    observed = replace(observed, status=status)
    line = f" (line {failure.line})" if failure.line else ""
    return _say(observed, now, View("Failed", failure.reason, failure.message + line), after=(*after, *_expire(observed, now)))


def refused(observed: Observed, now: datetime, failure: Failure) -> Decision:
    """What to say when the API server, or somebody else's object, does not let us create a child: the user must act."""
    return _fail(observed, now, failure)


def forbidden(observed: Observed, now: datetime, message: str) -> Decision:
    """What to say while we are not allowed to create a child (a quota, missing rights): that may change by itself."""
    stalled = {"Stalled": ("True", "Forbidden", views.cut(message)), "Ready": ("False", "Forbidden", views.cut(message))}
    view = View(observed.status.phase or "Pending", "Forbidden", views.cut(message), stalled)
    return _say(observed, now, view, requeue_after=FORBIDDEN_RETRY)


def _say(observed: Observed, now: datetime, view: View, after: tuple[Remove, ...] = (), requeue_after: timedelta | None = None) -> Decision:
    return Decision(summarize(observed, view, now), after=after, requeue_after=requeue_after)


def describe(action: Create | Remove) -> str:
    """Say an action in words, for the log."""
    match action:
        case StartRun():
            return "freeze the spec"
        case StartJob(launch=launch):
            return f"launch {launch.number}"
        case StartReport():
            return "read the run folder"
        case CreateAdapter():
            return "create the adapter"
        case DeleteJob(name=name):
            return f"delete job {name}"
        case ExpireJob(name=name):
            return f"expire job {name}"
        case _:
            assert_never(action)
