"""POST JSON to a service, with retries, bounded concurrency and bounded answers."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from graft_api.remote_scorers import Retry
from graft_evaluation.scorers.values import AGAIN, ScorerBrokenError, ScorerInvalidError

LONGEST_PAUSE = 60.0
LONGEST_ANSWER = 1024 * 1024


class _AwayError(Exception):
    """Worth another try: `cause` is one of `TRANSIENT`."""

    def __init__(self, cause: str, retry_after: float = 0.0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.retry_after = retry_after


@dataclass(frozen=True)
class Service:
    """Where to ask, and how hard."""

    field: str
    """Of the scorer, for messages."""
    url: str
    token: str | None
    timeout_seconds: float
    max_concurrent: int
    retry: Retry
    longest_answer: int = LONGEST_ANSWER
    """Bytes."""


class Poster:
    """POSTs JSON and returns JSON, with bounded concurrency. The session is opened where the first question is asked."""

    def __init__(
        self, service: Service, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, chance: Callable[[], float] = random.random
    ) -> None:
        self._service = service
        self._sleep = sleep
        self._chance = chance
        self._places = asyncio.Semaphore(service.max_concurrent)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Raises `ScorerBrokenError` when all attempts failed, `ScorerInvalidError` when none ever could succeed."""
        retry = self._service.retry
        pause = float(retry.pause_seconds)
        for attempt in range(1, retry.attempts + 1):
            try:
                async with self._places:
                    return await self._once(body)
            except _AwayError as away:
                if attempt == retry.attempts:
                    message = f"{self._service.field}.url: no answer in {attempt} attempts ({away.cause})"
                    raise ScorerBrokenError(away.cause, message) from away
                await self._sleep(max(pause * (0.5 + self._chance() / 2), min(away.retry_after, LONGEST_PAUSE)))
                pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("there is at least one attempt")

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _once(self, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        try:
            async with self._opened().post(self._service.url, json=body, allow_redirects=False) as response:
                self._check_status(response)
                text = await _bounded(response, self._service)
        except TimeoutError as error:
            raise _AwayError("NoAnswer") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise _AwayError("Unreachable") from error
        except aiohttp.InvalidURL as error:
            raise ScorerInvalidError(f"{self._service.field}.url: not a URL") from error
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ScorerBrokenError("BadAnswer", f"{self._service.field}.url: the answer is no JSON") from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._service.token}"} if self._service.token else {}
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._service.timeout_seconds),
                connector=aiohttp.TCPConnector(limit=0),  # `max_concurrent` is the limit
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        status, field = response.status, self._service.field
        if status == 200:
            return
        if status in AGAIN:
            raise _AwayError(f"Status{status}", _seconds(response.headers.get("Retry-After")))
        if status in {401, 403}:
            raise ScorerInvalidError(f"{field}.tokenEnv: the service answered {status}; give it a token that may ask")
        if status in {404, 405, 410} or 300 <= status < 400:
            raise ScorerInvalidError(f"{field}.url: the service answered {status}; give the address itself, redirects are not followed")
        # This one question may be at fault, one too long for a judge for instance: it is counted and the next one asked.
        raise ScorerBrokenError(f"Status{status}", f"{field}.url: the service answered {status}")


async def _bounded(response: aiohttp.ClientResponse, service: Service) -> bytes:
    found = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        found += chunk
        if len(found) > service.longest_answer:
            raise ScorerBrokenError("BadAnswer", f"{service.field}.url: the answer is longer than {service.longest_answer} bytes")
    return bytes(found)


def _seconds(retry_after: str | None) -> float:
    """Seconds, or 0 where it is a date or none: the back-off serves then."""
    return float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0
