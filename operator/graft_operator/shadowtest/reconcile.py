"""The lines that connect observing, deciding and acting for one ShadowTest."""

import logging
from dataclasses import dataclass

from graft_api.shadowtest import shadow_endpoint
from graft_operator.engine.clock import Clock
from graft_operator.engine.controller import Outcome
from graft_operator.engine.errors import AlreadyExists, Conflict, Forbidden
from graft_operator.engine.errors import Invalid as RefusedByServer
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube
from graft_operator.engine.ownership import is_controlled_by
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import CONFIG_MAPS, MODEL_ENDPOINTS, SHADOW_TESTS
from graft_operator.engine.status import write_status
from graft_operator.modelendpoint.observe import Hearsay
from graft_operator.reports.policies import PolicyGuard
from graft_operator.shadowtest import children, decide
from graft_operator.shadowtest.observe import observe
from graft_operator.shadowtest.observed import Observed
from graft_operator.shadowtest.summarize import happenings

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShadowTests:
    """The reconciler of ShadowTests. Who is compared by which collector follows from their status: see `turns` and `settings`."""

    kube: Kube
    clock: Clock
    events: EventRecorder
    guard: PolicyGuard
    hearsay: Hearsay

    async def reconcile(self, key: Key) -> Outcome:
        """Bring one test a step further: its shadow server, then its status."""
        resource = await self.kube.get(SHADOW_TESTS, key.namespace, key.name)
        if resource is None or "deletionTimestamp" in resource["metadata"]:
            return Outcome()  # the shadow server goes with its owner
        observed = await observe(self.kube, self.guard, self.hearsay, resource)
        decision = decide.decide(observed, self.clock.now())
        decision = await self._try_to_act(observed, decision)
        for happening in happenings(observed.status, decision.status):
            await self.events.emit(resource, happening)
        await write_status(self.kube, SHADOW_TESTS, resource, decision.status.to_json())
        return Outcome(requeue_after=decision.requeue_after)

    async def _try_to_act(self, observed: Observed, decision: decide.Decision) -> decide.Decision:
        """Return the decision, or what to say instead: a refusal belongs into the status, not only into our log."""
        try:
            if decision.evidence is not None:
                await self._record(observed, decision.evidence)
            if decision.remove is not None:
                await self.kube.delete(MODEL_ENDPOINTS, observed.namespace, shadow_endpoint(observed.name), uid=decision.remove)
            if decision.create is not None:
                await self.kube.create(MODEL_ENDPOINTS, decision.create)
        except AlreadyExists as there:  # since it was read; the next pass says whose it is
            raise Conflict(str(there)) from there
        except RefusedByServer as invalid:
            refusal = decide.Refusal("InvalidSpec", invalid.told(), final=True)
        except Forbidden as forbidden:
            refusal = decide.Refusal("Forbidden", str(forbidden), final=False)
        else:
            return decision
        return decide.refused(observed, refusal, self.clock.now())

    async def _record(self, observed: Observed, evidence: children.Manifest) -> None:
        """Write it over that of a pass that was killed before its verdict was written; over nobody else's."""
        name = evidence["metadata"]["name"]
        existing = await self.kube.get(CONFIG_MAPS, observed.namespace, name)
        if existing is not None and not is_controlled_by(existing, observed.uid):
            # The verdict is not theirs to hold up. `graft report` says that it cannot be checked.
            LOG.warning("%s/%s: ConfigMap %s belongs to somebody else", observed.namespace, observed.name, name)
            return
        await self.kube.apply(CONFIG_MAPS, evidence)
