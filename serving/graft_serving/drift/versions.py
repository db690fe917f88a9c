"""
Ask versions through the doors of their endpoint: greedy, with a fixed seed, each prompt by itself.

A connection is opened for each question, to whichever server the Service's name leads to next: what differs between replicas is part of
what users meet. A question that cannot be answered now is asked again; one that is not answered then is a problem of the check, and
never a distance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import aiohttp

from graft_api.drift import DriftTask
from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.replay.answers import read_answer
from graft_serving.backoff import Backoff
from graft_serving.drift.problem import FIELD, NotMeasuredError
from graft_serving.drift.trying import Sleep, Trying

PATH = "/v1/chat/completions"
SEED = 0
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 300.0
ATTEMPTS = 6
ANSWER_BYTES = 4 * 1024 * 1024
REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


@dataclass(frozen=True)
class Prompt:
    """One thing to ask."""

    principle: str
    place: int
    """Among the principle's prompts, from 0."""
    text: str
    system: str | None

    @property
    def where(self) -> str:
        """The prompt as messages name it."""
        return f"prompt {self.place + 1} of principle {self.principle}"


class _AgainError(Exception):
    """No version has answered."""


class Versions:
    """The doors of one endpoint."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        task: DriftTask,
        token: Callable[[], str] | None,
        backoff: Callable[[], Backoff],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`session`: one that keeps no connections. `token`: returns that of this Job for the doors; it may raise OSError."""
        self._session = session
        self._task = task
        self._token = token
        self._trying = Trying(ATTEMPTS, _AgainError, backoff, sleep)

    async def ask(self, version: str, prompt: Prompt) -> str:
        """Return what a version answers, stripped; empty: it says nothing. Raises `NotMeasuredError`."""
        return await self._trying.do(partial(self._once, version, prompt), f"{version} did not answer {prompt.where}")

    async def _once(self, version: str, prompt: Prompt) -> str:
        limits = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        url = f"http://{self._task.server}{PATH}"
        try:
            body, headers = self.body(version, prompt), self._headers()
            async with self._session.post(url, json=body, headers=headers, timeout=limits, allow_redirects=False) as response:
                content = await _bounded(response)
                self._check(version, prompt, response.status, content)
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise _AgainError("it took too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _AgainError(f"its server could not be reached ({type(error).__name__})") from error
        said = read_answer(response.status, content)
        if said.ended is Answer.ERROR:
            raise _AgainError("what its server sent is no whole chat completion")
        return said.text.strip()

    def body(self, version: str, prompt: Prompt) -> dict[str, Any]:
        """Return what is posted."""
        system = [{"role": "system", "content": prompt.system}] if prompt.system else []
        return {
            "model": version,
            "messages": [*system, {"role": "user", "content": prompt.text}],
            "temperature": 0,
            "seed": SEED,
            "max_tokens": self._task.policy.max_tokens,
        }

    def _headers(self) -> dict[str, str]:
        try:
            return {"Authorization": f"Bearer {self._token()}"} if self._token else {}
        except (OSError, ValueError) as error:
            raise NotMeasuredError(f"the token for the doors of {self._task.endpoint} could not be read") from error

    def _check(self, version: str, prompt: Prompt, status: int, content: bytes) -> None:
        if status == HTTPStatus.OK:
            return
        if status in REFUSED:
            raise NotMeasuredError(f"the door of {self._task.endpoint} refuses the token of this check ({status})")
        if status == HTTPStatus.NOT_FOUND:
            lacks = f"The model `{version}` does not exist".encode() in content
            raise _AgainError("a server does not have it" if lacks else f"status {status}")
        if status >= 500 or status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}:
            raise _AgainError(f"status {status}")
        long = f"; is it longer than the model's context less {FIELD}.maxTokens?" if status == HTTPStatus.BAD_REQUEST else ""
        raise NotMeasuredError(f"the server refuses {prompt.where} ({status}){long}")


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk
        if len(found) > ANSWER_BYTES:
            raise _AgainError(f"its answer is longer than {ANSWER_BYTES} bytes")
    return bytes(found)
