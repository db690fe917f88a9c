"""
A log of requests, one a line: what each asks, and whether it may be asked again. Pure, but for reading the file.

All of this is known before any server is asked: what the candidate does can take no request out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from graft_api.comparison import Exclusion
from graft_api.schema import Count, Invalid, Model, parse
from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.pairs.recorded import NAMED_PROBLEMS, Place, raw_lines
from graft_evaluation.pairs.sides import Said
from graft_evaluation.replay.answers import read_answer, writable
from graft_evaluation.scorers import transcript

ADVICE = "every line is a request's body, or an object with body, and path, conversation, response, at, seconds where they are known"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CLIENTS_TOOLS = frozenset({None, "function", "custom"})
"""Types of tools that an answer only names. Others are run by a server, and asked again they would act again."""


class Envelope(Model):
    """A line that says more than a request's body."""

    body: dict[str, Any]
    path: Literal["/v1/chat/completions", "/v1/completions"] | None = None
    """Default: chat completions for a body with messages."""
    conversation: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Requests with the same are one conversation. Default: those with the same system prompt and first user message."""
    response: dict[str, Any] | str | None = None
    """What was answered then: the body, of a stream as one text. Present: the candidate is held against it."""
    at: Count | None = None
    """Seconds since 1970. Default: when it is asked again."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """That the response took."""


@dataclass(frozen=True)
class Logged:
    """One request."""

    number: int
    """Of its line, from 1."""
    digest: str
    """Of the line, so that another log is not taken for this one."""
    conversation: str
    api: Literal["chat", "completions"]
    body: Mapping[str, Any]
    first_turn: bool
    text: str
    """The conversation, as judges read it."""
    tools: tuple[Mapping[str, Any], ...]
    recorded: Said | None
    seconds: float
    at: int | None
    left_out: tuple[str, str] | None
    """Cause and side, of a request that is not asked."""

    @property
    def path(self) -> str:
        """Below the server's `/v1`."""
        return "/chat/completions" if self.api == "chat" else "/completions"

    @property
    def stream(self) -> bool:
        """Whether the answer is to come in events."""
        return bool(self.body.get("stream"))

    def encoded(self, model: str) -> bytes:
        """Return the body for one model, sampling parameters and seed as they were. A stream is asked to end with its tokens."""
        options = {"stream_options": {**(self.body.get("stream_options") or {}), "include_usage": True}} if self.stream else {}
        return json.dumps({**self.body, **options, "model": model}).encode()


@dataclass(frozen=True)
class Survey:
    """What a whole log holds."""

    digests: dict[int, str]
    """Of the requests that are asked, by line."""
    exclusions: tuple[Exclusion, ...]
    recorded: int
    """Requests with a response."""
    conversations: frozenset[str]
    """Of the requests that are asked."""


def survey(log: Path) -> Survey:
    """Read a log to its end before anything is asked. Raises `Invalid` with the first bad lines."""
    digests: dict[int, str] = {}
    left_out: Counter[tuple[str, str]] = Counter()
    problems: list[str] = []
    conversations: set[str] = set()
    recorded = 0
    for found in _lines(log):
        if isinstance(found, Invalid):
            problems += found.problems
        elif found.left_out is not None:
            left_out[found.left_out] += 1
        else:
            digests[found.number] = found.digest
            conversations.add(found.conversation)
            recorded += found.recorded is not None
        if len(problems) >= NAMED_PROBLEMS:
            break
    if problems:
        raise Invalid(problems[:NAMED_PROBLEMS])
    if not digests:
        raise Invalid([f"{log}: there is no request in it that can be asked again; {ADVICE}"])
    exclusions = (Exclusion.model_validate({"cause": cause, "side": side, "count": n}) for (cause, side), n in sorted(left_out.items()))
    return Survey(digests, tuple(exclusions), recorded, frozenset(conversations))


def requests(log: Path) -> Iterator[Logged]:
    """Yield the requests that are asked, in the log's order. Raises `Invalid`."""
    for found in _lines(log):
        if isinstance(found, Invalid):
            raise found
        if found.left_out is None:
            yield found


