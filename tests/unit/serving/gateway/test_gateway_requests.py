"""What the gateway reads of a request, sets on the way up, and refuses."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_serving.gateway.errors import Cause, Dialect, Refusal, error_body
from graft_serving.gateway.requests import APIS, read_request

QUICK = settings(max_examples=40, deadline=None)  # how fast says nothing on a shared machine

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    APIS[path] for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
fields = st.sampled_from(
    ["model", "stream", "messages", "input", "prompt", "metadata", "stream_options", "store", "system", "instructions"]
)


def up(path: str, **body: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(read_request(APIS[path], json.dumps({"model": "dsl"} | body).encode()).encoded("v"))
    return told


@pytest.mark.parametrize("api", APIS.values(), ids=APIS)
@QUICK
@given(
    raw=st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(fields, json_values).map(lambda value: json.dumps(value).encode())
)
def test_whatever_comes_is_read_or_refused(api: Any, raw: bytes) -> None:
    with contextlib.suppress(Refusal):
        asked = read_request(api, raw)
        asked.opening()
        asked.conversation()
        json.loads(asked.encoded("v"))


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"", None),
        (b"[1]", None),
        (b'{"model":1}', "model"),
        (b"{}", "model"),
        (b'{"model":"dsl","stream":"true"}', "stream"),
        (b'{"model":"dsl","a":' + b"[" * 500 + b"]" * 500 + b"}", None),
        (b'{"model":"\xff"}', None),
        (b'{"model":"dsl","a":NaN}', None),
    ],
)
def test_what_cannot_be_served_is_the_clients_error(raw: bytes, param: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        read_request(CHAT, raw).encoded("v")
    assert (refused.value.status, refused.value.cause, refused.value.param) == (400, Cause.INVALID, param)


def test_the_last_of_two_models_is_the_one_that_is_looked_up_and_sent() -> None:
    asked = read_request(CHAT, b'{"model":"/etc","model":"dsl"}')
    assert asked.model == "dsl"
    assert asked.encoded("v") == b'{"model":"v"}'


def test_a_stream_is_asked_for_its_usage() -> None:
    assert up("/v1/chat/completions", stream=True)["stream_options"] == {"include_usage": True, "continuous_usage_stats": False}
    assert "stream_options" not in up("/v1/chat/completions")
    assert "stream_options" not in up("/v1/messages", stream=True)


@pytest.mark.parametrize(
    ("options", "unwanted"), [(None, True), ({}, True), ({"include_usage": False}, True), ({"include_usage": True}, False), (3, False)]
)
def test_whether_the_client_sees_the_usage(options: object, unwanted: bool) -> None:
    asked = read_request(CHAT, json.dumps({"model": "dsl", "stream": True, "stream_options": options}).encode())
    assert asked.usage_unwanted is unwanted


def test_what_the_client_asked_of_its_stream_stays() -> None:
    asked = {"include_usage": True, "continuous_usage_stats": True}
    assert up("/v1/completions", stream=True, stream_options=asked)["stream_options"] == asked


@pytest.mark.parametrize(
    "field",
    [
        pytest.param({"prompt_logprobs": 0}, id="log-probabilities of the prompt"),
        pytest.param({"logprob_token_ids": [1]}, id="log-probabilities of chosen tokens"),
        pytest.param({"echo": True, "logprobs": 1}, id="the prompt again, with log-probabilities"),
    ],
)
def test_what_would_end_the_engine_or_disturb_others_is_refused(field):
    with pytest.raises(Refusal) as refused:
        up("/v1/completions", prompt="hi", **field)
    assert refused.value.status == 400


@pytest.mark.parametrize("echo", [True, 1, "true"])
def test_echo_of_a_chat_is_refused_though_no_log_probabilities_are_asked_for(echo: object) -> None:
    with pytest.raises(Refusal) as refused:
        up("/v1/chat/completions", messages=[], echo=echo)
    assert (refused.value.status, refused.value.param) == (400, "echo")
    assert up("/v1/chat/completions", messages=[], echo=False)["echo"] is False
    assert up("/v1/completions", prompt="hi", echo=True)["echo"] is True


def test_log_probabilities_of_the_answer_are_served():
    assert up("/v1/completions", prompt="hi", logprobs=1, echo=False, prompt_logprobs=None)["logprobs"] == 1


@pytest.mark.parametrize("field", ["store", "previous_response_id", "conversation", "background", "prompt"])
def test_stored_state_is_refused_by_name(field: str) -> None:
    with pytest.raises(Refusal) as refused:
        up("/v1/responses", **{field: "x"})
    assert (refused.value.status, refused.value.param) == (400, field)
    assert refused.value.message.startswith(field)


def test_a_reference_to_a_stored_item_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        up("/v1/responses", input=[{"role": "user", "content": "hi"}, {"type": "item_reference", "id": "msg_1"}])
    assert (refused.value.status, refused.value.param) == (400, "input")
    assert refused.value.message.startswith("input: this endpoint keeps no items")


def test_responses_are_never_stored() -> None:
    assert up("/v1/responses", input="hi")["store"] is False
    assert up("/v1/responses", input="hi", store=False, previous_response_id=None)["store"] is False
    assert up("/v1/chat/completions", store=True)["store"] is True  # not ours to judge: vLLM ignores it


def turns(*messages: tuple[str, object]) -> list[dict[str, object]]:
    return [{"role": role, "content": content} for role, content in messages]


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [
        (
            "/v1/chat/completions",
            {"messages": turns(("system", "s"), ("user", "u"))},
            {"messages": turns(("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "again"))},
        ),
        ("/v1/chat/completions", {"messages": turns(("developer", "s"), ("user", [{"type": "text", "text": "u"}]))}, None),
        (
            "/v1/responses",
            {"instructions": "s", "input": turns(("user", "u"))},
            {"instructions": "s", "input": turns(("user", "u"), ("assistant", "a"))},
        ),
        (
            "/v1/messages",
            {"system": "s", "messages": turns(("user", "u"))},
            {"system": "s", "messages": turns(("user", "u"), ("assistant", "a"))},
        ),
        ("/v1/completions", {"prompt": "u"}, None),
    ],
)
def test_the_turns_of_a_conversation_have_one_opening(path: str, first: dict[str, Any], second: dict[str, Any] | None) -> None:
    def opening(body: dict[str, Any]) -> bytes:
        return read_request(APIS[path], json.dumps({"model": "dsl"} | body).encode()).opening()

    assert opening(first) == opening(second or first)
    other = json.loads(json.dumps(first).replace('"u"', '"v"'))
    assert opening(first) != opening(other)


def test_a_named_conversation() -> None:
    def name(metadata: object) -> str | None:
        return read_request(CHAT, json.dumps({"model": "dsl", "metadata": metadata}).encode()).conversation()

    assert name({"conversation_id": "c"}) == "c"
    assert [name(other) for other in (None, "c", {}, {"conversation_id": 3}, {"conversation_id": ""})] == [None] * 5


def test_errors_speak_the_clients_dialect() -> None:
    refusal = Refusal(429, Cause.RATE, "slow down", code="rate_limit_exceeded")
    assert json.loads(error_body(Dialect.OPENAI, refusal)) == {
        "error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
    }
    assert json.loads(error_body(Dialect.ANTHROPIC, refusal)) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "slow down"},
    }


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"dsl","x":[' + b"[]," * 400_000 + b"[]]}",
        b'{"model":"dsl","x":' + b"[" * 400_000,
        b'{"model":"dsl","x":[' + b'"",' * 400_000 + b"1]}",
        b'"' + b'\\"' * 400_000 + b"[" * 400_000,
    ],
    ids=["lists", "depth", "texts", "a text without an end"],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(raw: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_request(CHAT, raw)
    assert refused.value.status == (400 if raw.startswith(b'"') else 413)


def test_punctuation_in_texts_is_no_value() -> None:
    text = 'a, [b], {c}, "d", \\ ' * 100_000
    assert up("/v1/chat/completions", messages=[{"role": "user", "content": text}])["messages"][0]["content"] == text


def test_a_long_prompt_of_tokens_is_served() -> None:
    assert len(up("/v1/completions", prompt=list(range(131_072)))["prompt"]) == 131_072
