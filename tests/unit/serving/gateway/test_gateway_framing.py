"""Answers of a door, however they are cut on their way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_serving.gateway.framing import Chunked, Sized, body_of, parse_head

QUICK = settings(max_examples=40, deadline=None)  # how fast says nothing on a shared machine


def chunked(parts: list[bytes], trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part) + b"0\r\n" + trailer + b"\r\n"


@QUICK
@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=20), st.sampled_from([b"", b"a: b\r\n"]))
def test_any_cut_of_a_chunked_body_gives_its_bytes(parts: list[bytes], places: list[int], trailer: bytes) -> None:
    data = chunked(parts, trailer)
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    body, out = Chunked(), b""
    for start, end in itertools.pairwise(ends):
        assert body.needs_more
        out += body.feed(data[start:end])
    assert out == b"".join(parts)
    assert not body.needs_more


@pytest.mark.parametrize(
    "data", [b"x\r\n", b"\r\n", b"-1\r\n", b"0x5\r\n", b"3\r\nabcd\r\n", b"0\r\n\r\nmore", b"1" * 9000, b"f" * 16 + b"\r\n"]
)
def test_what_is_no_chunked_body_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Chunked().feed(data)


@QUICK
@given(st.binary(max_size=200))
def test_garbage_is_refused_or_taken_but_never_fatal(data: bytes) -> None:
    for action in (lambda: Chunked().feed(data), lambda: parse_head(data), lambda: Sized(3).feed(data)):
        try:
            action()
        except ValueError:
            continue


def test_a_head() -> None:
    status, headers = parse_head(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Thing:  a: b \r\nTransfer-Encoding: chunked")
    assert status == 200
    assert headers == {"content-type": "text/event-stream", "x-thing": "a: b", "transfer-encoding": "chunked"}
    assert isinstance(body_of(status, headers), Chunked)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": "-1"},
        {"content-length": "1_0"},
        {"transfer-encoding": "gzip"},
        {"transfer-encoding": "chunked", "content-length": "3"},
    ],
)
def test_a_framing_that_could_be_read_in_two_ways_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        body_of(200, headers)


@pytest.mark.parametrize("head", [b"HTTP/2 200", b"", b"HTTP/1.1 OK", b"HTTP/1.1 200 OK\r\n folded: x", b"HTTP/1.1 200 OK\r\nname : x"])
def test_an_unusual_head_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_head(head)


@pytest.mark.parametrize("within", [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0"])
def test_what_a_client_could_read_as_another_header_is_refused(within: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_head(b"HTTP/1.1 200 OK\r\nretry-after: 1" + within + b"set-cookie: x")
