"""
The four inference APIs: where each keeps what the gateway must know, what it sets on the way up, and what it refuses.

Pure. A body is parsed once and written once; what is not named here is passed on as it is.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from graft_serving.gateway.errors import Cause, Dialect, Refusal
from graft_serving.gateway.limits import most_values
from graft_serving.gateway.media import refuse_remote

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Api:
    """One path."""

    path: str
    name: str
    """Label of metrics."""
    dialect: Dialect
    opening: Callable[[Body], object]
    """What all turns of a conversation begin with: system prompt and first user message."""
    prepare: Callable[[Body], None]
    """Sets what vLLM must be told. Raises `Refusal`."""
    turns: str = ""
    """The field with messages or items, in which media may be."""
    usage_on_demand: bool = False
    """A stream says how many tokens it had only if asked to."""


@dataclass(slots=True)
class Asked:
    """One parsed request."""

    api: Api
    body: Body
    model: str
    stream: bool
    raw: bytes
    """The body as it came, until it is known whether anybody wants it."""
    usage_unwanted: bool = False
    """The gateway asked for the usage chunk of the stream, the client did not."""

    def conversation(self) -> str | None:
        """Return the name that the body gives its conversation."""
        metadata = self.body.get("metadata")
        if not isinstance(metadata, dict):
            return None
        name = metadata.get("conversation_id")
        return name if isinstance(name, str) and name else None

    def opening(self) -> bytes:
        """Return what identifies an unnamed conversation. Raises `Refusal`."""
        return _dumps(self.api.opening(self.body))

    def encoded(self, version: str) -> bytes:
        """Return the body for vLLM. Raises `Refusal`."""
        self.body["model"] = version
        return _dumps(self.body)


def read_request(api: Api, raw: bytes, media_hosts: Collection[str] = ()) -> Asked:
    """Parse and prepare a body; media may be named by URL at `media_hosts` only. Raises `Refusal`."""
    body = _parse(raw)
    model, stream = body.get("model"), body.get("stream")
    if not isinstance(model, str) or not model:
        raise Refusal(400, Cause.INVALID, "model must be a string: the name of a domain, see /v1/models", param="model")
    if stream is not None and not isinstance(stream, bool):
        raise Refusal(400, Cause.INVALID, "stream must be true or false", param="stream")
    _refuse_harmful(body)
    if api.turns:
        refuse_remote(body.get(api.turns), api.turns, media_hosts)
    asked = Asked(api, body, model, bool(stream), raw)
    api.prepare(body)
    if stream and api.usage_on_demand:
        asked.usage_unwanted = _ask_for_usage(body)
    return asked


MOST_VALUES = 250_000
"""Of one body: the longest prompts are half as many token ids. Ten times as many hold up every stream for a second."""
_VALUE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)
"""A text as a whole, or what stands before a value. Never goes back: also a text without an end is read once."""


def _refuse_too_many_values(raw: bytes) -> None:
    """Look closely only at what may have too many: in most bodies there are not even so many bytes."""
    if len(raw) <= MOST_VALUES or most_values(raw) <= MOST_VALUES:
        return
    if sum(1 for _ in islice(_VALUE.finditer(raw), MOST_VALUES + 1)) > MOST_VALUES:
        raise Refusal(413, Cause.TOO_LARGE, f"the body has more than {MOST_VALUES} JSON values, which is the limit")


def _parse(raw: bytes) -> Body:
    _refuse_too_many_values(raw)
    try:
        body = orjson.loads(raw)
    except ValueError:
        raise Refusal(400, Cause.INVALID, "the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, Cause.INVALID, "the body must be a JSON object")
    return body


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # it reads deeper than it writes
        raise Refusal(400, Cause.INVALID, "the body is nested too deeply") from None


def _ask_for_usage(body: Body) -> bool:
    """Have the stream end with its usage, for the metrics. Returns whether the client must not see it."""
    options = body.get("stream_options")
    if options is None:
        options = {}
    if not isinstance(options, dict) or options.get("include_usage") is True:
        return False  # not a dictionary: vLLM says so
    body["stream_options"] = options | {"include_usage": True, "continuous_usage_stats": False}
    return True


def _refuse_harmful(body: Body) -> None:
    """
    Refuse what lets one client end or disturb everybody's answers.

    With adapters enabled, vLLM 0.32 computes a prompt's log-probabilities with one row a request where it has one a token: on CPU its
    engine dies of that. `logprob_token_ids` replaces the log-probabilities of the other requests of the batch.
    """
    for field in ("prompt_logprobs", "logprob_token_ids"):
        if body.get(field) is not None:
            raise Refusal(400, Cause.INVALID, f"{field} is not served: leave it out", param=field, code="unsupported_parameter")
    if body.get("echo") and body.get("logprobs") is not None:
        message = "echo with logprobs is not served: leave one of them out"
        raise Refusal(400, Cause.INVALID, message, param="echo", code="unsupported_parameter")


def _nothing(_: Body) -> None:
    pass


def _without_echo(body: Body) -> None:
    """With `echo` a chat's prompt gets log-probabilities in vLLM 0.32 whether any were asked for or not."""
    if body.get("echo"):
        raise Refusal(400, Cause.INVALID, "echo is not served for chats: leave it out", param="echo", code="unsupported_parameter")


