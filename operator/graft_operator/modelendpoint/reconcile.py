"""The lines that connect observing, deciding and acting; and the one writer of ledger and routes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from graft_api.dataplane import LEDGER_KEY, ROUTES_KEY
from graft_api.modelendpoint import ModelEndpointStatus
from graft_api.schema import parse
from graft_operator.engine.clock import Clock
from graft_operator.engine.controller import Outcome
from graft_operator.engine.errors import AlreadyExists, Conflict, Forbidden
from graft_operator.engine.errors import Invalid as RefusedByServer
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube
from graft_operator.engine.ownership import is_controlled_by
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, MODEL_ENDPOINTS, SHADOW_TESTS, Resource
from graft_operator.engine.status import write_status
from graft_operator.modelendpoint import children, decide
from graft_operator.modelendpoint.applied import Applied
from graft_operator.modelendpoint.audit import Audit, untold
from graft_operator.modelendpoint.children import Platform
from graft_operator.modelendpoint.drift_jobs import DriftJobs
from graft_operator.modelendpoint.observe import Hearsay, observe
from graft_operator.modelendpoint.observed import Observed, Record
from graft_operator.modelendpoint.summarize import happenings
from graft_operator.reports.ca import Trust
from graft_operator.reports.policies import PolicyGuard

Manifest = dict[str, Any]

LOG = logging.getLogger(__name__)


class NameTaken(Exception):  # noqa: N818 - says what is wrong
    """An object of the name that a child must have belongs to somebody else."""


TELL_AGAIN = timedelta(seconds=1)
"""While there is something to tell. The write of the ledger wakes sooner."""
TELL_LATER = timedelta(seconds=30)
"""Of what the API server could not take. Nothing is posted before, whatever else wakes the endpoint: a try may take 20 seconds."""


@dataclass(frozen=True)
class ModelEndpoints:
    """The reconciler of ModelEndpoints."""

    kube: Kube
    clock: Clock
    events: EventRecorder
    guard: PolicyGuard
    platform: Platform
    trust: Trust
    hearsay: Hearsay
    epoch: Callable[[], int]
    salt: Callable[[str], str]
    """A new domain's split of conversations, at random."""
    audit: Audit = field(default_factory=Audit)
    refused: dict[Key, float] = field(default_factory=dict)
    """Until when no Event is posted, on the monotonic clock."""
    applied: Applied = field(default_factory=Applied)
    drift_jobs: DriftJobs = field(default_factory=DriftJobs)

    async def reconcile(self, key: Key) -> Outcome:
        """Bring one endpoint a step further: ledger, then routes, then workloads, then status."""
        resource = await self.kube.get(MODEL_ENDPOINTS, key.namespace, key.name)
        if resource is None:
            self.hearsay.fleet.forget(key)
            self.audit.metrics.forget(key)
            self.refused.pop(key, None)
            self.drift_jobs.forget(key)
            return Outcome()
        if "deletionTimestamp" in resource["metadata"]:
            return Outcome()  # children go with their owner; the ledger stays
        observed = await observe(self.kube, self.guard, self.hearsay, self.drift_jobs, resource)
        decision = decide.decide(observed, self.platform, self.epoch(), self.salt, self.clock.now())
        decision = await self._try_to_act(observed, decision)
        for happening in happenings(parse(ModelEndpointStatus, resource.get("status") or {}), decision.status):
            await self.events.emit(resource, happening)
        await write_status(self.kube, MODEL_ENDPOINTS, resource, decision.status.to_json())
        if (ledger := decision.ledger or observed.ledger) is not None:
            self.audit.metrics.know(key, ledger)
        again = await self._tell(key, resource, observed, decision)
        waits = [wait for wait in (decision.requeue_after, again) if wait is not None]
        return Outcome(requeue_after=min(waits, default=None))

    async def _tell(self, key: Key, resource: Manifest, observed: Observed, decision: decide.Decision) -> timedelta | None:
        """Tell of what former passes have written, last of all. Returns when there is more to tell; None: all is told."""
        if decision.ledger not in (None, observed.ledger):
            return TELL_AGAIN if untold(decision.ledger) else None
        if observed.ledger is None or not untold(observed.ledger):
            return None
        if self.clock.monotonic() < self.refused.get(key, 0.0):
            return TELL_LATER
        told = await self.audit.tell(resource, observed.ledger, self.events)
        if told != observed.ledger:
            await self._record(children.ledger_config_map(observed.parent, told), LEDGER_KEY, told, observed.ledger_record)
        if not untold(told):
            self.refused.pop(key, None)
            return None
        self.refused[key] = self.clock.monotonic() + TELL_LATER.total_seconds()
        return TELL_LATER

    async def _try_to_act(self, observed: Observed, decision: decide.Decision) -> decide.Decision:
        """Return the decision, or what to say instead: a refusal belongs into the status, not only into our log."""
        recorded = False
        try:
            await self._write_records(observed, decision)
            recorded = True
            # Every pass, not only the first: a renewed authority must reach the namespaces of running pods. Cached.
            await self.trust.ensure(observed.parent.namespace, observed.parent.uid)
            await self._write_children(observed, decision)
            await self._make_tests(decision)
            await self._measure(observed.parent.namespace, decision)
        except NameTaken as taken:
            refusal = decide.Refusal("NameConflict", str(taken))
        except RefusedByServer as invalid:
            refusal = decide.Refusal("InvalidSpec", invalid.told())
        except Forbidden as forbidden:
            refusal = decide.Refusal("Forbidden", str(forbidden))
        else:
            return decision
        return decide.refused(observed, decision, refusal, self.clock.now(), recorded=recorded)

    async def _write_records(self, observed: Observed, decision: decide.Decision) -> None:
        """Write the ledger first: what follows from it is completed by the next pass."""
        parent = observed.parent
        if decision.ledger is not None and decision.ledger != observed.ledger:
            body = children.ledger_config_map(parent, decision.ledger)
            await self._record(body, LEDGER_KEY, decision.ledger, observed.ledger_record)
        if decision.routes is not None and decision.routes != observed.routes:
            body = children.routes_config_map(parent, decision.routes)
            await self._record(body, ROUTES_KEY, decision.routes, observed.routes_record)
            LOG.info("%s/%s: routes", parent.namespace, parent.name, extra={"revision": decision.routes.revision})

    async def _write_children(self, observed: Observed, decision: decide.Decision) -> None:
        parent, deployments = observed.parent, (observed.server, observed.gateway, observed.collector)
        there = {found["metadata"]["name"] for found in deployments if found}
        # First, for it needs nothing that is applied: whatever is refused of that must not keep production small.
        if decision.scale is not None:
            name, replicas = decision.scale
            await self.kube.merge_patch(DEPLOYMENTS, parent.namespace, name, {"spec": {"replicas": replicas}})
        for manifest in decision.apply:
            gone = manifest["kind"] == DEPLOYMENTS.kind and manifest["metadata"]["name"] not in there
            await self._apply(parent.uid, manifest, gone=gone)
        for manifest in decision.remove:
            await self._remove(parent.uid, manifest)

    async def _make_tests(self, decision: decide.Decision) -> None:
        """Make what is not there, once: the ledger that names it is written. Raises Conflict, so that the pass starts over."""
        for manifest in decision.create:
            try:
                await self.kube.create(SHADOW_TESTS, manifest)
            except AlreadyExists as there:  # since it was read; the next pass says whose it is
                raise Conflict(str(there)) from there

    async def _measure(self, namespace: str, decision: decide.Decision) -> None:
        """Delete Jobs of drift that are over, and make those whose attempt the ledger has begun. Raises Conflict."""
        for job in decision.measured:
            await self.kube.delete(JOBS, namespace, job.name, uid=job.uid)
        for manifest in decision.measure:
            try:
                await self.kube.create(JOBS, manifest)
            except AlreadyExists as there:  # since it was read; the next pass says whose it is, and one of others fails its attempt alone
                raise Conflict(str(there)) from there

    async def _record(self, body: Manifest, key: str, document: BaseModel, record: Record | None) -> None:
        """Write a record on top of exactly what was read. Raises Conflict, so that the pass starts over."""
        metadata = body["metadata"]
        if record is None:
            try:
                await self.kube.create(CONFIG_MAPS, body)
            except AlreadyExists as there:  # since it was read; the next pass says whose it is
                raise Conflict(str(there)) from there
            return
        owners = metadata.get("ownerReferences")
        patch: Manifest = {"metadata": {"resourceVersion": record.resource_version}, "data": {key: body["data"][key]}}
        if owners:  # a restored record has its former owner's uid, by which the garbage collector would take it
            patch["metadata"]["ownerReferences"] = owners
        await self.kube.merge_patch(CONFIG_MAPS, metadata["namespace"], metadata["name"], patch)

    async def _apply(self, owner_uid: str, manifest: Manifest, *, gone: bool) -> None:
        """Server-side apply, unless exactly this was applied a short while ago and nothing has become of it since."""
        resource, metadata = children.resource_of(manifest), manifest["metadata"]
        if not gone and self.applied.is_fresh(owner_uid, manifest, self.clock.monotonic()):
            return
        existing = await self.kube.get(resource, metadata["namespace"], metadata["name"])
        _check_owner(existing, owner_uid, resource, metadata["name"])
        found = await self.kube.apply(resource, manifest)
        self.applied.remember(owner_uid, manifest, self.clock.monotonic(), found)

    async def _remove(self, owner_uid: str, manifest: Manifest) -> None:
        """Delete a child that is not wanted any more, once."""
        resource, metadata = children.resource_of(manifest), manifest["metadata"]
        if self.applied.is_fresh(owner_uid, {**manifest, "removed": True}, self.clock.monotonic()):
            return
        existing = await self.kube.get(resource, metadata["namespace"], metadata["name"])
        if existing is not None and is_controlled_by(existing, owner_uid):
            await self.kube.delete(resource, metadata["namespace"], metadata["name"], uid=existing["metadata"]["uid"])
        self.applied.remember(owner_uid, {**manifest, "removed": True}, self.clock.monotonic())


def _check_owner(existing: Manifest | None, owner_uid: str, resource: Resource, name: str) -> None:
    if existing is None or is_controlled_by(existing, owner_uid):
        return
    if existing["metadata"].get("deletionTimestamp"):
        raise Conflict(f"{resource.kind} {name} is being deleted")
    raise NameTaken(f"{resource.kind} {name} exists and belongs to somebody else; delete or rename it")
