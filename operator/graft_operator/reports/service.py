"""Where reports go: the EndpointSlice of a Service without a selector, written by whoever leads."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from datetime import timedelta

from graft_operator.engine.clock import Clock
from graft_operator.engine.errors import AlreadyExists, Conflict, KubeError, NotYet
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import ENDPOINT_SLICES, SERVICES, Object

PORT = 8443
EPOCH_ANNOTATION = "graft.dev/leader-epoch"
CHECK_EVERY = timedelta(seconds=30)
"""How soon a slice that somebody deleted or changed is right again."""

logger = logging.getLogger(__name__)


def endpoint_slice(namespace: str, service: Object, pod_name: str, pod_ip: str, port: int, epoch: int) -> Object:
    """The slice, owned by its Service so that it goes with it."""
    owner = {"apiVersion": "v1", "kind": "Service", "name": service["metadata"]["name"], "uid": service["metadata"]["uid"]}
    name = service["metadata"]["name"]
    labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "graft-operator"}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": {EPOCH_ANNOTATION: str(epoch)},
            "ownerReferences": [owner],
        },
        "addressType": f"IPv{ipaddress.ip_address(pod_ip).version}",
        "endpoints": [
            {
                "addresses": [pod_ip],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": pod_name, "namespace": namespace},
            }
        ],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }


def epoch_of(existing: Object | None) -> int:
    """The epoch that wrote a slice; 0 if none did."""
    annotations = ((existing or {}).get("metadata") or {}).get("annotations") or {}
    text = annotations.get(EPOCH_ANNOTATION, "0")
    return int(text) if text.isdigit() else 0


def differs(existing: Object, wanted: Object) -> bool:
    """Whether anything that we set is otherwise."""
    metadata = existing["metadata"]
    return (
        existing.get("endpoints") != wanted["endpoints"]
        or existing.get("ports") != wanted["ports"]
        or any(metadata.get(key) != wanted["metadata"][key] for key in ("labels", "ownerReferences", "annotations"))
    )


@dataclass(frozen=True)
class ReportsEndpoint:
    """Makes one replica the target of the reports Service."""

    kube: Kube
    clock: Clock
    namespace: str
    service: str
    pod_name: str
    pod_ip: str
    port: int = PORT

    async def ensure(self, epoch: int) -> None:
        """
        Point the Service at this pod, as the leader of `epoch`.

        Does nothing if a later epoch has written already. Raises `NotYet` without the Service, `Conflict` if somebody was faster.
        """
        service = await self.kube.get(SERVICES, self.namespace, self.service)
        if service is None:
            raise NotYet(f"Service {self.namespace}/{self.service} is missing: run helm upgrade", timedelta(seconds=10))
        wanted = endpoint_slice(self.namespace, service, self.pod_name, self.pod_ip, self.port, epoch)
        existing = await self.kube.get(ENDPOINT_SLICES, self.namespace, self.service)
        if existing is None:
            await self.kube.create(ENDPOINT_SLICES, wanted)
        elif existing["addressType"] != wanted["addressType"]:
            # The address family of a slice is immutable.
            await self.kube.delete(ENDPOINT_SLICES, self.namespace, self.service, uid=existing["metadata"]["uid"])
            await self.kube.create(ENDPOINT_SLICES, wanted)
        elif epoch_of(existing) <= epoch and differs(existing, wanted):
            await self._patch(existing, wanted)

    async def run(self, epoch: int) -> None:
        """Keep it right until cancelled: call this for as long as this replica leads."""
        while True:
            pause = CHECK_EVERY
            try:
                await self.ensure(epoch)
            except NotYet as wait:
                logger.warning("%s", wait)
                pause = wait.delay
            except (Conflict, AlreadyExists):
                pause = timedelta(seconds=1)
            except KubeError as error:
                logger.warning("the reports Service does not point here yet: %s", error)
                pause = timedelta(seconds=5)
            await self.clock.sleep(pause.total_seconds())

    async def _patch(self, existing: Object, wanted: Object) -> None:
        precondition = {"resourceVersion": existing["metadata"]["resourceVersion"], "uid": existing["metadata"]["uid"]}
        patch = {**wanted, "metadata": {**wanted["metadata"], **precondition}}
        await self.kube.merge_patch(ENDPOINT_SLICES, self.namespace, self.service, patch)
