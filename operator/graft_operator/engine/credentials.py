"""Who the operator is to the API server: its service account in the cluster, or a context of a kubeconfig outside."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import yaml
from aiohttp.client_proto import ResponseHandler

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_TOKEN_LIFETIME = 60.0
"""Seconds for which a token file is not read again. The kubelet rotates at 80 % of an hour; client-go reads once a minute."""


class Token(Protocol):
    """Where a bearer token comes from."""

    def read(self, *, fresh: bool = False) -> str:
        """The token; with `fresh`, not the one remembered: the API server has just refused that."""


class FixedToken:
    """A token from a kubeconfig."""

    def __init__(self, token: str) -> None:
        self._token = token

    def read(self, *, fresh: bool = False) -> str:
        return self._token


class TokenFile:
    """A projected service-account token, which the kubelet replaces while we run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""
        self._read_at = -_TOKEN_LIFETIME

    def read(self, *, fresh: bool = False) -> str:
        if fresh or time.monotonic() - self._read_at >= _TOKEN_LIFETIME:
            self._token = self._path.read_text().strip()
            self._read_at = time.monotonic()
        return self._token


def _bearer(token: Token) -> aiohttp.ClientMiddlewareType:
    """Send the token; when it is refused, read it again and try once more."""

    async def authorize(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = f"Bearer {token.read()}"
        response = await handler(request)
        if response.status != HTTPStatus.UNAUTHORIZED:
            return response
        response.release()
        request.headers["Authorization"] = f"Bearer {token.read(fresh=True)}"
        return await handler(request)

    return authorize


class Response(aiohttp.ClientResponse):
    """
    A response whose connection is cut when it is given up before its end, as every watch is.

    TLS's farewell waits for that of the other side: an event loop that ends meanwhile would leave a socket open.
    """

    def close(self) -> None:
        if (protocol := self._open()) is not None:
            protocol.abort()
        super().close()

    def release(self) -> object:
        if (protocol := self._open()) is not None and protocol.should_close:
            protocol.abort()
        return super().release()

    def _open(self) -> ResponseHandler | None:
        return self.connection.protocol if self.connection else None


@dataclass(frozen=True)
class Credentials:
    """Where the API server is and how to prove who we are. Nothing secret is in the repr."""

    server: str
    namespace: str
    tls: ssl.SSLContext
    token: Token | None = None

    def open_session(self, traces: Sequence[aiohttp.TraceConfig] = ()) -> aiohttp.ClientSession:
        """A session that proves who we are on every request. The caller closes it."""
        return aiohttp.ClientSession(
            # keep-alive below that of any load balancer in front of the API server, so that it is us who close first
            connector=aiohttp.TCPConnector(limit=100, ssl=self.tls, keepalive_timeout=30),
            headers={"User-Agent": "graft-operator", "Accept": "application/json", "Accept-Encoding": "identity"},
            middlewares=(_bearer(self.token),) if self.token else (),
            trace_configs=list(traces),
            response_class=Response,
        )


def load_credentials(kubeconfig: Path | None = None, environ: Mapping[str, str] = os.environ) -> Credentials:
    """The kubeconfig if one is named, else the pod's service account."""
    return from_kubeconfig(kubeconfig) if kubeconfig else from_service_account(SERVICE_ACCOUNT, environ)


def from_service_account(folder: Path, environ: Mapping[str, str]) -> Credentials:
    """As client-go's InClusterConfig: address from the environment, CA and rotated token from the projected volume."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ValueError("not in a pod (KUBERNETES_SERVICE_HOST is not set): name a kubeconfig")
    address = f"[{host}]" if ":" in host else host
    return Credentials(
        server=f"https://{address}:{port}",
        namespace=(folder / "namespace").read_text().strip(),
        tls=ssl.create_default_context(cafile=str(folder / "ca.crt")),
        token=TokenFile(folder / "token"),
    )


def from_kubeconfig(path: Path) -> Credentials:
    """The current context. Client certificates, tokens and token files; no exec plugins."""
    document = yaml.safe_load(path.read_text())
    context = _named(document, "contexts", document.get("current-context", ""))["context"]
    cluster = _named(document, "clusters", context["cluster"])["cluster"]
    user = _named(document, "users", context["user"])["user"] or {}
    if "exec" in user or "auth-provider" in user:
        raise ValueError(f"{path}: user {context['user']!r} needs a program to log in; give it a token or a client certificate")
    return Credentials(
        server=cluster["server"].rstrip("/"),
        namespace=context.get("namespace", "default"),
        tls=_tls(cluster, user, path.parent),
        token=_token(user, path.parent),
    )


def _named(document: Mapping[str, Any], section: str, name: str) -> dict[str, Any]:
    for entry in document.get(section) or []:
        if entry["name"] == name:
            return dict(entry)
    raise ValueError(f"the kubeconfig has no {name!r} in {section}")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    authority = _data(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _data(user, "client-certificate", folder), _data(user, "client-key", folder)
    if certificate and key:
        # The ssl module loads a client certificate from a file only.
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(certificate + b"\n" + key)
            pair.flush()
            context.load_cert_chain(pair.name)
    return context


def _data(entry: Mapping[str, Any], field: str, folder: Path) -> bytes | None:
    """A field that holds a path relative to the kubeconfig, or `<field>-data` in base64."""
    if entry.get(f"{field}-data"):
        return base64.b64decode(entry[f"{field}-data"])
    return (folder / entry[field]).read_bytes() if entry.get(field) else None


def _token(user: Mapping[str, Any], folder: Path) -> Token | None:
    if user.get("tokenFile"):
        return TokenFile(folder / str(user["tokenFile"]))
    return FixedToken(str(user["token"])) if user.get("token") else None
