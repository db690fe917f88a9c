"""What an answer of OpenAI's chat and completions APIs says, streamed or whole: text, tool calls, how it ended. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.pairs.sides import Said
from graft_evaluation.scorers import ToolCall


@dataclass
class _Gathered:
    """An answer while its events are read."""

    text: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    """By index: name, and the pieces of the arguments."""
    finish: str | None = None
    tokens: int | None = None
    failed: bool = False


def read_answer(status: int, body: bytes) -> Said:
    """Return what an answer says, a stream being told by its form. An error, or one that broke off, says nothing."""
    if status != 200:
        return Said(Answer.ERROR)
    found = _Gathered()
    try:
        for value in _values(body):
            _take(found, value)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return Said(Answer.ERROR, tokens=found.tokens)
    return _said(found)


def _said(found: _Gathered) -> Said:
    if found.failed or found.finish is None:
        return Said(Answer.ERROR, tokens=found.tokens)
    text = writable("".join(found.text))
    calls = tuple(ToolCall(writable(name), writable("".join(parts))) for _, (name, *parts) in sorted(found.calls.items()))
    ended = Answer.LENGTH if found.finish == "length" else Answer.COMPLETE
    if ended is Answer.COMPLETE and not text.strip() and not calls:
        ended = Answer.EMPTY
    return Said(ended, text, calls or None, found.tokens)


def writable(text: str) -> str:
    """Return text that UTF-8 holds: JSON may say halves of surrogate pairs, which neither scorers nor files take."""
    return text.encode("utf-8", "replace").decode()


def _values(body: bytes) -> list[Any]:
    """Return the whole answer, or the data of each event (WHATWG HTML, section 9.2.6)."""
    if body.lstrip()[:1] == b"{":
        return [json.loads(body)]
    # Not splitlines: it also cuts at characters that JSON leaves as they are.
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    return [json.loads(part) for part in data if part and part != b"[DONE]"]


def _take(found: _Gathered, value: Mapping[str, Any]) -> None:
    if value.get("error") is not None:
        found.failed = True
        return
    usage = value.get("usage")
    if usage and isinstance(usage.get("completion_tokens"), int):
        found.tokens = max(found.tokens or 0, usage["completion_tokens"])
    for choice in value.get("choices") or ():
        if choice.get("index", 0) == 0:
            _take_choice(found, choice)


def _take_choice(found: _Gathered, choice: Mapping[str, Any]) -> None:
    message = choice.get("message") or choice.get("delta") or {}
    found.text.append(choice.get("text") or message.get("content") or "")
    for place, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        parts = found.calls.setdefault(call.get("index", place), [""])
        parts[0] += function.get("name") or ""
        parts.append(function.get("arguments") or "")
    found.finish = choice.get("finish_reason") or found.finish
