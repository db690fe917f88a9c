"""
A request of production as it is asked again: what it says, and whether it may be asked at all. Pure.

Everything here is decided from the request and production's answer, before the candidate is asked: what the candidate does can take
no request out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from graft_api.tee import ExchangeHead
from graft_evaluation.pairs.sides import Whose
from graft_evaluation.scorers import transcript
from graft_serving.gateway.errors import Cause, Refusal
from graft_serving.gateway.repeatable import repeatable
from graft_serving.gateway.requests import APIS, Api, Asked, read_request

BY_NAME = {api.name: api for api in APIS.values()}
CLIENT_LEFT = 499


class ExcludedError(Exception):
    """An exchange that is no pair."""

    def __init__(self, cause: str, side: Whose) -> None:
        super().__init__(cause)
        self.cause = cause
        self.side = side


@dataclass(frozen=True)
class Prompt:
    """What was asked, as judges read it."""

    text: str
    """The conversation."""
    tools: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Question:
    """A request that may be asked again."""

    asked: Asked
    first_turn: bool
    text: str
    """The conversation, as judges read it."""
    tools: tuple[Mapping[str, Any], ...]

    @property
    def stream(self) -> bool:
        """Whether the answer is a stream."""
        return self.asked.stream

    @property
    def path(self) -> str:
        """Where it is posted."""
        return self.asked.api.path

    def encoded(self, version: str) -> bytes:
        """Return the body for one version: the client's, sampling parameters, seed and stream included, with the model's name."""
        return self.asked.encoded(version)


def check_head(head: ExchangeHead, incumbent: str) -> None:
    """Raises `ExcludedError` for what the head alone says is no pair. The causes are labels: keep them."""
    if head.wanted != incumbent:
        raise ExcludedError("other-version", Whose.BOTH)
    if head.status == CLIENT_LEFT or head.cause == Cause.CLIENT_GONE:
        raise ExcludedError("client-left", Whose.BOTH)
    if head.status >= 500 or head.cause is not None:
        # A server of production that fails is no merit of the candidate's: too many of them make the verdict Inconclusive instead.
        raise ExcludedError("production-failed", Whose.INCUMBENT)
    if head.version != incumbent:
        raise ExcludedError("fallback", Whose.INCUMBENT)
    if head.status != 200:
        raise ExcludedError("request-refused", Whose.BOTH)
    if head.api not in BY_NAME:
        raise ExcludedError("unknown-api", Whose.BOTH)


def read_question(head: ExchangeHead, request: bytes, media_hosts: Collection[str] = ()) -> Question:
    """Return the question. Raises `ExcludedError` for one whose asking again would have effects, or would not be the same question."""
    try:
        return _question(head, request, media_hosts)
    except ExcludedError:
        raise
    except Exception:  # noqa: BLE001 - clients send what they like; an odd one is no pair, for nobody looked at an answer yet
        raise ExcludedError("not-replayable", Whose.BOTH) from None


def _question(head: ExchangeHead, request: bytes, media_hosts: Collection[str]) -> Question:
    try:
        asked = read_request(BY_NAME[head.api], request, media_hosts)
    except Refusal as refusal:
        cause = {Cause.STATEFUL: "stored-state"}.get(refusal.cause, "not-replayable")
        raise ExcludedError(cause, Whose.BOTH) from None
    body = asked.body
    if not repeatable(body):
        raise ExcludedError("server-tools", Whose.BOTH)
    if _asks_for_several(head, body):
        raise ExcludedError("several-answers", Whose.BOTH)
    turns = _turns(asked.api, body)
    return Question(asked, _opens(turns), _text(turns), tuple(_tools(body)))


def read_prompt(head: ExchangeHead, request: bytes) -> Prompt | None:
    """
    Return what a judge reads beside an answer; None where there are several answers, or nothing can be read.

    Nothing is asked again, so media by URL, stored state and tools of the server's do not matter here.
    """
    try:
        body = orjson.loads(request)
        if _asks_for_several(head, body):
            return None
        return Prompt(_text(_turns(BY_NAME[head.api], body)), tuple(_tools(body)))
    except Exception:  # noqa: BLE001 - clients send what they like
        return None


def _asks_for_several(head: ExchangeHead, body: Mapping[str, Any]) -> bool:
    """Whether there is more than one answer, or may be."""
    several = any(isinstance(body.get(name), int) and body[name] > 1 for name in ("n", "best_of"))
    return several or (head.api == "completions" and not isinstance(body.get("prompt"), str))


def _text(turns: str | list[Mapping[str, Any]]) -> str:
    return turns if isinstance(turns, str) else transcript(turns)


def _turns(api: Api, body: Mapping[str, Any]) -> str | list[Mapping[str, Any]]:
    turns = body.get(api.turns or "prompt")
    if isinstance(turns, str):
        return turns
    listed: list[Mapping[str, Any]] = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    system = body.get("system") or body.get("instructions")
    return [{"role": "system", "content": system}, *listed] if system else listed


def _opens(turns: str | list[Mapping[str, Any]]) -> bool:
    """Whether nothing of a model's is in the conversation yet."""
    if isinstance(turns, str):
        return True
    return not any(turn.get("role") == "assistant" or turn.get("type") in {"function_call", "reasoning"} for turn in turns)


def _tools(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the request's tools, as OpenAI has them."""
    tools = body.get("tools")
    found: list[Mapping[str, Any]] = []
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and "input_schema" in tool:
            found.append({"type": "function", "function": {"name": tool.get("name"), "parameters": tool["input_schema"]}})
        elif isinstance(tool, dict):
            found.append(tool)
    return found
