"""
What stands around a ModelEndpoint's pods: Services, accounts, rights, disruption budgets, network policies. Pure builders.

With `server.existing` the server pods are the user's: they have an account and rights of their own, and a budget or network policy
of graft's might contradict the user's.
"""

from dataclasses import dataclass

from graft_api import dataplane as plane
from graft_api.collect import COLLECTOR
from graft_api.drift import DRIFT
from graft_api.modelendpoint import ModelEndpointSpec
from graft_operator.modelendpoint.parent import Manifest, Parent, gateway_name, server_account, server_name

CLIENT_PORT = 80


@dataclass(frozen=True)
class Companions:
    """What must be there, in the order in which it is needed, and what must not (any more)."""

    wanted: list[Manifest]
    unwanted: list[Manifest]


def companions(parent: Parent, spec: ModelEndpointSpec, *, drift: bool = False) -> Companions:
    """
    Return everything beside Deployments and records; and of Deployments the one that `server.existing` replaces.

    `drift`: Jobs that measure it ask the servers, too.
    """
    ours = spec.server.existing is None
    choices = [
        (ours, service_account(parent, plane.SERVER)),
        # Also for the user's pods, who binds it to the account that they run as: see `graft inject`.
        (True, role(parent, plane.SERVER)),
        (ours, role_binding(parent, plane.SERVER, server_account(parent, spec))),
        (ours, server_network_policy(parent, spec, drift=drift)),
        (True, headless_service(parent)),
        # With one replica a budget could only block drains of nodes.
        (ours and spec.replicas > 1, budget(parent, plane.SERVER)),
        *([] if spec.shadow else _of_gateways(parent, spec)),
    ]
    former = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": server_name(parent), "namespace": parent.namespace}}
    return Companions(
        wanted=[manifest for wanted, manifest in choices if wanted],
        unwanted=[manifest for wanted, manifest in choices if not wanted] + ([] if ours else [former]),
    )


def _of_gateways(parent: Parent, spec: ModelEndpointSpec) -> list[tuple[bool, Manifest]]:
    return [
        (True, service_account(parent, plane.GATEWAY)),
        (True, role(parent, plane.GATEWAY)),
        (True, role_binding(parent, plane.GATEWAY, plane.gateway_account(parent.name))),
        (True, gateway_network_policy(parent)),
        (True, client_service(parent)),
        (spec.gateway.replicas > 1, budget(parent, plane.GATEWAY)),
    ]


def service_account(parent: Parent, component: str) -> Manifest:
    """Build an account. Its API token is mounted by name, into the one container that needs it."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": parent.metadata(_account(parent, component), component),
        "automountServiceAccountToken": False,
    }


def role(parent: Parent, component: str) -> Manifest:
    """Build what a component may read: the routes of its endpoint; gateways also where server pods are."""
    verbs = ["get", "list", "watch"]
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [plane.routes_name(parent.name)], "verbs": verbs}]
    if component == plane.GATEWAY:
        # Slices have names that nobody knows before.
        rules.append({"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs})
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": parent.metadata(_account(parent, component), component),
        "rules": rules,
    }


def role_binding(parent: Parent, component: str, account: str) -> Manifest:
    """Bind the role of its name."""
    name = _account(parent, component)
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": parent.metadata(name, component),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": parent.namespace}],
    }


def headless_service(parent: Parent) -> Manifest:
    """Build the Service whose EndpointSlices tell gateways where the doors are."""
    port = {"name": "door", "protocol": "TCP", "port": plane.DOOR_PORT, "targetPort": plane.DOOR_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": parent.metadata(plane.server_service(parent.name), plane.SERVER),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": parent.selector(plane.SERVER),
            "ports": [port],
        },
    }


def client_service(parent: Parent) -> Manifest:
    """Build the Service that clients use. Metrics are not on it: it would answer with one replica's numbers."""
    port = {"name": "http", "protocol": "TCP", "port": CLIENT_PORT, "targetPort": plane.GATEWAY_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": parent.metadata(plane.gateway_service(parent.name), plane.GATEWAY),
        "spec": {"type": "ClusterIP", "selector": parent.selector(plane.GATEWAY), "ports": [port]},
    }


def budget(parent: Parent, component: str) -> Manifest:
    """Let drains of nodes take one pod at a time, and pods that are not ready at any time: those serve nobody."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": parent.metadata(_pods(parent, component), component),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": parent.selector(component)},
        },
    }


def server_network_policy(parent: Parent, spec: ModelEndpointSpec, *, drift: bool = False) -> Manifest:
    """
    Let the endpoint's own gateways and drift Jobs reach the doors, or of a shadow server the collector that it is for.

    The kubelet's probes and hooks are always let through.
    """
    asking = parent.selector(plane.GATEWAY)
    if spec.shadow:
        asking = {plane.COMPONENT_LABEL: COLLECTOR, plane.ENDPOINT_LABEL: spec.shadow.endpoint}
    asked_by = [asking, *([parent.selector(DRIFT)] if drift else [])]
    peers = [{"podSelector": {"matchLabels": labels}} for labels in asked_by]
    return _network_policy(parent, plane.SERVER, {"from": peers, "ports": ports(plane.DOOR_PORT)})


def gateway_network_policy(parent: Parent) -> Manifest:
    """Let everybody reach the two ports of gateways: who may ask is decided by API keys."""
    return _network_policy(parent, plane.GATEWAY, {"ports": ports(plane.GATEWAY_PORT, plane.GATEWAY_METRICS_PORT)})


def _network_policy(parent: Parent, component: str, let_in: Manifest) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": parent.metadata(_pods(parent, component), component),
        "spec": {"podSelector": {"matchLabels": parent.selector(component)}, "policyTypes": ["Ingress"], "ingress": [let_in]},
    }


def ports(*numbers: int) -> list[Manifest]:
    """Return TCP ports as a NetworkPolicy lists them."""
    return [{"protocol": "TCP", "port": number} for number in numbers]


def _account(parent: Parent, component: str) -> str:
    return (plane.server_account if component == plane.SERVER else plane.gateway_account)(parent.name)


def _pods(parent: Parent, component: str) -> str:
    return server_name(parent) if component == plane.SERVER else gateway_name(parent)
