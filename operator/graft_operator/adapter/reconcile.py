"""The lines that connect observing, deciding and acting for one Adapter."""

import asyncio
from dataclasses import dataclass
from typing import Any

from graft_api.adapter import FINALIZER, AdapterSpec, AdapterStatus
from graft_api.dataplane import ledger_name, routes_name
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointStatus
from graft_api.schema import Invalid, parse
from graft_operator.adapter import decide
from graft_operator.adapter.observed import Endpoint, Observed, Unreadable
from graft_operator.engine.clock import Clock
from graft_operator.engine.controller import Outcome
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, MODEL_ENDPOINTS
from graft_operator.engine.status import write_status
from graft_operator.modelendpoint.observe import Hearsay, read_ledger, read_routes, read_spec, server_pods

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Adapters:
    """The reconciler of Adapters: it says where an adapter is. What serves is the ModelEndpoint's decision."""

    kube: Kube
    clock: Clock
    events: EventRecorder
    hearsay: Hearsay

    async def reconcile(self, key: Key) -> Outcome:
        """Bring one adapter a step further."""
        resource = await self.kube.get(ADAPTERS, key.namespace, key.name)
        if resource is None:
            return Outcome()
        observed = await self._observe(resource)
        decision = decide.decide(observed, self.clock.now())
        if decision.finalizer != observed.has_finalizer:
            resource = await self._set_finalizer(resource, present=decision.finalizer)
            if observed.deleting_since is not None and not decision.finalizer:
                return Outcome()
        for happening in decide.happenings(observed.status, decision.status):
            await self.events.emit(resource, happening)
        await write_status(self.kube, ADAPTERS, resource, decision.status.to_json())
        return Outcome(requeue_after=decision.requeue_after)

    async def _observe(self, resource: Manifest) -> Observed | Unreadable:
        metadata = resource["metadata"]
        namespace, spec = metadata["namespace"], _spec(resource)
        if isinstance(spec, Invalid):
            return Unreadable(
                generation=metadata["generation"],
                spec=spec,
                status=parse(AdapterStatus, resource.get("status") or {}),
                deleting_since=metadata.get("deletionTimestamp"),
                has_finalizer=FINALIZER in (metadata.get("finalizers") or []),
            )
        endpoint_key = Key(namespace, spec.endpoint_ref.name)
        endpoint, routes, ledger, servers = await asyncio.gather(
            self.kube.get(MODEL_ENDPOINTS, namespace, endpoint_key.name),
            self.kube.get(CONFIG_MAPS, namespace, routes_name(endpoint_key.name)),
            self.kube.get(CONFIG_MAPS, namespace, ledger_name(endpoint_key.name)),
            server_pods(self.kube, self.hearsay, endpoint_key),
        )
        return Observed(
            namespace=namespace,
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata["generation"],
            spec=spec,
            status=parse(AdapterStatus, resource.get("status") or {}),
            deleting_since=metadata.get("deletionTimestamp"),
            has_finalizer=FINALIZER in (metadata.get("finalizers") or []),
            endpoint=_endpoint(endpoint, read_ledger(ledger, endpoint_key.name)[0], spec.domain),
            routes=read_routes(routes, endpoint_key.name)[0],
            servers=[pod for pod in servers if not pod.terminating],
            created_at=metadata["creationTimestamp"],
            listening=self.hearsay.listening(),
        )

    async def _set_finalizer(self, resource: Manifest, *, present: bool) -> Manifest:
        """Add or remove ours, on top of exactly what was read: others' finalizers stay."""
        metadata = resource["metadata"]
        others = [name for name in metadata.get("finalizers") or [] if name != FINALIZER]
        patch = {
            "metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": [*others, FINALIZER] if present else others or None}
        }
        return await self.kube.merge_patch(ADAPTERS, metadata["namespace"], metadata["name"], patch)


def _spec(resource: Manifest) -> AdapterSpec | Invalid:
    try:
        return parse(AdapterSpec, resource.get("spec"))
    except Invalid as invalid:
        return Invalid([f"spec.{problem}" for problem in invalid.problems])


def _endpoint(resource: Manifest | None, ledger: Ledger | None, domain: str) -> Endpoint | None:
    if resource is None:
        return None
    spec, status = read_spec(resource), parse(ModelEndpointStatus, resource.get("status") or {})
    named = None if isinstance(spec, Invalid) else spec.base_model.digest
    return Endpoint(
        spec=spec,
        base_digest=named or (ledger.base_digest if ledger else None),
        deleting="deletionTimestamp" in resource["metadata"],
        entry=ledger.domain(domain) if ledger else None,
        told=next((told for told in status.domains or [] if told.name == domain), None),
    )
