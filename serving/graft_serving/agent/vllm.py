"""
The vLLM of this pod, on loopback: what the agent asks of it, and what it can be trusted with.

Never `load_inplace` (weights change under requests in flight, and vLLM then reads the folder at every step) and never
`prompt_logprobs`: with LoRA enabled, vLLM 0.32 dies of it on CPU (`add_lora_logits` expects one row per request and gets one per
prompt token). `logprob_token_ids` is avoided too: in the V1 runner it replaces the log-probabilities of all requests in its batch.
"""

import asyncio
import contextlib
import errno
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from graft_api.dataplane import BASE_NAME
from graft_api.fleet import LoadFailure
from graft_serving.agent.failure import VersionRefusedError, invalid

HEALTH_SECONDS = 3.0
MODELS_SECONDS = 5.0
LOAD_SECONDS = 60.0
PROBE_SECONDS = 30.0
TOUCH_SECONDS = 3.0
TOUCH_TOKEN = 1
"""Of the prompt that only touches; every vocabulary has it."""
REQUESTS_AT_ONCE = 16
_TROUBLE = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
_NEVER = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
"""Answers to a request that is wrong in itself. Not 404, which is a version that vLLM has lost."""
_IN_FLIGHT = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class VllmAwayError(Exception):
    """vLLM did not answer, or not in its own words."""


class VllmGoneError(VllmAwayError):
    """Nothing listens where vLLM should: there is no process that could have work."""


@dataclass(frozen=True)
class Scored:
    """One token whose log-probability is wanted after a prompt."""

    prompt: tuple[int, ...]
    token: int


class Vllm:
    """Everything that is asked of one vLLM. `session` must have no base URL of its own."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def healthy(self) -> bool:
        """Whether the engine works."""
        try:
            async with self._session.get(f"{self._url}/health", timeout=_seconds(HEALTH_SECONDS)) as response:
                return response.status == HTTPStatus.OK
        except _TROUBLE:
            return False

    async def adapters(self) -> dict[str, str]:
        """Return the path of each loaded adapter by its name. Raises `VllmAwayError`."""
        status, body = await self._ask("GET", "/v1/models", None, MODELS_SECONDS)
        try:
            if status != HTTPStatus.OK:
                raise VllmAwayError(f"/v1/models: status {status}")
            return {str(card["id"]): str(card["root"]) for card in body["data"] if card.get("parent") and card["id"] != BASE_NAME}
        except (KeyError, TypeError, AttributeError) as error:
            raise VllmAwayError("/v1/models: not a list of models") from error

    async def load(self, name: str, path: str) -> None:
        """Load an adapter. Raises `VersionRefusedError` in vLLM's own words, or `VllmAwayError`."""
        status, body = await self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, LOAD_SECONDS)
        if status != HTTPStatus.OK:
            raise VersionRefusedError(LoadFailure.LOAD_REFUSED, f"vLLM answered {status}: {_words(body)}")

    async def unload(self, name: str) -> None:
        """Unload an adapter; that there is none is fine. Raises `VllmAwayError`."""
        status, _ = await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, LOAD_SECONDS)
        if status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
            raise VllmAwayError(f"/v1/unload_lora_adapter: status {status}")

    async def touch(self, name: str) -> None:
        """
        Have an adapter count as used just now.

        Best effort: a failure shows elsewhere, and costs here no more than what happened without asking.
        """
        request = {"model": name, "prompt": [TOUCH_TOKEN], "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        with contextlib.suppress(VllmAwayError):
            await self._ask("POST", "/v1/completions", request, TOUCH_SECONDS)

    async def logprobs(self, model: str, scored: Sequence[Scored], salt: str) -> list[float]:
        """
        Return the natural logarithm of each token's probability. Raises `VllmAwayError`, or `VersionRefusedError` if vLLM will never
        take these prompts.

        One token is generated per prompt, and only the wanted one is allowed: vLLM reports its probability from before that
        restriction. Prompts with the same wanted token share a request. `salt` keeps all this apart from clients' prefix cache.
        """
        places: dict[int, list[int]] = {}
        for place, wanted in enumerate(scored):
            places.setdefault(wanted.token, []).append(place)
        turn = asyncio.Semaphore(REQUESTS_AT_ONCE)
        found = [math.nan] * len(scored)

        async def ask(token: int) -> None:
            async with turn:
                values = await self._score(model, [scored[place].prompt for place in places[token]], token, salt)
            for place, value in zip(places[token], values, strict=True):
                found[place] = value

        async with asyncio.timeout(PROBE_SECONDS):
            await asyncio.gather(*(ask(token) for token in places))
        return found

    async def _score(self, model: str, prompts: Sequence[Sequence[int]], token: int, salt: str) -> list[float]:
        request = {
            "model": model,
            "prompt": [list(prompt) for prompt in prompts],
            "max_tokens": 1,
            "temperature": 0,
            "allowed_token_ids": [token],
            "logprobs": 0,
            "return_tokens_as_token_ids": True,
            "cache_salt": salt,
        }
        status, body = await self._ask("POST", "/v1/completions", request, PROBE_SECONDS)
        if status in _NEVER:
            longest = max(map(len, prompts))
            message = f"vLLM answered {status} to a probe of {longest} tokens: it must fit --max-model-len (spec.server.args) with one more"
            raise invalid(f"{message}, and the base model's vocabulary")
        if status != HTTPStatus.OK:
            raise VllmAwayError(f"/v1/completions: status {status}")
        try:
            said = [choice["logprobs"] for choice in sorted(body["choices"], key=lambda choice: choice["index"])]
            values = [float(logprobs["token_logprobs"][0]) for logprobs in said]
            tokens = {logprobs["tokens"][0] for logprobs in said}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise VllmAwayError("/v1/completions: no log-probabilities") from error
        if len(values) != len(prompts) or tokens != {f"token_id:{token}"} or not all(map(math.isfinite, values)):
            raise VllmAwayError("/v1/completions: other log-probabilities than were asked for")
        return values

    async def in_flight(self) -> int:
        """Return how many requests run or wait. Raises `VllmAwayError`, and `VllmGoneError` if nobody is there to have any."""
        try:
            async with self._session.get(f"{self._url}/metrics", timeout=_seconds(MODELS_SECONDS)) as response:
                text = await response.text()
        except aiohttp.ClientConnectorError as error:
            gone = error.os_error.errno == errno.ECONNREFUSED
            raise (VllmGoneError if gone else VllmAwayError)(f"/metrics: {type(error).__name__}") from error
        except _TROUBLE as error:
            raise VllmAwayError(f"/metrics: {type(error).__name__}") from error
        found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(tuple(f"{name}{{" for name in _IN_FLIGHT))]
        if not found:
            raise VllmAwayError("/metrics: nothing about requests")
        return round(sum(map(float, found)))

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> tuple[int, Any]:
        try:
            async with self._session.request(method, self._url + path, json=body, timeout=_seconds(seconds)) as response:
                text = await response.read()
                return response.status, _parsed(response, text)
        except _TROUBLE as error:
            raise VllmAwayError(f"{path}: {type(error).__name__}") from error


def _parsed(response: aiohttp.ClientResponse, text: bytes) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except ValueError:
        return text.decode("utf-8", "replace") if response.status != HTTPStatus.OK else None


def _words(body: object) -> str:
    """Return what vLLM says of an adapter that it does not load; that quotes the adapter's files, never a request."""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return str(body["error"].get("message", ""))[:400]
    return str(body)[:400]


def _seconds(total: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, sock_connect=2.0)
