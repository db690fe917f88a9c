"""
The API server, seen from a pod of the data plane: read one thing, watch a few. Nothing is ever written.

An API server that is away is normal here. A watch outlives it: it tries again for ever, and whoever reads it just hears
nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal

import aiohttp

from graft_runtime.environment import MissingSetting
from graft_serving.backoff import Backoff
from graft_serving.rotated_file import RotatedFile, authority_file, token_file
from graft_serving.sockets import kept_alive
from graft_serving.trouble import Trouble

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Object = dict[str, Any]

_LONGEST_EVENT = 16 * 1024 * 1024
"""Bytes. An object is at most 1.5 MiB in etcd; beyond this it is no API server that is talking."""


@dataclass(frozen=True)
class ApiTimes:
    """Seconds."""

    connect: float = 5.0
    answer: float = 15.0
    stream: int = 300
    """After which the API server is asked to end a watch: a fresh connection finds a balancer's healthy side again."""
    silent: float = 70.0
    """Without an event or a bookmark, which comes about once a minute: the connection is dead, whatever TCP says."""
    first_pause: float = 0.2
    longest_pause: float = 5.0
    remind: float = 60.0
    """Between two log lines about the same trouble."""


@dataclass(frozen=True)
class Listed:
    """The whole picture: what is not in here is not there any more."""

    items: tuple[Object, ...]


@dataclass(frozen=True)
class Changed:
    """One object came, changed, or went."""

    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Object


@dataclass(frozen=True)
class _Event:
    """A line of a watch."""

    kind: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object
    version: str


