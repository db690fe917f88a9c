"""The lines that connect observing, deciding and acting for one TuningPolicy."""

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from graft_api.launches import Launches
from graft_api.schema import Invalid
from graft_api.tuningpolicy import TuningPolicySpec
from graft_operator.engine.clock import Clock, rfc3339
from graft_operator.engine.controller import Outcome
from graft_operator.engine.errors import AlreadyExists, Conflict, Forbidden
from graft_operator.engine.errors import Invalid as RefusedByServer
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import CONFIG_MAPS, FINE_TUNE_JOBS, TUNING_POLICIES
from graft_operator.engine.status import write_status
from graft_operator.modelendpoint.observe import Hearsay
from graft_operator.modelendpoint.observed import Record
from graft_operator.reports.policies import PolicyGuard
from graft_operator.tuningpolicy import children, decide
from graft_operator.tuningpolicy.evaluating import Evaluations
from graft_operator.tuningpolicy.metrics import PolicyMetrics
from graft_operator.tuningpolicy.observe import observe
from graft_operator.tuningpolicy.observed import JobView, Observed
from graft_operator.tuningpolicy.summarize import happenings

LOG = logging.getLogger(__name__)

MOST_STEPS = 32
"""Of one pass: three for each of eight domains, and some to spare."""


@dataclass(frozen=True)
class TuningPolicies:
    """The reconciler of TuningPolicies."""

    kube: Kube
    clock: Clock
    events: EventRecorder
    guard: PolicyGuard
    hearsay: Hearsay
    evaluations: Evaluations
    metrics: PolicyMetrics

    async def reconcile(self, key: Key) -> Outcome:
        """Read the criteria if that is due, launch what is due, say what was decided."""
        resource = await self.kube.get(TUNING_POLICIES, key.namespace, key.name)
        if resource is None or "deletionTimestamp" in resource["metadata"]:
            self.evaluations.forget(key)
            self.metrics.forget(key)
            return Outcome()  # jobs and record stay
        observed = await observe(self.kube, self.guard, self.hearsay, self.evaluations, resource)
        before = observed.status
        observed, decision = await self._step_by_step(observed)
        for happening in happenings(key.name, before, decision.status):
            await self.events.emit(resource, happening)
        await write_status(self.kube, TUNING_POLICIES, resource, decision.status.to_json())
        if observed.evaluation is not None and decision.judged:
            self.metrics.judged(key, rfc3339(observed.evaluation.at), decision.judged)
        for job in decision.remove:
            await self._remove(key, job)
        return Outcome(requeue_after=decision.requeue_after or self._next(key, observed))

    async def _step_by_step(self, observed: Observed) -> tuple[Observed, decide.Decision]:
        """Do one step after another; what was done counts as observed in the next decision."""
        for _ in range(MOST_STEPS):
            decision = decide.decide(observed, self.clock.now())
            try:
                match decision.step:
                    case None:
                        return observed, decision
                    case decide.Record():
                        observed = await self._record(observed, decision.step)
                    case decide.Create():
                        observed = await self._create(observed, decision.step)
                    case _:
                        assert_never(decision.step)
            except (RefusedByServer, Forbidden) as refused:
                return observed, decide.refused(observed, _refusal(refused, decision.step), self.clock.now())
        raise Conflict(f"{observed.namespace}/{observed.name}: more than {MOST_STEPS} steps in one pass")

    async def _record(self, observed: Observed, step: decide.Record) -> Observed:
        """Write the record on top of exactly what was read. Raises Conflict: another policy may have launched, so the pass starts over."""
        _say(observed, step.launches)
        body = children.record(observed.namespace, step.launches)
        name = body["metadata"]["name"]
        if observed.record is None:
            try:
                written = await self.kube.create(CONFIG_MAPS, body)
            except AlreadyExists as there:  # since it was read; the next pass says whose it is
                raise Conflict(str(there)) from there
        else:
            patch = {"metadata": {"resourceVersion": observed.record.resource_version}, "data": body["data"]}
            written = await self.kube.merge_patch(CONFIG_MAPS, observed.namespace, name, patch)
        metadata = written["metadata"]
        return observed.with_record(step.launches, Record(metadata["uid"], metadata["resourceVersion"]))

    async def _create(self, observed: Observed, step: decide.Create) -> Observed:
        """Create the job, or find what an earlier pass created. Never overwrites."""
        assert isinstance(observed.spec, TuningPolicySpec)  # noqa: S101 - decide() creates nothing for an invalid spec
        try:
            spec = step.domain.job(observed.spec.endpoint_ref.name)
        except Invalid as invalid:  # the template was changed since the launch was recorded
            raise RefusedByServer(f"domain {step.domain.name}: jobTemplate: {invalid}") from invalid
        body = children.job(observed.namespace, observed.name, step.domain.job_template, spec, step.launch)
        try:
            made = await self.kube.create(FINE_TUNE_JOBS, body)
        except AlreadyExists as there:  # since the jobs were listed; the next pass says whose it is
            raise Conflict(str(there)) from there
        view = JobView.of(made)
        assert view is not None  # noqa: S101 - it is as it was built
        return observed.with_job(view)

    async def _remove(self, key: Key, job: JobView) -> None:
        """Delete a job that has ended: with what belongs to it, never an Adapter or what it has published."""
        await self.kube.delete(FINE_TUNE_JOBS, key.namespace, job.name, uid=job.uid)
        LOG.info("removed a job that has ended", extra={"policy": str(key), "job": job.name})

    def _next(self, key: Key, observed: Observed) -> timedelta | None:
        """A little after the next reading is due, so that it is."""
        if not isinstance(observed.spec, TuningPolicySpec):
            return None
        return timedelta(seconds=self.evaluations.due_in(key) + 0.1)


def _say(observed: Observed, launches: Launches) -> None:
    """Say what was launched, before the record says that it was: a line that a crash lets be said twice has the same ordinal and job."""
    for known in observed.known_launches().domains:
        created = {launch.ordinal for launch in launches.domain(known.name).launches if launch.state == "Created"}
        for launch in known.launches:
            if launch.state == "Intended" and launch.ordinal in created:
                said = {"policy": f"{observed.namespace}/{launch.policy}", "domain": known.name, "ordinal": launch.ordinal}
                LOG.info("launched", extra=said | {"job": launch.job, "why": launch.why})


def _refusal(refused: RefusedByServer | Forbidden, step: decide.Record | decide.Create | None) -> decide.Refusal:
    what = f"FineTuneJob {step.launch.job}" if isinstance(step, decide.Create) else "the record of launches"
    if isinstance(refused, Forbidden):
        return decide.Refusal(decide.FORBIDDEN, f"{what}: {refused}")
    return decide.Refusal("InvalidTemplate", f"{what}: {refused.told()}")
