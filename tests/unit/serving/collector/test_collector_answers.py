"""All four APIs, whole and streamed: what is read is the same."""

import json

import pytest
from collector_world import chat, events

from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.scorers import ToolCall
from graft_serving.collector.answers import read_answer


def sse(*found, names=False):
    return b"".join((f"event: {value['type']}\n" if names else "").encode() + f"data: {json.dumps(value)}\n\n".encode() for value in found)


CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
RESPONSE = {
    "status": "completed",
    "output": [
        {"type": "reasoning", "content": []},
        {"type": "message", "content": [{"type": "output_text", "text": "yes it is"}]},
        {"type": "function_call", "name": "look", "arguments": '{"a": 1}'},
    ],
    "usage": {"input_tokens": 1, "output_tokens": 4},
}
MESSAGE = {
    "content": [{"type": "text", "text": "yes it is"}, {"type": "tool_use", "name": "look", "input": {"a": 1}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 1, "output_tokens": 4},
}
WITH_CALL = {
    "chat, whole": ("chat", False, json.dumps(chat("yes it is", finish="tool_calls", calls=[CALL])).encode()),
    "chat, streamed": (
        "chat",
        True,
        sse(
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"index": 0, "delta": {"content": "yes "}}]},
            {"choices": [{"index": 0, "delta": {"content": "it is"}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "look", "arguments": ""}}]}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
            {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 4}},
        )
        + b"data: [DONE]\n\n",
    ),
    "responses, whole": ("responses", False, json.dumps(RESPONSE).encode()),
    "responses, streamed": (
        "responses",
        True,
        sse(
            {"type": "response.created", "response": {"status": "in_progress", "output": []}},
            {"type": "response.output_text.delta", "delta": "yes"},
            {"type": "response.completed", "response": RESPONSE},
            names=True,
        ),
    ),
    "messages, whole": ("messages", False, json.dumps(MESSAGE).encode()),
    "messages, streamed": (
        "messages",
        True,
        sse(
            {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 1, "output_tokens": 0}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "yes it is"}},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "look", "input": {}}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a": '}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
            names=True,
        ),
    ),
}


@pytest.mark.parametrize(("api", "stream", "body"), WITH_CALL.values(), ids=WITH_CALL.keys())
def test_text_calls_and_tokens_are_read(api, stream, body):
    said = read_answer(api, 200, body, stream=stream)
    assert (said.ended, said.text) == (Answer.COMPLETE, "yes it is")
    assert said.tool_calls is not None
    ((name, arguments),) = [(call.name, json.loads(call.arguments)) for call in said.tool_calls]
    assert (name, arguments) == ("look", {"a": 1})
    assert said.tokens == (3 if api == "chat" and not stream else 4)


def test_a_completion_is_read_whole_and_streamed():
    whole = {"choices": [{"index": 0, "text": "yes it is", "finish_reason": "stop"}]}
    parts = [
        {"choices": [{"index": 0, "text": "yes ", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "it is", "finish_reason": "stop"}]},
    ]
    assert read_answer("completions", 200, json.dumps(whole).encode(), stream=False).text == "yes it is"
    assert read_answer("completions", 200, sse(*parts), stream=True).text == "yes it is"


ENDS = {
    "cut off": ("chat", False, json.dumps(chat("yes", finish="length")).encode(), Answer.LENGTH),
    "a stream cut off": ("chat", True, events("yes", "length"), Answer.LENGTH),
    "a response cut off": ("responses", False, json.dumps(RESPONSE | {"status": "incomplete"}).encode(), Answer.LENGTH),
    "a message cut off": ("messages", False, json.dumps(MESSAGE | {"stop_reason": "max_tokens"}).encode(), Answer.LENGTH),
    "nothing but blanks": ("chat", False, json.dumps(chat(" \n")).encode(), Answer.EMPTY),
    "a call and no text is something": ("chat", False, json.dumps(chat("", "m", "tool_calls", [CALL])).encode(), Answer.COMPLETE),
    "a stream without an end": ("chat", True, events("yes", None), Answer.ERROR),
    "an error in a stream": ("chat", True, events("yes") + b'data: {"error": {"message": "x"}}\n\n', Answer.ERROR),
    "a failed response": ("responses", True, sse({"type": "response.failed", "response": {}}, names=True), Answer.ERROR),
    "an error among messages": ("messages", True, sse({"type": "error", "error": {}}, names=True), Answer.ERROR),
    "no JSON": ("chat", False, b"<html>", Answer.ERROR),
    "JSON of another kind": ("chat", False, b"[]", Answer.ERROR),
    "no choices": ("chat", False, b'{"choices": []}', Answer.ERROR),
    "half an event": ("chat", True, b'data: {"choices": [{"ind', Answer.ERROR),
}


@pytest.mark.parametrize(("api", "stream", "body", "ended"), ENDS.values(), ids=ENDS.keys())
def test_how_it_ended(api, stream, body, ended):
    assert read_answer(api, 200, body, stream=stream).ended is ended


def test_a_status_other_than_200_says_nothing():
    assert read_answer("chat", 500, json.dumps(chat("yes")).encode(), stream=False).ended is Answer.ERROR


def test_without_structured_calls_they_may_be_in_the_text():
    assert read_answer("chat", 200, json.dumps(chat("yes")).encode(), stream=False).tool_calls is None
    calls = read_answer("chat", 200, json.dumps(chat("", calls=[CALL])).encode(), stream=False).tool_calls
    assert calls == (ToolCall("look", '{"a": 1}'),)
