"""
Asking a Prometheus for one number.

Whoever may write a TuningPolicy makes the operator speak to the address that they name. So it says little (one POST to a fixed path, no
credentials but the chart's own to the chart's own server), goes nowhere else (no redirects, nothing on this machine or its link), takes
little (64 KiB, ten seconds), and tells no more of the answer than a number or the server's own error.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

ANSWER_BYTES = 65_536
SECONDS = 10.0
"""Of one query."""
SAID = 200
"""Characters of a server's error that are kept."""


class Unreadable(Exception):  # noqa: N818 - a statement about the answer
    """There is no number, and why. `away`: the server does not answer at all, so that asking it more is no use."""

    def __init__(self, why: str, *, away: bool = False) -> None:
        super().__init__(why)
        self.away = away


@dataclass(frozen=True)
class Server:
    """Where to ask."""

    url: str
    authority: str | None = None
    """PEM. None: the authorities that everybody trusts."""
    token_file: Path | None = None
    """Of the chart's own server. Read anew each time: the kubelet rotates it."""
    authority_file: Path | None = None
    """Likewise."""
    anywhere: bool = False
    """The chart's own server may be on this machine."""


def is_local(address: str) -> bool:
    """Whether an IP address is this machine's, or its link's, where clouds keep their metadata."""
    found = ipaddress.ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast


class _Elsewhere(AbstractResolver):
    """Names that lead to an address that must not be asked lead nowhere. Checked where it is connected to: a name may change in between."""

    def __init__(self, forbidden: Callable[[str], bool]) -> None:
        self._resolver = ThreadedResolver()
        self._forbidden = forbidden

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:  # noqa: ANN401 - socket.AddressFamily
        found = [one for one in await self._resolver.resolve(host, port, family) if not self._forbidden(one["host"])]
        if not found:
            raise OSError(None, f"{host} is on this machine or its link")
        return found

    async def close(self) -> None:
        await self._resolver.close()


@dataclass(frozen=True)
class Prometheus:
    """Asks. Without state: each question has a connection of its own, for they are minutes apart."""

    seconds: float = SECONDS
    forbidden: Callable[[str], bool] = is_local

    async def number(self, server: Server, query: str) -> float | None:
        """Return the one number that the query gives now, by the server's clock; None: it gives no series. Raises `Unreadable`."""
        status, content = await self._post(server, query)
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise Unreadable(f"{server.url} answered {status} without JSON: is it a Prometheus, and is its path complete?") from error
        return read_number(answer, status)

    async def _post(self, server: Server, query: str) -> tuple[int, bytes]:
        self._check(server)
        # In a thread: to read everybody's authorities takes a while.
        headers, tls = _token(server), await asyncio.to_thread(_tls, server) if server.url.startswith("https:") else True
        resolver = None if server.anywhere else _Elsewhere(self.forbidden)
        connector = aiohttp.TCPConnector(ssl=tls, resolver=resolver, force_close=True)
        form = {"query": query, "timeout": f"{math.ceil(self.seconds)}s"}
        timeout = aiohttp.ClientTimeout(total=self.seconds)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session,
                session.post(f"{server.url}/api/v1/query", data=form, allow_redirects=False) as response,
            ):
                return response.status, await _bounded(response.content, server)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = "no answer" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            raise Unreadable(f"{server.url} cannot be asked: {why[:SAID]}", away=True) from error

    def _check(self, server: Server) -> None:
        """Refuse an address that is written as a number; `_Elsewhere` sees names alone."""
        host = URL(server.url).host or ""
        try:
            local = self.forbidden(host)
        except ValueError:
            return  # a name
        if local and not server.anywhere:
            raise Unreadable(f"{server.url} is on this machine or its link: name a server of the cluster", away=True)


async def _bounded(content: aiohttp.StreamReader, server: Server) -> bytes:
    found = b""
    async for part in content.iter_chunked(ANSWER_BYTES):
        found += part
        if len(found) > ANSWER_BYTES:
            raise Unreadable(f"{server.url} answered more than {ANSWER_BYTES // 1024} KiB: aggregate the query to one series, with sum()")
    return found


def _token(server: Server) -> dict[str, str]:
    if server.token_file is None:
        return {}
    try:
        return {"Authorization": f"Bearer {server.token_file.read_text().strip()}"}
    except OSError as error:
        raise Unreadable(f"the token of the chart's prometheus cannot be read: {error.strerror}", away=True) from error


def _tls(server: Server) -> ssl.SSLContext:
    try:
        authority = server.authority_file.read_text() if server.authority_file else server.authority
        return ssl.create_default_context(cadata=authority)
    except OSError as error:  # an SSLError is one, too
        raise Unreadable(f"{server.url}: its authority is no PEM certificate: {error.strerror or error}", away=True) from error


def read_number(answer: Any, status: int) -> float | None:  # noqa: ANN401 - JSON of others
    """Return the number of an answer of `/api/v1/query`; None: no series. Raises `Unreadable`."""
    if not isinstance(answer, dict) or answer.get("status") not in {"success", "error"}:
        raise Unreadable(f"the answer ({status}) is not that of a Prometheus")
    if answer["status"] == "error" or status != HTTPStatus.OK:
        raise Unreadable(f"the query was refused ({status}): {str(answer.get('error', ''))[:SAID]}")
    data = answer.get("data")
    kind, result = (data.get("resultType"), data.get("result")) if isinstance(data, dict) else (None, None)
    if kind == "scalar":
        return _finite(result)
    if kind != "vector" or not isinstance(result, list):
        raise Unreadable(f"the query gives a {str(kind)[:20]}, and not a number")
    if len(result) > 1:
        raise Unreadable(f"the query gives {len(result)} series: aggregate it to one, with sum()")
    return _finite(result[0].get("value") if isinstance(result[0], dict) else None) if result else None


def _finite(sample: Any) -> float:  # noqa: ANN401 - JSON of others
    try:
        value = float(sample[1])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise Unreadable("the answer holds no number") from error
    if not math.isfinite(value):
        raise Unreadable(f"the query gives {value}: most often a division by zero, so nothing happened in its window")
    return value
