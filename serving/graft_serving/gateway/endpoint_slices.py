"""Which server pods there are, as the EndpointSlices of their headless Service say it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graft_api.dataplane import DOOR_PORT, ENDPOINT_LABEL, server_service
from graft_serving.cluster import Changed, Listed, Object


@dataclass(frozen=True)
class PodAddress:
    """Where one pod's door is."""

    address: str
    """`host:port`, an IPv6 host in brackets: what stands between `http://` and the path."""
    terminating: bool = False
    """Its requests may end, new ones go elsewhere, whatever its agent says: it may not know yet."""


def slices_of(endpoint: str) -> str:
    """
    Return the label selector of the slices with the endpoint's servers.

    Kubernetes copies the labels of a Service to its slices. Anybody's slice may say that it is of this Service; the policy
    graft-services keeps the second label for those of Kubernetes.
    """
    return f"kubernetes.io/service-name={server_service(endpoint)},{ENDPOINT_LABEL}={endpoint}"


class SliceBook:
    """The slices of one Service. A pod may be in two for a moment, while the controller moves it from one to the other."""

    def __init__(self) -> None:
        self._slices: dict[str, Object] = {}

    def take(self, event: Listed | Changed) -> dict[str, PodAddress]:
        """Return all pods, by name, after `event`."""
        if isinstance(event, Listed):
            self._slices = {_name(item): item for item in event.items}
        elif event.kind == "DELETED":
            self._slices.pop(_name(event.object), None)
        else:
            self._slices[_name(event.object)] = event.object
        return pods_of(self._slices.values())


def pods_of(slices: Iterable[Object]) -> dict[str, PodAddress]:
    """
    Return the pods in `slices`, ready or not: whether one serves is for its agent to say, which knows it at once and also
    while the API server is away.
    """
    pods: dict[str, PodAddress] = {}
    for name, found in (pod for one in slices for pod in _pods_in(one)):
        known = pods.get(name)
        if known is None or known.terminating:
            pods[name] = found
    return pods


def _pods_in(one: Object) -> Iterator[tuple[str, PodAddress]]:
    for endpoint in one.get("endpoints") or ():
        target = endpoint.get("targetRef") or {}
        if target.get("kind") == "Pod" and endpoint.get("addresses"):
            yield target["name"], PodAddress(_at_door(endpoint["addresses"][0]), _terminating(endpoint))


def _terminating(endpoint: Mapping[str, Any]) -> bool:
    return bool((endpoint.get("conditions") or {}).get("terminating"))


def _at_door(host: str) -> str:
    return f"[{host}]:{DOOR_PORT}" if ":" in host else f"{host}:{DOOR_PORT}"


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])