class ApiError(Exception):
    """The API server is away, or refuses. `status` 0: it did not answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ApiAddress:
    """Where the API server is, and how to prove who we are."""

    url: str
    token: RotatedFile[str] | None = None
    authority: RotatedFile[ssl.SSLContext] | None = None


def api_address_from(environ: Mapping[str, str]) -> ApiAddress | None:
    """
    Return the API server of the pod's cluster; None without a cluster.

    GRAFT_API_SERVER and GRAFT_SERVICE_ACCOUNT_DIRECTORY take the place of what the kubelet provides.
    """
    folder = Path(environ.get("GRAFT_SERVICE_ACCOUNT_DIRECTORY", SERVICE_ACCOUNT))
    url = environ.get("GRAFT_API_SERVER") or _in_cluster_url(environ)
    if url is None:
        return None
    if not url.startswith(("http://", "https://")):
        raise MissingSetting("GRAFT_API_SERVER must be a http:// or https:// address")
    authority = authority_file(folder / "ca.crt") if url.startswith("https:") else None
    return ApiAddress(url.rstrip("/"), token_file(folder / "token") if authority else None, authority)


def _in_cluster_url(environ: Mapping[str, str]) -> str | None:
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class ApiServer:
    """One HTTP session. Open it with `async with`."""

    def __init__(self, address: ApiAddress, random: Random, times: ApiTimes | None = None) -> None:
        self._address = address
        self._random = random
        self._times = times or ApiTimes()
        self._session: aiohttp.ClientSession | None = None
        self._contact: float | None = None

    async def __aenter__(self) -> ApiServer:
        # The cluster's keys come as application/jwk-set+json alone: asked for JSON only, the API server answers 406.
        headers = {"User-Agent": "graft-serving", "Accept": "application/json, */*", "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(keepalive_timeout=30, socket_factory=kept_alive), headers=headers
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session:
            await self._session.close()

    @property
    def silent_seconds(self) -> float | None:
        """Since the API server last said anything. None: it never did."""
        return None if self._contact is None else asyncio.get_running_loop().time() - self._contact

    @property
    def away(self) -> bool:
        """Whether it has been silent for longer than a watch of a living API server ever is."""
        silent = self.silent_seconds
        return silent is None or silent > self._times.silent

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object | None:
        """Return the object at `path`, None if nothing is there. Raises `ApiError`."""
        try:
            return _object(await self.read(path, params))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        except ValueError as error:
            raise ApiError(f"{path}: not JSON") from error

    async def read(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """Return the body of what is at `path`, as it comes. Raises `ApiError`, for 404 too."""
        limits = aiohttp.ClientTimeout(total=self._times.answer, sock_connect=self._times.connect)
        try:
            async with await self._request(path, params or {}, limits) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(f"{path}: {type(error).__name__}") from error
        self._heard()
        _check(path, response.status, body)
        return body

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncIterator[Listed | Changed]:
        """
        Yield the whole picture, then every change, for ever; after an interruption the whole picture again.

        Never raises for an API server that is away, refuses, forgets (410) or falls silent.
        """
        backoff = Backoff(self._times.first_pause, self._times.longest_pause, self._random)
        trouble = Trouble("watch", self._times.remind)
        version: str | None = None
        while True:
            try:
                if version is None:
                    version, items = await self._list(path, params)
                    yield Listed(items)
                async with aclosing(self._stream(path, params, version)) as events:
                    async for event in events:
                        backoff.reset()
                        trouble.over()
                        version = event.version
                        if event.kind != "BOOKMARK":
                            yield Changed(event.kind, event.object)
            except ApiError as error:
                # After a restored backup numbers go backwards, and a watch from a later number hears nothing, for ever: list again.
                version = None
                trouble.met(str(error))
            await asyncio.sleep(backoff.next())

    async def _list(self, path: str, params: Mapping[str, str]) -> tuple[str, tuple[Object, ...]]:
        answer = await self.get(path, params)
        try:
            if answer is None:
                raise ApiError(f"{path}: not found", HTTPStatus.NOT_FOUND)
            return str(answer["metadata"]["resourceVersion"]), tuple(answer.get("items") or ())
        except (KeyError, TypeError) as error:
            raise ApiError(f"{path}: not a list") from error

    async def _stream(self, path: str, params: Mapping[str, str], version: str) -> AsyncGenerator[_Event, None]:
        """Yield the events of one connection. Ends when the API server ends it in order; raises `ApiError` otherwise."""
        query = {**params, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
        query["timeoutSeconds"] = str(max(1, int(self._times.stream * (0.8 + 0.4 * self._random.random()))))
        limits = aiohttp.ClientTimeout(sock_connect=self._times.connect, sock_read=self._times.silent)
        try:
            async with await self._request(path, query, limits) as response:
                self._heard()
                if response.status != HTTPStatus.OK:
                    _check(path, response.status, await response.content.read(2000))
                async for line in _lines(response.content):
                    self._heard()
                    yield _event(path, line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            raise ApiError(f"{path}: {type(error).__name__}") from error

    async def _request(self, path: str, params: Mapping[str, str], limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send a GET and read the answer's head. The token and the authority are read again when their files have changed."""
        assert self._session, "not open"  # noqa: S101 - a mistake of ours
        token, authority = self._address.token, self._address.authority
        headers = {"Authorization": f"Bearer {token.read()}"} if token else {}
        tls = authority.read() if authority else True
        url = self._address.url + path
        return await self._session.get(url, params=params, headers=headers, ssl=tls, timeout=limits, allow_redirects=False)

    def _heard(self) -> None:
        self._contact = asyncio.get_running_loop().time()


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Split by line. Not `readline`, which refuses lines longer than its buffer, and a ConfigMap is one line."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *lines, tail = rest.split(b"\n")
            rest = bytearray(tail)
            for line in lines:
                if line:
                    yield bytes(line)
        if len(rest) > _LONGEST_EVENT:
            raise ValueError("an event without end")


def _event(path: str, line: bytes) -> _Event:
    """Raises `ApiError` for an event that says so, KeyError or TypeError for what is none."""
    event = _object(line)
    kind, item = event["type"], event["object"]
    if kind == "ERROR":
        raise ApiError(f"{path}: error {item.get('code', 0)} in the stream", item.get("code", 0))
    return _Event(kind, item, str(item["metadata"]["resourceVersion"]))


def _check(path: str, status: int, body: bytes) -> None:
    if status != HTTPStatus.OK:
        raise ApiError(f"{path}: status {status} {_reason(body)}".rstrip(), status)


def _reason(body: bytes) -> str:
    """Return the Status object's reason; a proxy in between may answer with anything."""
    try:
        return str(_object(body).get("reason", ""))[:100]
    except ValueError:
        return ""


def _object(body: bytes) -> Object:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
