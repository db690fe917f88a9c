"""The little of the Kubernetes API that starting a cluster needs, on the standard library: get, patch, server-side apply."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from graft_devcluster.errors import ClusterError

_PLURALS = {"EndpointSlice": "endpointslices", "Ingress": "ingresses", "StorageClass": "storageclasses"}
_CLUSTER_SCOPED = {"Namespace", "Node", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "StorageClass"}


class ApiError(ClusterError):
    """The API server answered, and said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server answered {status}: {message}")
        self.status = status


class ApiClient:
    """A client with the credentials of a kubeconfig written by this package (everything inline, JSON)."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self._server: str = cluster["server"]
        self._context = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]).decode())
        # The ssl module loads a client certificate from a file only.
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
            pair.flush()
            self._context.load_cert_chain(pair.name)
        no_proxy = urllib.request.ProxyHandler({})
        self._opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=self._context))

    def get(self, path: str) -> dict[str, Any]:
        return dict(json.loads(self._send("GET", path)))

    def exists(self, path: str) -> bool:
        try:
            self._send("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def ready(self) -> bool:
        """Whether the API server answers and says it is ready to serve."""
        try:
            return self._send("GET", "/readyz", timeout=2) == b"ok"
        except (ApiError, OSError):
            return False

    def patch(self, path: str, body: object) -> None:
        self._send("PATCH", path, json.dumps(body).encode(), "application/merge-patch+json")

    def apply(self, resource: dict[str, Any]) -> None:
        """Server-side apply of one object."""
        self._apply(object_path(resource), json.dumps(resource).encode())

    def apply_yaml(self, path: str, text: bytes) -> None:
        """Server-side apply of a YAML file, which the API server itself parses."""
        self._apply(path, text)

    def _apply(self, path: str, body: bytes) -> None:
        self._send("PATCH", f"{path}?fieldManager=graft-devcluster&force=true", body, "application/apply-patch+yaml")

    def _send(self, method: str, path: str, body: bytes | None = None, content_type: str = "", timeout: float = 30) -> bytes:
        request = urllib.request.Request(self._server + path, data=body, method=method)  # noqa: S310 - always https, from our own kubeconfig
        if content_type:
            request.add_header("Content-Type", content_type)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.read().decode(errors="replace")[:1000]) from error


def object_path(resource: dict[str, Any]) -> str:
    """Where the API server keeps an object, from its apiVersion, kind, namespace and name."""
    version, kind, metadata = resource["apiVersion"], resource["kind"], resource["metadata"]
    group = f"/apis/{version}" if "/" in version else f"/api/{version}"
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    scope = "" if kind in _CLUSTER_SCOPED else f"/namespaces/{metadata['namespace']}"
    return f"{group}{scope}/{plural}/{metadata['name']}"


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)
