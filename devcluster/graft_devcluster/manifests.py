"""The objects a fresh cluster needs: what its components may do, what runs on the node as Services. Pure: settings in, dicts out."""

from __future__ import annotations

from typing import Any

from graft_devcluster.settings import Port, Settings

NAMESPACE = "graft-dev"
S3_SERVICE_URL = f"http://s3.{NAMESPACE}.svc"
RBAC = "rbac.authorization.k8s.io"


def all_objects(settings: Settings, s3_secret: dict[str, str]) -> list[dict[str, Any]]:
    # Embeddings: the demo's own, while it runs.
    ports = {"s3": Port.S3, "prometheus": Port.PROMETHEUS, "embeddings": Port.EMBEDDINGS}
    services = [part for name, port in ports.items() for part in on_node(settings, name, port)]
    return [*kubelet_access(), *cluster_dns(), *scraping(), namespace(), *services, secret("s3-credentials", s3_secret)]


def kubelet_access() -> list[dict[str, Any]]:
    """The API server's own identity may use the kubelet's API: without it there are no logs and no exec.

    The kubelet itself needs nothing: the node authorizer decides about it.
    """
    return [_bind("graft:kubelet-api", "system:kubelet-api-admin", "kube-apiserver-kubelet-client")]


def cluster_dns() -> list[dict[str, Any]]:
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": "graft:coredns"}, "rules": rules}
    return [role, _bind("graft:coredns", "graft:coredns", "system:coredns")]


def scraping() -> list[dict[str, Any]]:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    role = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": "graft:prometheus"}, "rules": rules}
    return [role, _bind("graft:prometheus", "graft:prometheus", "graft-prometheus")]


def namespace() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def on_node(settings: Settings, name: str, port: Port) -> list[dict[str, Any]]:
    """A Service without a selector that leads to a daemon on the node's address."""
    metadata, kubernetes = {"name": name, "namespace": NAMESPACE}, "kubernetes.io"
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"name": "http", "port": 80}]}}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            **metadata,
            "labels": {f"{kubernetes}/service-name": name, f"endpointslice.{kubernetes}/managed-by": "graft-devcluster"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": settings.port(port), "protocol": "TCP"}],
        "endpoints": [{"addresses": [str(settings.node_address)], "conditions": {"ready": True}}],
    }
    return [service, endpoints]


def secret(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data}


def _bind(name: str, role: str, user: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
    }
