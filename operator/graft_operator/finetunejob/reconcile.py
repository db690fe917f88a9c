"""The lines that connect observing, deciding and acting."""

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, assert_never

from graft_api import resolve
from graft_api.finetunejob import Failure, FineTuneJobSpec, FineTuneJobStatus
from graft_api.health import TERMINAL
from graft_api.run import Reporting, RunIdentity, RunManifest
from graft_api.schema import parse
from graft_operator.engine.clock import Clock
from graft_operator.engine.controller import Outcome
from graft_operator.engine.errors import AlreadyExists, Forbidden, NotYet
from graft_operator.engine.errors import Invalid as RefusedByServer
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube
from graft_operator.engine.ownership import is_controlled_by
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, FINE_TUNE_JOBS, JOBS, Resource
from graft_operator.engine.status import write_status
from graft_operator.finetunejob import children, decide
from graft_operator.finetunejob.observe import observe
from graft_operator.finetunejob.observed import Observed, Settings
from graft_operator.finetunejob.summarize import happenings
from graft_operator.reports.ca import Trust
from graft_operator.reports.policies import PolicyGuard

Manifest = dict[str, Any]

LOG = logging.getLogger(__name__)

MAX_CREATIONS = 4
"""Of one pass: run manifest, Job, Adapter, and one to spare."""


class NameTaken(Exception):  # noqa: N818 - says what is wrong
    """An object of the name that a child must have belongs to somebody else."""


@dataclass(frozen=True)
class FineTuneJobs:
    """The reconciler of FineTuneJobs."""

    kube: Kube
    clock: Clock
    events: EventRecorder
    guard: PolicyGuard
    settings: Settings
    trust: Trust
    """Carries CA and service account into workload namespaces."""

    async def reconcile(self, key: Key) -> Outcome:
        """Bring one job a step further. What was created counts as observed in the next decision; status is written once."""
        resource = await self.kube.get(FINE_TUNE_JOBS, key.namespace, key.name)
        if resource is None or "deletionTimestamp" in resource["metadata"]:
            return Outcome()  # children go with their owner
        if (resource.get("status") or {}).get("phase") not in TERMINAL:
            # Every pass, not only the first: a renewed authority must reach the namespaces of running jobs. Cached.
            await self.trust.ensure(key.namespace, resource["metadata"]["uid"])
        observed = await observe(self.kube, self.guard, resource)
        for _ in range(MAX_CREATIONS):
            decision = decide.decide(observed, self.settings, self.clock.now())
            if decision.before is None:
                break
            LOG.info("%s/%s: %s", key.namespace, key.name, decide.describe(decision.before))
            created = await self._try_to_create(observed, decision)
            if isinstance(created, decide.Decision):
                decision = created
                break
            observed = replace(observed, status=decision.status).with_child(created)
        await self._record(resource, key, decision)
        return Outcome(requeue_after=decision.requeue_after)

    async def _record(self, resource: Manifest, key: Key, decision: decide.Decision) -> None:
        """Announce what the status will say, write it, then do what it destroys."""
        for happening in happenings(parse(FineTuneJobStatus, resource.get("status") or {}), decision.status):
            await self.events.emit(resource, happening)
        await write_status(self.kube, FINE_TUNE_JOBS, resource, decision.status.to_json())
        for action in decision.after:
            LOG.info("%s/%s: %s", key.namespace, key.name, decide.describe(action))
            await self._remove(key.namespace, action)

    async def _try_to_create(self, observed: Observed, decision: decide.Decision) -> Manifest | decide.Decision:
        """Return the child, or what to say instead: a refusal belongs into the status, not only into our log."""
        now = self.clock.now()
        try:
            return await self._create(observed, decision)
        except NameTaken as taken:
            return decide.refused(observed, now, Failure(reason="NameConflict", message=str(taken)))
        except RefusedByServer as refusal:
            return decide.refused(observed, now, Failure(reason="InvalidSpec", message=refusal.told()[:1000]))
        except Forbidden as refusal:
            return decide.forbidden(observed, now, str(refusal))

    async def _create(self, observed: Observed, decision: decide.Decision) -> Manifest:
        parent, spec, status = observed.parent, observed.spec, decision.status
        if not isinstance(decision.before, decide.StartRun):
            spec = observed.running_spec()
        assert isinstance(spec, FineTuneJobSpec)  # noqa: S101 - decide() creates nothing for an invalid spec
        match decision.before:
            case decide.StartRun():
                body = children.run_manifest(parent, self._manifest(observed, spec))
                return await self._post(CONFIG_MAPS, body, parent.uid)
            case decide.StartJob(launch=launch):
                return await self._post(JOBS, children.training_job(parent, spec, launch), parent.uid)
            case decide.StartReport():
                image = status.resolved.image if status.resolved else self.settings.trainer_image
                return await self._post(JOBS, children.report_job(parent, spec, image, self.settings.pull_policy), parent.uid)
            case decide.CreateAdapter():
                assert status.artifact and status.outcome  # noqa: S101, PT018 - recorded before an adapter is asked for
                body = children.adapter(parent, spec, status.artifact, status.outcome.base_model_digest)
                return await self._post(ADAPTERS, body, None)
            case None:
                raise AssertionError("called without anything to create")
            case _:
                assert_never(decision.before)

    async def _post(self, resource: Resource, body: Manifest, owner_uid: str | None) -> Manifest:
        """Create, or find what an earlier pass created. Never overwrites. An Adapter has no owner: decide() compares its digest."""
        metadata = body["metadata"]
        try:
            return await self.kube.create(resource, body)
        except AlreadyExists:
            existing = await self.kube.get(resource, metadata["namespace"], metadata["name"])
            if existing is None:
                raise NotYet(f"{metadata['name']} is being deleted", timedelta(seconds=1)) from None
            if owner_uid is not None and not is_controlled_by(existing, owner_uid):
                kind, name = body["kind"], metadata["name"]
                raise NameTaken(f"{kind} {name} exists and belongs to somebody else; delete or rename it") from None
            return existing

    async def _remove(self, namespace: str, action: decide.Remove) -> None:
        match action:
            case decide.DeleteJob(name=name, uid=uid):
                await self.kube.delete(JOBS, namespace, name, propagation="Foreground", uid=uid)
            case decide.ExpireJob(name=name, seconds=seconds):
                await self.kube.merge_patch(JOBS, namespace, name, {"spec": {"ttlSecondsAfterFinished": seconds}})
            case _:
                assert_never(action)

    def _manifest(self, observed: Observed, spec: FineTuneJobSpec) -> RunManifest:
        resolved, parent = resolve.resolve(spec), observed.parent
        return RunManifest(
            job=RunIdentity(namespace=parent.namespace, name=parent.name, uid=parent.uid),
            spec_hash=resolve.spec_hash(resolved),
            source_hash=resolve.source_hash(spec),
            run_uri=resolve.run_uri(resolved, parent.namespace, parent.name),
            spec=resolved,
            reporting=Reporting(url=self.settings.reports_url),
        )
