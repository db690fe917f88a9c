"""
What an answer says, whichever of the four APIs and whether streamed or whole: text, tool calls, how it ended. Pure.

The same function reads production's answers and the shadow's, so that neither side is read more kindly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.pairs.sides import Said
from graft_evaluation.scorers import ToolCall
from graft_serving.gateway.sse import Usage, split_events


@dataclass
class _Gathered:
    """An answer while its events are read."""

    text: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    """By index: name, and the pieces of the arguments."""
    finish: str | None = None
    whole: Any = None
    """The answer that a stream repeats at its end (Responses API)."""
    failed: bool = False


LENGTHS = frozenset({"length", "max_tokens", "max_output_tokens", "incomplete"})


def read_answer(api: str, status: int, body: bytes, *, stream: bool) -> Said:
    """Return what an answer says. An error, or one that broke off, says nothing."""
    if status != 200:
        return Said(Answer.ERROR)
    usage = Usage()
    usage.read(body)
    tokens = usage.tokens_out or None
    try:
        found = _streamed(api, body) if stream else _whole(api, orjson.loads(body))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Said(Answer.ERROR, tokens=tokens)
    if found.failed or found.finish is None:
        return Said(Answer.ERROR, tokens=tokens)
    text, calls = "".join(found.text), tuple(ToolCall(name, "".join(parts)) for _, (name, *parts) in sorted(found.calls.items()))
    ended = Answer.LENGTH if found.finish in LENGTHS else Answer.COMPLETE
    if ended is Answer.COMPLETE and not text.strip() and not calls:
        ended = Answer.EMPTY
    return Said(ended, text, calls or None, tokens)


def _streamed(api: str, body: bytes) -> _Gathered:
    found = _Gathered()
    for event in split_events(body):
        data = b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        if data and data != b"[DONE]":
            value = orjson.loads(data)
            if "error" in value and value["error"] is not None and api != "responses":
                found.failed = True
            _EVENTS[api](found, value)
    return found if found.whole is None else _whole(api, found.whole)


def _whole(api: str, value: Any) -> _Gathered:  # noqa: ANN401 - JSON
    found = _Gathered()
    _WHOLES[api](found, value)
    return found


def _chat(found: _Gathered, value: Mapping[str, Any]) -> None:
    choice = value["choices"][0]
    message = choice["message"]
    found.text.append(message.get("content") or "")
    for index, call in enumerate(message.get("tool_calls") or ()):
        found.calls[index] = [call["function"]["name"], call["function"].get("arguments") or ""]
    found.finish = choice["finish_reason"]


def _chat_event(found: _Gathered, value: Mapping[str, Any]) -> None:
    for choice in value.get("choices") or ():
        if choice.get("index", 0) != 0:
            continue
        delta = choice.get("delta") or {}
        found.text.append(delta.get("content") or "")
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            parts = found.calls.setdefault(call.get("index", 0), [""])
            parts[0] += function.get("name") or ""
            parts.append(function.get("arguments") or "")
        found.finish = choice.get("finish_reason") or found.finish


def _completion(found: _Gathered, value: Mapping[str, Any]) -> None:
    for choice in value.get("choices") or ():
        if choice.get("index", 0) == 0:
            found.text.append(choice.get("text") or "")
            found.finish = choice.get("finish_reason") or found.finish


def _responses(found: _Gathered, value: Mapping[str, Any]) -> None:
    for item in value["output"]:
        if item.get("type") == "message":
            found.text += [part.get("text") or part.get("refusal") or "" for part in item.get("content") or ()]
        elif item.get("type") == "function_call":
            found.calls[len(found.calls)] = [item["name"], item.get("arguments") or ""]
    status = value.get("status")
    found.finish = status if status in {"completed", "incomplete"} else None


def _responses_event(found: _Gathered, value: Mapping[str, Any]) -> None:
    if value.get("type") in {"response.completed", "response.incomplete"}:
        found.whole = value["response"]
    elif value.get("type") in {"response.failed", "error"}:
        found.failed = True


def _messages(found: _Gathered, value: Mapping[str, Any]) -> None:
    for index, block in enumerate(value["content"]):
        if block.get("type") == "text":
            found.text.append(block["text"])
        elif block.get("type") == "tool_use":
            found.calls[index] = [block["name"], orjson.dumps(block.get("input") or {}).decode()]
    found.finish = value.get("stop_reason")


def _messages_event(found: _Gathered, value: Mapping[str, Any]) -> None:
    kind = value.get("type")
    if kind == "content_block_start" and value["content_block"].get("type") == "tool_use":
        found.calls[value["index"]] = [value["content_block"]["name"]]
    elif kind == "content_block_start":
        found.text.append(value["content_block"].get("text") or "")
    elif kind == "content_block_delta":
        delta = value["delta"]
        found.text.append(delta.get("text") or "")
        if "partial_json" in delta:
            found.calls[value["index"]].append(delta["partial_json"])
    elif kind == "message_delta":
        found.finish = value["delta"].get("stop_reason") or found.finish
    elif kind == "error":
        found.failed = True


_WHOLES: Mapping[str, Callable[[_Gathered, Any], None]] = {
    "chat": _chat,
    "completions": _completion,
    "responses": _responses,
    "messages": _messages,
}
_EVENTS: Mapping[str, Callable[[_Gathered, Any], None]] = {
    "chat": _chat_event,
    "completions": _completion,
    "responses": _responses_event,
    "messages": _messages_event,
}
