"""
The gateway to the API server: the one module that talks to it. Dicts in, dicts out.

Every call has a timeout, a get of what is not there is None, and what goes wrong is one of `errors.py`. Nothing is
retried here: the work queue does that, with back-off. Why not the `kubernetes` package: docs/decisions/0001.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from types import TracebackType
from typing import Literal

import aiohttp

from graft_operator.engine.credentials import Credentials
from graft_operator.engine.errors import (
    AlreadyExists,
    Cause,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Unauthorized,
    Unavailable,
)
from graft_operator.engine.resources import Object, Resource

logger = logging.getLogger(__name__)

FIELD_MANAGER = "graft"

_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML

Objects = list[Object]  # inside Kube, `list` is a method
Propagation = Literal["Foreground", "Background", "Orphan"]


@dataclass(frozen=True)
class Selection:
    """Which objects of a kind: a namespace (None: all) and server-side selectors."""

    namespace: str | None = None
    labels: str = ""
    fields: str = ""

    def query(self) -> dict[str, str]:
        pairs = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: value for name, value in pairs.items() if value}


EVERYTHING = Selection()


class Kube:
    """One HTTP session to one API server. `before_write` is called before every write and raises if it must not happen."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        timeout: timedelta = timedelta(seconds=20),
        before_write: Callable[[], None] | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self.credentials = credentials
        self._timeout = timeout
        self._before_write = before_write
        self._session = session or credentials.open_session()
        self._warned: set[str] = set()

    async def __aenter__(self) -> Kube:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()

    def fenced(self, before_write: Callable[[], None]) -> Kube:
        """The same session for whoever may write only while `before_write` does not raise (see Leadership.check)."""
        return Kube(self.credentials, timeout=self._timeout, before_write=before_write, session=self._session)

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows the kind, in this version."""
        found = await self._read(resource.root, {})
        return found is not None and any(entry["name"] == resource.plural for entry in found["resources"])

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        return await self._read(resource.path(namespace, name), {})

    async def list(self, resource: Resource, selection: Selection = EVERYTHING, *, page: int = 250) -> Objects:
        """All of them, read page by page as of one moment. Starts over when that moment is too long ago (410)."""
        while True:
            try:
                return [item async for item in self._pages(resource, selection, page)]
            except Gone:
                logger.info("list of %s took too long, starting over", resource.plural)

    async def list_metadata(self, resource: Resource, selection: Selection = EVERYTHING, *, page: int = 500) -> AsyncIterator[Object]:
        """Their `metadata` only, one page in memory at a time. After a 410 an object may come a second time."""
        while True:
            try:
                async for item in self._pages(resource, selection, page, accept=_METADATA_LIST):
                    yield item["metadata"]
            except Gone:
                logger.info("list of %s took too long, starting over", resource.plural)
                continue
            return

    async def create(self, resource: Resource, body: Object) -> Object:
        """Create, never change: AlreadyExists if the name is taken. Cluster-scoped reviews (TokenReview) go here too."""
        path = resource.path(body["metadata"].get("namespace") if resource.namespaced else None)
        return await self._write("POST", path, body=_complete(resource, body), query=_STRICT)

    async def apply(self, resource: Resource, body: Object, *, force: bool = True, subresource: str | None = None) -> Object:
        """Server-side apply of exactly the fields in `body`, which graft owns from then on."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"], subresource)
        query = {**_STRICT, "force": "true" if force else "false"}
        return await self._write("PATCH", path, body=_complete(resource, body), query=query, content_type=_APPLY_PATCH)

    async def merge_patch(
        self, resource: Resource, namespace: str | None, name: str, patch: Object, *, subresource: str | None = None
    ) -> Object:
        """JSON merge patch. With `metadata.resourceVersion` in it, Conflict if the object has changed since."""
        path = resource.path(namespace, name, subresource)
        return await self._write("PATCH", path, body=patch, query=_MANAGED, content_type=_MERGE_PATCH)

    async def json_patch(
        self, resource: Resource, namespace: str | None, name: str, operations: Objects, *, subresource: str | None = None
    ) -> Object:
        """RFC 6902. A failed `test` operation is Invalid, not Conflict: that is how the API server answers."""
        path = resource.path(namespace, name, subresource)
        return await self._write("PATCH", path, body=operations, query=_MANAGED, content_type=_JSON_PATCH)

    async def replace_status(self, resource: Resource, body: Object) -> Object:
        """PUT of the status of an object that was read before: Conflict if it has changed since."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"], "status")
        return await self._write("PUT", path, body=_complete(resource, body), query=_MANAGED)

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        propagation: Propagation = "Background",
        uid: str | None = None,
    ) -> bool:
        """True if it was there. With `uid`, Conflict if the name belongs to another object by now."""
        options: Object = {"propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._write("DELETE", resource.path(namespace, name), body=options)
        except NotFound:
            return False
        return True

    async def _pages(self, resource: Resource, selection: Selection, page: int, accept: str | None = None) -> AsyncIterator[Object]:
        query = {**selection.query(), "limit": str(page)}
        headers = {"Accept": accept} if accept else {}
        while True:
            answer = await self._send("GET", resource.path(selection.namespace), query=query, headers=headers)
            for item in answer["items"] or ():  # an empty metadata list has null items
                yield item
            token = answer["metadata"].get("continue")
            del answer  # else two pages are in memory while the next one is read
            if not token:
                return
            query["continue"] = token

    async def _read(self, path: str, query: Mapping[str, str]) -> Object | None:
        try:
            return await self._send("GET", path, query=query)
        except NotFound:
            return None

    async def _write(
        self, method: str, path: str, *, body: object, query: Mapping[str, str] | None = None, content_type: str = "application/json"
    ) -> Object:
        if self._before_write:
            self._before_write()
        return await self._send(method, path, query=query or {}, headers={"Content-Type": content_type}, body=body)

    async def _send(
        self, method: str, path: str, *, query: Mapping[str, str], headers: Mapping[str, str] | None = None, body: object = None
    ) -> Object:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        timeout = aiohttp.ClientTimeout(total=self._timeout.total_seconds())
        url = self.credentials.server + path
        try:
            async with self._session.request(method, url, params=query, headers=headers, data=data, timeout=timeout) as response:
                text = await response.read()
                self._warn_once(response.headers)
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            raise Unavailable(f"{method} {path}: {type(error).__name__} {error}".rstrip()) from error
        if status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(f"{method} {path}", status, text, retry_after)
        return dict(json.loads(text))

    def _warn_once(self, headers: Mapping[str, str]) -> None:
        """Deprecations and unknown fields, which the API server reports in a header."""
        warning = headers.get("Warning")
        if warning and warning not in self._warned and len(self._warned) < 100:
            self._warned.add(warning)
            logger.warning("the API server warns: %s", warning)


_MANAGED = {"fieldManager": FIELD_MANAGER}
_STRICT = {**_MANAGED, "fieldValidation": "Strict"}


def _complete(resource: Resource, body: Object) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, **body}


def _refusal(request: str, code: int, text: bytes, retry_after: str | None) -> KubeError:
    """The error for an answer of 400 and above, from the Status object that comes with it."""
    status = _status(text)
    reason = str(status.get("reason", ""))
    details = status.get("details") or {}
    message = f"{request}: {code} {reason}: {status.get('message', '')}"[:2000]
    if code == HTTPStatus.TOO_MANY_REQUESTS or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        seconds = retry_after or details.get("retryAfterSeconds")
        delay = timedelta(seconds=float(seconds)) if seconds and str(seconds).isdigit() else None
        return Unavailable(message, code=code, reason=reason, retry_after=delay)
    causes = tuple(Cause(c.get("field", ""), c.get("message", ""), c.get("reason", "")) for c in details.get("causes") or [])
    return _kind_of(code, reason)(message, code=code, reason=reason, causes=causes)


def _status(text: bytes) -> Object:
    """The Status object; a proxy in between, or the API server while it starts, may answer with plain text."""
    try:
        status = json.loads(text)
    except ValueError:
        return {"message": text[:200].decode(errors="replace")}
    return status if isinstance(status, dict) else {}


def _kind_of(code: int, reason: str) -> type[KubeError]:
    if reason == "AlreadyExists":
        return AlreadyExists
    kinds: dict[int, type[KubeError]] = {
        HTTPStatus.BAD_REQUEST: Invalid,
        HTTPStatus.UNAUTHORIZED: Unauthorized,
        HTTPStatus.FORBIDDEN: Forbidden,
        HTTPStatus.NOT_FOUND: NotFound,
        HTTPStatus.CONFLICT: Conflict,
        HTTPStatus.GONE: Gone,
        HTTPStatus.UNPROCESSABLE_ENTITY: Invalid,
    }
    return kinds.get(code, KubeError)
