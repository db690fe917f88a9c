"""
Pure: what to do next for a FineTuneJob, and what to say about it.

A ladder of early returns in the order of a job's life. One-way steps are written ahead: the status that records them is
written before what they destroy (`after`), and after what they create (`before`).
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from graft_api import resolve
from graft_api.finetunejob import (
    Budget,
    Failure,
    FineTuneJobSpec,
    FineTuneJobStatus,
    JobReference,
    Outcome,
    RunReference,
)
from graft_api.health import TERMINAL
from graft_api.podtemplate import LocalObjectReference, PodTemplate
from graft_api.reports import Reason, Result
from graft_api.schema import Invalid
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.finetunejob import children
from graft_operator.finetunejob.children import Launch
from graft_operator.finetunejob.observed import Job, Observed, Pod, Settings, View
from graft_operator.finetunejob.summarize import summarize

POLICY_RETRY = timedelta(seconds=30)


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
    spec = observed.spec
    if status.phase in TERMINAL and not _starts_over(observed):
        return Decision(status, after=_expire(observed))
    if observed.policies_missing:
        return _say(observed, now, _policy_missing(observed), requeue_after=POLICY_RETRY)
    if isinstance(spec, Invalid):
        return _fail(observed, now, Failure(reason="InvalidSpec", message=_cut("; ".join(spec.problems))))
    if status.run is None:
        return _start(observed, spec, settings, now)
    if status.outcome is not None:
        return _finish(observed, spec, now)
    return _run(observed, spec, settings, now)


def _starts_over(observed: Observed) -> bool:
    """A spec that was refused before anything ran may be corrected; a run that ended stays ended."""
    status = observed.status
    return status.phase == "Failed" and status.run is None and status.observed_generation != observed.generation


def _start(observed: Observed, spec: FineTuneJobSpec, settings: Settings, now: datetime) -> Decision:
    if problems := resolve.unsupported(spec):
        return _fail(observed, now, Failure(reason=str(Reason.UNSUPPORTED), message=_cut("; ".join(problems))))
    if spec.suspend:
        return _say(observed, now, View("Suspended", "Suspended", "spec.suspend is true; nothing was started"))
    if observed.run_uid is None:
        return Decision(observed.status, before=StartRun())
    resolved = resolve.resolve(spec)
    template = spec.pod_template or PodTemplate()
    status = observed.status.model_copy(
        update={
            "failure": None,
            "run": RunReference(
                name=children.manifest_name(observed.parent),
                uid=observed.run_uid,
                spec_hash=resolve.spec_hash(resolved),
                generation=observed.generation,
                uri=resolve.run_uri(resolved, observed.parent.namespace, observed.parent.name),
            ),
            "resolved": resolve.summary(resolved, template.image or settings.trainer_image),
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
    if result := _left_result(observed, job):
        return _finish(replace(observed, status=record(status, result)), spec, now)
    if job.end is not None:
        return _ended(observed, spec, job, now)
    if spec.suspend:
        return _suspend(observed, job, now)
    if pod := _killed_for_memory(observed, job):
        advice = "raise spec.podTemplate.resources.limits.memory, or lower spec.training.batchSize or maxLength"
        advice = f"pod {pod.name} was killed for memory; {advice}"
        return _fail(observed, now, Failure(reason=str(Reason.OUT_OF_MEMORY), message=advice), after=(DeleteJob(job.name, job.uid),))
    return _say(observed, now, _live(observed, job))


def _without_job(observed: Observed, spec: FineTuneJobSpec, settings: Settings, now: datetime) -> Decision:
    """No Job exists: never launched, suspended, or somebody deleted it."""
    status = observed.status
    launched = status.job.launch if status.job else 0
    budget = status.budget or Budget()
    if launched > budget.through_launch:
        # Deleted by somebody else. It counts as a failure, so that deleting again and again ends, too.
        budget = Budget(through_launch=launched, failures=budget.failures + 1, active_seconds=budget.active_seconds)
        observed = replace(observed, status=status.model_copy(update={"budget": budget}))
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
        return _fail(observed, now, _too_long(spec))
    assert observed.status.resolved is not None  # noqa: S101 - written together with run
    launch = Launch(
        number=launched + 1,
        backoff_limit=spec.backoff_limit - budget.failures,
        deadline_seconds=left,
        image=(spec.pod_template.image if spec.pod_template else None) or observed.status.resolved.image,
        pull_policy=settings.pull_policy,
    )
    return Decision(observed.status, before=StartJob(launch))


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
    failure = _why(observed, spec, job)
    reporter = observed.report_job()
    stage = observed.status.progress.stage if observed.status.progress else None
    # A pod may have died between its commit and its last word: then the run folder knows.
    may_be_committed = job.end == "Complete" or stage in {"package", "publish"}
    if not may_be_committed:
        return _fail(observed, now, failure)
    if reporter is None:
        return Decision(observed.status, before=StartReport())
    if result := _left_result(observed, reporter):
        return _finish(replace(observed, status=record(observed.status, result)), spec, now)
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
    return _say(observed, now, _succeeded(outcome), after=_expire(observed))


def _succeeded(outcome: Outcome) -> View:
    source = (
        "the committed result of an earlier run was found; nothing was trained" if outcome.earlier_run else "trained, signed and published"
    )
    accepted = (
        ("True", "ThresholdsMet", "every threshold was met") if outcome.accepted else ("False", "ThresholdMissed", "see status.evaluation")
    )
    reason = "Published" if outcome.accepted else "PublishedNotAccepted"
    return View("Succeeded", reason, source, {"Accepted": accepted})


def _live(observed: Observed, job: Job) -> View:
    """Say what a Job that is neither over nor to be stopped is doing."""
    pod = next(iter(observed.pods_of(job)), None)
    if job.suspended:
        return View("Queued", "Queued", "the Job is suspended by its queue; waiting for admission")
    if pod is None:
        return View("Pending", "Launched", f"Job {job.name} is created; waiting for its pod")
    if pod.waiting and pod.running is None:
        return View("Queued", "WaitingForPod", _cut(f"pod {pod.name}: {pod.waiting}"))
    claim = observed.status.claim
    if claim is None or claim.pod_uid != pod.uid:  # between two of its containers, a pod that has claimed still runs
        return View("Queued", "Starting", f"pod {pod.name} is starting")
    progress = observed.status.progress
    return View("Running", "Running", f"attempt {observed.status.attempt or 0}, {progress.stage if progress else 'preflight'}")


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


def _why(observed: Observed, spec: FineTuneJobSpec, job: Job) -> Failure:
    """Return the most telling cause: the pod's own words before the Job's."""
    if job.end_reason == "DeadlineExceeded":
        return _too_long(spec)
    for pod in observed.pods_of(job):
        for end in reversed(pod.ends):
            word = end.last_word()
            if end.exit_code and word and word.failed:
                return Failure(reason=word.failed.reason, message=_cut(f"{end.name}: {word.failed.message}"), line=word.failed.line)
            if end.exit_code:
                return Failure(
                    reason=job.end_reason or "PodFailed",
                    message=_cut(f"pod {pod.name}: {end.name} exited with {end.exit_code} ({end.reason})"),
                )
    return Failure(reason=job.end_reason or "NoResult", message=_cut(job.end_message or f"Job {job.name} ended without a result"))


def _killed_for_memory(observed: Observed, job: Job) -> Pod | None:
    pods = observed.pods_of(job)
    return next((pod for pod in pods if any(end.reason == "OOMKilled" for end in pod.ends)), None)


def _too_long(spec: FineTuneJobSpec) -> Failure:
    return Failure(reason="DeadlineExceeded", message=f"pods ran longer than spec.activeDeadlineSeconds {spec.active_deadline_seconds}")


def _expire(observed: Observed) -> tuple[Remove, ...]:
    spec = observed.spec
    if isinstance(spec, Invalid):
        return ()
    ended = [job for job in observed.jobs if job.end is not None and not job.has_ttl and not job.deleting]
    return tuple(ExpireJob(job.name, spec.ttl_seconds_after_finished) for job in ended)


def record(status: FineTuneJobStatus, result: Result) -> FineTuneJobStatus:
    """Return the status with a run's result in it. The first result that is recorded stays."""
    if status.outcome is not None:
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


def _policy_missing(observed: Observed) -> View:
    names = ", ".join(observed.policies_missing)
    message = _cut(f"admission policies are missing or do not deny: {names}; nothing is started or counted until the chart is whole again")
    phase = observed.status.phase or "Pending"
    stalled = {"Stalled": ("True", "PolicyMissing", message), "Ready": ("False", "PolicyMissing", message)}
    return View(phase, "PolicyMissing", message, stalled)


def _fail(observed: Observed, now: datetime, failure: Failure, after: tuple[Remove, ...] = ()) -> Decision:
    status = observed.status.model_copy(update={"failure": failure, "completed_at": observed.status.completed_at or rfc3339(now)})
    observed = replace(observed, status=status)
    line = f" (line {failure.line})" if failure.line else ""
    return _say(observed, now, View("Failed", failure.reason, failure.message + line), after=(*after, *_expire(observed)))


def _say(observed: Observed, now: datetime, view: View, after: tuple[Remove, ...] = (), requeue_after: timedelta | None = None) -> Decision:
    return Decision(summarize(observed, view, now), after=after, requeue_after=requeue_after)


def _cut(message: str) -> str:
    return message if len(message) <= 1000 else message[:999] + "…"


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
