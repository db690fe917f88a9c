"""What the pods of a FineTuneJob report: claim, progress, result. Grants are pure; persisting has a precondition."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from graft_api.finetunejob import Claim, FineTuneJobStatus
from graft_api.health import TERMINAL
from graft_api.reports import ClaimRequest, ProgressReport, TerminalResult
from graft_api.schema import parse
from graft_operator.engine.clock import Clock, parse_rfc3339, rfc3339
from graft_operator.engine.errors import Conflict, Unavailable
from graft_operator.engine.events import EventRecorder, Happening
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import FINE_TUNE_JOBS
from graft_operator.engine.status import write_status
from graft_operator.finetunejob import children
from graft_operator.finetunejob.decide import record
from graft_operator.reports.policies import PolicyGuard
from graft_operator.reports.sink import Caller, NotYours, Superseded, Unknown

WRITE_TRIES = 5
"""Against the reconciler's own writes; the pod asks again after that."""


@dataclass(frozen=True)
class Claims:
    """The ReportSink of FineTuneJobs."""

    kube: Kube
    clock: Clock
    guard: PolicyGuard
    events: EventRecorder

    async def claim(self, caller: Caller, namespace: str, name: str, request: ClaimRequest) -> int:
        """Persist that this pod is the attempt, and return its number."""
        if request.job_uid != caller.owner_uid:
            raise NotYours("the run manifest belongs to another FineTuneJob")
        resource, status = await self._update(caller, namespace, name, lambda now_status: grant(now_status, caller, self.clock.now()))
        assert status.claim is not None  # noqa: S101 - grant() sets it
        # Asked again by the same pod, this is the same Event: its name follows from its words.
        note = f"attempt {status.claim.attempt} runs in pod {status.claim.pod_name}"
        await self.events.emit(resource, Happening("Normal", "AttemptClaimed", "GrantClaim", note))
        return status.claim.attempt

    async def progress(self, caller: Caller, namespace: str, name: str, report: ProgressReport) -> None:
        """Write the latest progress of the attempt that holds the claim."""
        progress = report.progress.model_copy(update={"updated_at": rfc3339(self.clock.now())})

        def change(status: FineTuneJobStatus) -> FineTuneJobStatus:
            check_holder(status, caller, report.attempt)
            return status.model_copy(update={"progress": progress})

        await self._update(caller, namespace, name, change)

    async def result(self, caller: Caller, namespace: str, name: str, result: TerminalResult) -> None:
        """Record a result; a failure is read from the Job, which alone knows whether it will be retried."""
        if result.result is None:
            return
        found = result.result

        def change(status: FineTuneJobStatus) -> FineTuneJobStatus:
            if caller.job_name != children.report_job_name(children.Parent(namespace, name, caller.owner_uid)):
                check_holder(status, caller, result.attempt)
            return record(status, found)

        await self._update(caller, namespace, name, change)

    async def _update(
        self, caller: Caller, namespace: str, name: str, change: Callable[[FineTuneJobStatus], FineTuneJobStatus]
    ) -> tuple[dict[str, Any], FineTuneJobStatus]:
        """Change the status that is there now; read again when somebody was faster. Returns the object as read, and its new status."""
        if missing := await self.guard.missing():
            raise Unavailable(f"admission policies are missing: {', '.join(missing)}")
        for _ in range(WRITE_TRIES):
            resource = await self._read(caller, namespace, name)
            status = parse(FineTuneJobStatus, resource.get("status") or {})
            changed = change(status)
            try:
                await write_status(self.kube, FINE_TUNE_JOBS, resource, changed.to_json())
            except Conflict:
                continue
            return resource, changed
        raise Unavailable(f"FineTuneJob {namespace}/{name} changes too fast")

    async def _read(self, caller: Caller, namespace: str, name: str) -> dict[str, Any]:
        resource = await self.kube.get(FINE_TUNE_JOBS, namespace, name)
        if resource is None or resource["metadata"]["uid"] != caller.owner_uid:
            raise Unknown(f"there is no FineTuneJob {namespace}/{name} with uid {caller.owner_uid}")
        return resource


def grant(status: FineTuneJobStatus, caller: Caller, now: datetime) -> FineTuneJobStatus:
    """
    Return the status in which this pod holds the claim.

    Raises `Superseded` for a pod of an earlier launch or one that is older than the holder, `Unavailable` while the
    reconciler has not recorded the caller's Job yet.
    """
    held = status.claim
    if held is not None and held.pod_uid == caller.pod_uid:
        return status
    if status.phase in TERMINAL or status.outcome is not None:
        raise Superseded("the job has ended")
    if status.job is None:
        raise Unavailable("the Job is not recorded yet")
    if status.job.uid != caller.job_uid:
        raise Superseded(f"Job {caller.job_name} is not the current launch")
    if held is not None and parse_rfc3339(caller.pod_created_at) < parse_rfc3339(held.pod_created_at):
        raise Superseded(f"attempt {held.attempt} in pod {held.pod_name} took over")
    attempt = (held.attempt if held else 0) + 1
    claim = Claim(
        attempt=attempt,
        pod_uid=caller.pod_uid,
        pod_name=caller.pod_name,
        pod_created_at=caller.pod_created_at,
        claimed_at=rfc3339(now),
    )
    return status.model_copy(update={"claim": claim, "attempt": attempt, "progress": None})


def check_holder(status: FineTuneJobStatus, caller: Caller, attempt: int) -> None:
    """Raise `Superseded` unless this pod holds the claim under this number."""
    held = status.claim
    if held is None or held.pod_uid != caller.pod_uid or held.attempt != attempt:
        raise Superseded(f"attempt {held.attempt if held else 0} holds the claim, not {attempt}")