def _stateless(body: Body) -> None:
    """
    Nothing of a conversation stays behind in a pod: the next turn may go to another one.

    vLLM would store by default, so `store` is said.
    """
    found = [field for field in _STATEFUL if body.get(field)] + (["input"] if _refers_to_stored(body.get("input")) else [])
    for field in found:
        why = _STATEFUL.get(field, "this endpoint keeps no items; send the items themselves in the place of references")
        raise Refusal(400, Cause.STATEFUL, f"{field}: {why}", param=field, code="unsupported_parameter")
    body["store"] = False


def _refers_to_stored(items: object) -> bool:
    return isinstance(items, list) and any(isinstance(item, dict) and item.get("type") == "item_reference" for item in items)


_STATEFUL: Mapping[str, str] = {
    "store": "this endpoint keeps no responses; send store: false",
    "previous_response_id": "this endpoint keeps no responses; send the whole conversation as input",
    "conversation": "this endpoint keeps no conversations; send the whole conversation as input",
    "prompt": "this endpoint keeps no prompts; send instructions and input",
    "background": "this endpoint keeps no responses; send background: false",
}


def _first_user(messages: object) -> tuple[list[object], object]:
    """Return the system texts before the first user message, and that message's content."""
    system: list[object] = []
    if not isinstance(messages, list):
        return system, messages
    for message in messages:
        if not isinstance(message, dict):
            return system, message
        if message.get("role") not in ("system", "developer"):
            return system, message.get("content")
        system.append(message.get("content"))
    return system, None


def _chat_opening(body: Body) -> object:
    return _first_user(body.get("messages"))


def _completion_opening(body: Body) -> object:
    return body.get("prompt")


def _responses_opening(body: Body) -> object:
    return body.get("instructions"), _first_user(body.get("input"))


def _messages_opening(body: Body) -> object:
    return body.get("system"), _first_user(body.get("messages"))


APIS: Mapping[str, Api] = {
    api.path: api
    for api in (
        Api("/v1/chat/completions", "chat", Dialect.OPENAI, _chat_opening, _without_echo, "messages", usage_on_demand=True),
        Api("/v1/completions", "completions", Dialect.OPENAI, _completion_opening, _nothing, usage_on_demand=True),
        Api("/v1/responses", "responses", Dialect.OPENAI, _responses_opening, _stateless, "input"),
        Api("/v1/messages", "messages", Dialect.ANTHROPIC, _messages_opening, _nothing, "messages"),
    )
}
