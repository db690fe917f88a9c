"""Pure: what to say about a FineTuneJob, in words with number and bound. What to do is `decide.py`'s."""

from graft_api.finetunejob import Failure, FineTuneJobSpec, FineTuneJobStatus, Outcome
from graft_api.reports import Reason
from graft_operator.engine.conditions import shorten
from graft_operator.finetunejob.observed import Job, Observed, Pod, View


def succeeded(status: FineTuneJobStatus, outcome: Outcome) -> View:
    source = (
        "the committed result of an earlier run was found; nothing was trained" if outcome.earlier_run else "trained, signed and published"
    )
    accepted = (
        ("True", "ThresholdsMet", "every threshold was met") if outcome.accepted else ("False", "ThresholdMissed", "see status.evaluation")
    )
    if all(result.accepted is None for result in status.evaluation or []):
        accepted = ("Unknown", "NoThreshold", "no suite has a threshold")
    reason = "Published" if outcome.accepted else "PublishedNotAccepted"
    return View("Succeeded", reason, source, {"Accepted": accepted})


def live(observed: Observed, job: Job) -> View:
    """Say what a Job that is neither over nor to be stopped is doing."""
    pod = next(iter(observed.pods_of(job)), None)
    if job.suspended:
        return View("Queued", "Queued", "the Job is suspended by its queue; waiting for admission")
    if pod is None:
        return View("Pending", "Launched", f"Job {job.name} is created; waiting for its pod")
    if pod.waiting and pod.running is None:
        return View("Queued", "WaitingForPod", cut(f"pod {pod.name}: {pod.waiting}"))
    claim = observed.status.claim
    if claim is None or claim.pod_uid != pod.uid:  # between two of its containers, a pod that has claimed still runs
        return View("Queued", "Starting", f"pod {pod.name} is starting")
    progress = observed.status.progress
    return View("Running", "Running", f"attempt {observed.status.attempt or 0}, {progress.stage if progress else 'preflight'}")


def why(observed: Observed, spec: FineTuneJobSpec, job: Job) -> Failure:
    """Return the most telling cause: the pod's own words before the Job's."""
    if job.end_reason == "DeadlineExceeded":
        return too_long(spec)
    for pod in observed.pods_of(job):
        if any(end.reason == "OOMKilled" for end in pod.ends):
            return out_of_memory(pod)
        for end in reversed(pod.ends):
            word = end.last_word()
            if end.exit_code and word and word.failed:
                return Failure(reason=word.failed.reason, message=cut(f"{end.name}: {word.failed.message}"), line=word.failed.line)
            if end.exit_code:
                return Failure(
                    reason=job.end_reason or "PodFailed",
                    message=cut(f"pod {pod.name}: {end.name} exited with {end.exit_code} ({end.reason})"),
                )
    return Failure(reason=job.end_reason or "NoResult", message=cut(job.end_message or f"Job {job.name} ended without a result"))


def killed_for_memory(observed: Observed, job: Job) -> Pod | None:
    pods = observed.pods_of(job)
    return next((pod for pod in pods if any(end.reason == "OOMKilled" for end in pod.ends)), None)


def out_of_memory(pod: Pod) -> Failure:
    container = next(end.name for end in pod.ends if end.reason == "OOMKilled")
    advice = "raise spec.podTemplate.resources.limits.memory, or lower spec.training.batchSize or maxLength"
    message = f"pod {pod.name}: container {container} was killed for memory; {advice}"
    return Failure(reason=str(Reason.OUT_OF_MEMORY), message=message)


def too_long(spec: FineTuneJobSpec) -> Failure:
    return Failure(reason="DeadlineExceeded", message=f"pods ran longer than spec.activeDeadlineSeconds {spec.active_deadline_seconds}")


def policy_missing(observed: Observed) -> View:
    names = ", ".join(observed.policies_missing)
    message = cut(f"admission policies are missing or do not deny: {names}; nothing is started or counted until the chart is whole again")
    phase = observed.status.phase or "Pending"
    stalled = {"Stalled": ("True", "PolicyMissing", message), "Ready": ("False", "PolicyMissing", message)}
    return View(phase, "PolicyMissing", message, stalled)


def cut(message: str) -> str:
    """Fit a message into conditions and failures."""
    return shorten(message, 1000)
