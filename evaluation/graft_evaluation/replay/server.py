"""
Ask a server of OpenAI's API, and tell what a version did from what nobody can blame it for.

A connection is opened for each request: on one that was kept, a server that closes it and a version that breaks off look alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from graft_api.schema import Invalid
from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.pairs.sides import Said, Side
from graft_evaluation.replay.answers import read_answer
from graft_evaluation.replay.log import Logged

T = TypeVar("T")

CONNECT_SECONDS = 10.0
ANSWER_BYTES = 4_194_304
"""A longer answer is taken for one that broke off."""
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
SETTINGS_WRONG: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "refuses the key",
    HTTPStatus.FORBIDDEN: "refuses the key",
    HTTPStatus.NOT_FOUND: "has no such model or path",
}


class StoppedError(RuntimeError):
    """A server was away for too long. What was asked is kept; the same command goes on later."""


@dataclass(frozen=True)
class Address:
    """A server and the model that it is asked for."""

    side: str
    """incumbent or candidate."""
    url: str
    """With its `/v1`."""
    model: str | None

    @classmethod
    def of(cls, side: str, text: str) -> Address:
        """Return what `URL[#model]` names. Raises `Invalid`."""
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
            raise Invalid([f"--{side}: {text}: must be http://host:port or https://host/v1, and #model where it serves several"])
        path = parts.path.rstrip("/") or "/v1"
        return cls(side, urlunsplit((parts.scheme, parts.netloc, path, "", "")), parts.fragment or None)

    @property
    def key_variable(self) -> str:
        """The environment variable with its key."""
        return f"{self.side.upper()}_API_KEY"


@dataclass
class _Started:
    """When a request's connection was open, which is when its clock starts."""

    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Reply:
    """What came back."""

    side: Side
    refused: bool = False
    """The server finds the request itself wrong."""


class Server:
    """One of the two. `opened` makes it."""

    def __init__(self, session: aiohttp.ClientSession, address: Address, model: str, patience: float) -> None:
        """`patience`: seconds for which a server may be away."""
        self._session = session
        self._patience = patience
        self.address = address
        self.model = model

    async def ask(self, request: Logged) -> Reply:
        """Return the answer: an error, a time-out and an answer without end are answers, too. Raises `StoppedError` and `Invalid`."""
        return await _patiently(lambda: self._ask(request), self._patience, self.address)

    async def _ask(self, request: Logged) -> Reply:
        started = _Started()
        try:
            post = self._session.post(
                self.address.url + request.path,
                data=request.encoded(self.model),
                headers={"content-type": "application/json"},
                allow_redirects=False,
                trace_request_ctx=started,
            )
            async with post as response:
                return await self._read(request, response, started)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _AwayError(type(error).__name__) from error
        except TimeoutError:
            return _without(Answer.TIMEOUT, started)
        except (aiohttp.ClientError, OSError):
            return _without(Answer.ERROR, started)

    async def _read(self, request: Logged, response: aiohttp.ClientResponse, started: _Started) -> Reply:
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise _AwayError("429, too many requests: lower --concurrency", _seconds(response.headers.get("retry-after")))
        _check_settings(self.address, response.status)
        first, parts, size = None, [], 0
        async for part in response.content.iter_any():
            first = first if first is not None else time.monotonic() - started.at
            parts.append(part)
            size += len(part)
            if size > ANSWER_BYTES:
                return _without(Answer.ERROR, started)
        said = read_answer(response.status, b"".join(parts))
        refused = 400 <= response.status < 500 and response.status != HTTPStatus.REQUEST_TIMEOUT
        return Reply(Side(said, time.monotonic() - started.at, first if request.stream else None), refused)


@asynccontextmanager
async def opened(address: Address, key: str | None, timeout_seconds: float, patience: float) -> AsyncIterator[Server]:
    """Yield the server, once it is there and has the model. Raises `Invalid` and `StoppedError`."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=min(CONNECT_SECONDS, timeout_seconds / 2))
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(headers=headers, timeout=limits, connector=connector, trace_configs=[_clock()]) as session:
        models = await _patiently(lambda: _models(session, address), patience, address)
        yield Server(session, address, _model(address, models), patience)


def _clock() -> aiohttp.TraceConfig:
    async def connected(_: object, context: Any, __: object) -> None:  # noqa: ANN401 - aiohttp's namespace
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.at = time.monotonic()

    config = aiohttp.TraceConfig()
    config.on_connection_create_end.append(connected)
    return config


async def _models(session: aiohttp.ClientSession, address: Address) -> list[str] | None:
    """Return the models that a server lists; None: it lists none."""
    try:
        async with session.get(f"{address.url}/models", allow_redirects=False) as response:
            if response.status != HTTPStatus.NOT_FOUND:
                _check_settings(address, response.status)
            if response.status != HTTPStatus.OK:
                return None
            listed = await response.json(content_type=None)
            return [str(model["id"]) for model in listed["data"]]
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _AwayError(type(error).__name__) from error
    except (ValueError, KeyError, TypeError):
        return None


def _model(address: Address, models: list[str] | None) -> str:
    if models is not None and address.model is not None and address.model not in models:
        raise Invalid([f"--{address.side}: {address.url} has no model {address.model}; it has {', '.join(models[:20]) or 'none'}"])
    if address.model is not None:
        return address.model
    if models is None or len(models) != 1:
        has = "does not say which models it has" if models is None else f"has {', '.join(models[:20]) or 'none'}"
        raise Invalid([f"--{address.side}: {address.url} {has}; name one: {address.url}#MODEL"])
    return models[0]


def _check_settings(address: Address, status: int) -> None:
    """Raises `Invalid` for an answer by which no version has answered, and which no repeat mends."""
    if 300 <= status < 400:
        raise Invalid([f"--{address.side}: {address.url} answers with a redirect ({status}); name the URL that it leads to"])
    if why := SETTINGS_WRONG.get(status):
        raise Invalid([f"--{address.side}: {address.url} {why} ({status}); check the URL, #model and {address.key_variable}"])


class _AwayError(Exception):
    """Nothing was begun."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


async def _patiently(question: Callable[[], Awaitable[T]], patience: float, address: Address) -> T:
    """Ask until something is begun. Raises `StoppedError` when `patience` seconds are over."""
    deadline, pause = time.monotonic() + patience, PAUSE_SECONDS
    while True:
        try:
            return await question()
        except _AwayError as error:
            wait = pause if error.wait is None else error.wait
            if time.monotonic() + wait > deadline:
                raise StoppedError(f"the {address.side} at {address.url} cannot be asked ({error})") from error
        await asyncio.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _without(ended: Answer, started: _Started) -> Reply:
    return Reply(Side(Said(ended), time.monotonic() - started.at))


def _seconds(retry_after: str | None) -> float | None:
    return min(float(retry_after), LONGEST_PAUSE_SECONDS) if retry_after and retry_after.isdecimal() else None