def _lines(log: Path) -> Iterator[Logged | Invalid]:
    for number, line in enumerate(raw_lines(log, ADVICE), 1):
        if line.strip():
            try:
                yield read_request(number, line)
            except Invalid as invalid:
                yield Invalid([f"{Place(log, number)}: {problem}; {ADVICE}" for problem in invalid.problems])


def read_request(number: int, line: bytes) -> Logged:
    """Return the request of one line. Raises `Invalid`."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Invalid(["is not valid JSON"]) from error
    if not isinstance(value, dict):
        raise Invalid(["is no JSON object"])
    bare = "messages" in value or "prompt" in value
    told = Envelope(body=value) if bare else parse(Envelope, value)
    api = _api(told, "" if bare else "body.")
    turns = _turns(told.body, api)
    return Logged(
        number=number,
        digest=blake2b(line.strip(), digest_size=16).hexdigest(),
        conversation=_conversation(told.conversation, turns),
        api=api,
        body=told.body,
        first_turn=isinstance(turns, str) or not any(turn.get("role") == "assistant" for turn in turns),
        text=writable(transcript(turns)),
        tools=tuple(json.loads(writable(json.dumps(tool, ensure_ascii=False))) for tool in told.body.get("tools") or ()),
        recorded=None if told.response is None else _recorded(told.response),
        seconds=told.seconds,
        at=told.at,
        left_out=_left_out(told),
    )


def _api(told: Envelope, at: str) -> Literal["chat", "completions"]:
    body = told.body
    chat = "messages" in body if told.path is None else told.path == CHAT
    if not chat:
        if not isinstance(body.get("prompt"), str | list) or not body["prompt"]:
            raise Invalid([f"{at}prompt: must be a text; a chat has {at}messages"])
    elif not isinstance(body.get("messages"), list) or not body["messages"] or not all(isinstance(turn, dict) for turn in body["messages"]):
        raise Invalid([f"{at}messages: must be a list of objects with role and content"])
    if not isinstance(body.get("stream"), bool | None):
        raise Invalid([f"{at}stream: must be true or false"])
    for name, kind in (("tools", list), ("stream_options", dict)):
        if not isinstance(body.get(name), kind | None):
            raise Invalid([f"{at}{name}: must be {'a list' if kind is list else 'an object'}"])
    if not all(isinstance(tool, dict) for tool in body.get("tools") or ()):
        raise Invalid([f"{at}tools: must be objects"])
    return "chat" if chat else "completions"


def _turns(body: Mapping[str, Any], api: str) -> str | list[Mapping[str, Any]]:
    if api == "chat":
        return list(body["messages"])
    return body["prompt"] if isinstance(body["prompt"], str) else ""


def _conversation(named: str | None, turns: str | list[Mapping[str, Any]]) -> str:
    if named is not None:
        return _hash(["named", named])
    return _hash(["prompt", turns] if isinstance(turns, str) else ["opening", _opening(turns)])


def _opening(turns: list[Mapping[str, Any]]) -> list[object]:
    """Return what all turns of a conversation begin with, as a gateway has it: system texts and the first of another role."""
    found: list[object] = []
    for turn in turns:
        found.append(turn.get("content"))
        if turn.get("role") not in {"system", "developer"}:
            break
    return found


def _hash(value: object) -> str:
    # With escapes: clients also send halves of surrogate pairs, which no UTF-8 holds.
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _recorded(response: dict[str, Any] | str) -> Said:
    text = response if isinstance(response, str) else json.dumps(response)
    return read_answer(200, text.encode("utf-8", "replace"))


def _left_out(told: Envelope) -> tuple[str, str] | None:
    body = told.body
    if body.get("web_search_options") or any(
        not isinstance(tool, dict) or _kind(tool) not in CLIENTS_TOOLS for tool in body.get("tools") or ()
    ):
        return "server-tools", "Both"
    if any(isinstance(body.get(name), int) and body[name] > 1 for name in ("n", "best_of")) or isinstance(body.get("prompt"), list):
        return "several-answers", "Both"
    if told.response is not None and _recorded(told.response).ended is Answer.ERROR:
        # A server that failed then is no merit of the candidate's now.
        return "production-failed", "Incumbent"
    return None


def _kind(tool: Mapping[str, Any]) -> str | None:
    found = tool.get("type")
    return found if found is None or isinstance(found, str) else ""
