"""However a stream is cut on its way, clients get whole events, the same bytes, the alias, and no usage that they did not ask for."""

from __future__ import annotations

import itertools
import json
import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_serving.gateway import sse
from graft_serving.gateway.sse import EventStream, EventTooLong, Renaming, Usage, split_events

QUICK = settings(max_examples=40, deadline=None)  # how fast says nothing on a shared machine

VERSION, ALIAS = "dsl-0123456789abcdef", "dsl"


def stream(*, drop: bool = False) -> EventStream:
    return EventStream(Renaming(VERSION, ALIAS), drop_usage=drop)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


line = st.text(alphabet='abd:a "{},é', max_size=12).map(str.encode)
eol = st.sampled_from([b"\n", b"\r\n", b"\r"])
bodies = st.lists(st.tuples(line, eol), max_size=20).map(lambda parts: b"".join(text + end for text, end in parts))


@QUICK
@given(bodies, st.lists(st.integers(0, 500), max_size=12))
def test_any_cut_gives_the_same_bytes(data: bytes, places: list[int]) -> None:
    events = stream()
    out = [events.feed(part) for part in cut(data, places)]
    assert b"".join(out) + events.end() == data


@QUICK
@given(bodies, st.lists(st.integers(0, 500), max_size=12))
def test_only_whole_events_leave(data: bytes, places: list[int]) -> None:
    events = stream()
    for part in cut(data, places):
        if out := events.feed(part):
            assert re.search(rb"(?>\r\n|\n|\r){2}\Z", out)


@QUICK
@given(bodies)
def test_events_together_are_the_stream(data: bytes) -> None:
    assert b"".join(split_events(data)) == data


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_an_error_within_a_stream_is_one_and_words_about_one_are_not(end: str) -> None:
    said = [f"data: {json.dumps({'choices': [{'text': text}]})}{end}{end}" for text in ("event: error", 'data: {"error"', "\nevent: error")]
    events = stream()
    for event in said:
        events.feed(event.encode())
    events.feed("".join(said).encode())
    assert not events.failed, "else a client who says so in an echoed prompt takes a version out of service"
    for event in (f'data: {{"error": {{}}}}{end}{end}', f"event: error{end}data: {{}}{end}{end}"):
        for before in ("", *said):
            events = stream()
            events.feed((before + event).encode())
            assert events.failed


CHUNKS = [
    {"id": "1", "model": VERSION, "choices": [{"delta": {"content": f'say "model":"{VERSION}" and {VERSION}'}}]},
    {"id": "1", "model": VERSION, "choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"id": "1", "model": VERSION, "choices": [], "usage": {"prompt_tokens": 300, "total_tokens": 348, "completion_tokens": 48}},
]


def encoded(end: str, spaces: bool) -> bytes:
    separators = (", ", ": ") if spaces else (",", ":")
    return "".join(f"data: {json.dumps(chunk, separators=separators)}{end}{end}" for chunk in CHUNKS).encode() + b"data: [DONE]\n\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("spaces", [False, True], ids=["compact", "spaced"])
@QUICK
@given(places=st.lists(st.integers(0, 800), max_size=12))
def test_the_alias_and_no_usage_however_it_is_cut(end: str, spaces: bool, places: list[int]) -> None:
    events = stream(drop=True)
    out = b"".join(events.feed(part) for part in cut(encoded(end, spaces), places)) + events.end()
    told = [event for event in split_events(out) if b"[DONE]" not in event]
    first, second = (json.loads(event.strip()[6:]) for event in told)
    assert first["model"] == second["model"] == ALIAS
    assert first["choices"][0]["delta"]["content"] == f'say "model":"{VERSION}" and {VERSION}'  # content is nobody's to change
    assert (events.usage.tokens_in, events.usage.tokens_out) == (300, 48)


def test_usage_on_a_chunk_with_choices_stays() -> None:
    event = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    assert stream(drop=True).feed(event) == event


def test_content_that_looks_like_usage_counts_nothing() -> None:
    usage = Usage()
    usage.read(json.dumps({"content": '"usage":{"prompt_tokens":999}'}).encode())
    assert usage.tokens_in == 0


def test_the_larger_count_holds() -> None:
    events = stream()
    events.feed(b'data: {"message":{"usage":{"input_tokens":7,"output_tokens":0}}}\n\n')
    events.feed(b'data: {"type":"message_delta","usage":{"input_tokens":7,"output_tokens":12}}\n\n')
    assert (events.usage.tokens_in, events.usage.tokens_out) == (7, 12)


def test_an_endless_event_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONGEST_EVENT", 1000)
    events = stream()
    events.feed(b"data: " + b"x" * 900)
    with pytest.raises(EventTooLong):
        events.feed(b"x" * 200)


def test_an_error_names_the_alias() -> None:
    assert Renaming(VERSION, "dsl").error(f"The model `{VERSION}` does not exist".encode()) == b"The model `dsl` does not exist"
    assert Renaming("base", "dsl").error(b"`base`: the database") == b"`dsl`: the database"


def test_a_number_that_is_no_count_is_not_read() -> None:
    usage = Usage()
    usage.read(b'{"input":{"usage":{"output_tokens":99999999999999999999999}},"usage":{"input_tokens":7,"output_tokens":2}}')
    assert (usage.tokens_in, usage.tokens_out) == (7, 2)


def test_the_base_model_is_renamed_where_its_name_stands_and_nowhere_else() -> None:
    """`base` is also a word that a tool's input, or what a client noted of its request, may hold."""
    renaming = Renaming("base", ALIAS)
    used = {"type": "tool_use", "name": "pick", "input": {"model": "base"}}
    whole = {"type": "message", "content": [used], "model": "base"}
    assert orjson.loads(renaming.answer(orjson.dumps(whole))) == whole | {"model": ALIAS}
    begun = {"type": "response.created", "response": {"model": "base", "metadata": {"model": "base"}}}
    expected = {"type": "response.created", "response": {"model": ALIAS, "metadata": {"model": "base"}}}
    events = [b"event: response.created\ndata: " + orjson.dumps(each) + b"\n\n" for each in (begun, expected)]
    simple = b'data: {"model":"base","choices":[]}\n\n'
    stream = EventStream(renaming, drop_usage=False)
    assert stream.feed(simple + events[0] + simple) == simple.replace(b"base", ALIAS.encode()) + events[1] + simple.replace(
        b"base", ALIAS.encode()
    )
    assert Renaming(VERSION, ALIAS).answer(orjson.dumps(whole)) == orjson.dumps(whole)
    broken = b'{"model":"base","input":{"model":"base"}'
    assert renaming.answer(broken) == broken.replace(b"base", ALIAS.encode())


def test_a_tool_s_input_counts_no_tokens() -> None:
    usage = Usage()
    used = {"type": "tool_use", "input": {"usage": {"output_tokens": 999_999_999}}}
    usage.read(orjson.dumps({"content": [used], "usage": {"input_tokens": 5, "output_tokens": 7}}))
    assert (usage.tokens_in, usage.tokens_out) == (5, 7)
    begun = {"response": {"metadata": {"usage": "x"}, "tools": [{"output_tokens": 99}], "usage": {"input_tokens": 6, "output_tokens": 8}}}
    events = [b"event: response.completed\ndata: " + orjson.dumps(each) + b"\n\n" for each in (begun, {"usage": {"output_tokens": 9}})]
    usage.read(b"".join(events))
    assert (usage.tokens_in, usage.tokens_out) == (6, 9)
    usage.read(b'{"usage":{"output_tokens":10},"usage":{"output_tokens":11')
    assert usage.tokens_out == 10, "cut off: as well as can be"
