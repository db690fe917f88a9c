"""
Answers on their way through: the model's name made the alias, the usage read, streams cut at the ends of events only.

An event ends with an empty line; lines end with CR LF, LF or CR (WHATWG HTML, section 9.2). Bytes that need no change are passed
on as they came, several events in one piece.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import orjson

from graft_api.dataplane import BASE_NAME

LONGEST_EVENT = 4 * 1024 * 1024
"""A stream with a longer event is broken off: nothing that vLLM writes comes near."""

_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_USAGE = b'"usage":'
# No more digits than a 64-bit number has: within a tool's input these may be a model's own words.
_TOKENS_IN = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d{1,15})(?!\d)')
_TOKENS_OUT = re.compile(rb'"(?:completion|output)_tokens":\s*(\d{1,15})(?!\d)')
_USAGE_LENGTH = 1024
# At the start of a line, where nothing that a model or a client wrote can stand: in JSON line breaks are escaped.
_ERROR = re.compile(rb'^(?:data: \{"error"|event: error)|[\r\n](?:data: \{"error"|event: error)')


class EventTooLong(Exception):  # noqa: N818 - says what happened
    """An event is longer than `LONGEST_EVENT`."""


class Usage:
    """Tokens of one answer, as its server counted them."""

    __slots__ = ("tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.tokens_in = 0
        self.tokens_out = 0

    def read(self, text: bytes) -> None:
        """Take what `text` says; the larger number holds, for streams count up."""
        at = text.find(_USAGE)
        while at >= 0:
            part = text[at : at + _USAGE_LENGTH]
            if count := _TOKENS_IN.search(part):
                self.tokens_in = max(self.tokens_in, int(count[1]))
            if count := _TOKENS_OUT.search(part):
                self.tokens_out = max(self.tokens_out, int(count[1]))
            at = text.find(_USAGE, at + len(_USAGE))


class Renaming:
    """
    Makes a version's name the alias.

    By bytes: within JSON strings quotes are escaped, so `"model":"x"` can only be a member of an object. Nobody but graft has a word like a
    version's name; but `base` is one that a tool's input or a client's metadata may hold, too.
    """

    __slots__ = ("_alias", "_pairs", "_version")

    def __init__(self, version: str, alias: str) -> None:
        self._version, self._alias = version, alias
        self._pairs = [(f'"model":{space}"{version}"'.encode(), f'"model":{space}"{alias}"'.encode()) for space in ("", " ")]

    def answer(self, text: bytes) -> bytes:
        """Rename in an answer, or in whole events of one."""
        if self._version == BASE_NAME and self._count(text) > 1:
            return b"".join(self._one(piece) for piece in split_events(text))
        return self._everywhere(text)

    def _count(self, text: bytes) -> int:
        return sum(text.count(old) for old, _ in self._pairs)

    def _one(self, text: bytes) -> bytes:
        """Rename in one event or one whole answer: only where the model's name stands, if there is another place."""
        if self._count(text) > 1:
            head, brace, rest = text.partition(b"{")
            document = rest.rstrip()
            with contextlib.suppress(ValueError):
                return head + self._renamed(orjson.loads(brace + document)) + rest[len(document) :]
        return self._everywhere(text)

    def _renamed(self, answer: dict[str, Any]) -> bytes:
        for holder in (answer, answer.get("message"), answer.get("response")):
            if isinstance(holder, dict) and holder.get("model") == self._version:
                holder["model"] = self._alias
        return orjson.dumps(answer)

    def _everywhere(self, text: bytes) -> bytes:
        for old, new in self._pairs:
            text = text.replace(old, new)
        return text

    def error(self, text: bytes) -> bytes:
        """Rename in an error's words, too. `base` is a word of its own, so there only where vLLM quotes a model's name."""
        text = self.answer(text)
        if self._version == BASE_NAME:
            return text.replace(b"`base`", f"`{self._alias}`".encode())
        return text.replace(self._version.encode(), self._alias.encode())


class EventStream:
    """One stream. `feed` returns the whole events so far, changed; `end` what is left."""

    __slots__ = ("_drop_usage", "_pending", "_renaming", "failed", "usage")

    def __init__(self, renaming: Renaming, *, drop_usage: bool) -> None:
        self._renaming = renaming
        self._drop_usage = drop_usage
        self._pending = b""
        self.usage = Usage()
        self.failed = False
        """vLLM has told of an error within the stream."""

    def feed(self, data: bytes) -> bytes:
        """Return events that are whole now, or nothing. Raises `EventTooLong`."""
        if not self._pending and data.endswith(b"\n\n"):
            return self._changed(data)
        known = len(self._pending)
        data = self._pending + data
        end = _last_boundary(data, max(0, known - 3))
        self._pending = data[end:]
        if len(self._pending) > LONGEST_EVENT:
            raise EventTooLong
        return self._changed(data[:end]) if end else b""

    def end(self) -> bytes:
        """Return what came after the last whole event."""
        rest, self._pending = self._pending, b""
        return self._changed(rest) if rest else b""

    def _changed(self, events: bytes) -> bytes:
        events = self._renaming.answer(events)
        if b'"usage"' in events:
            self.usage.read(events)
            if self._drop_usage:
                events = b"".join(event for event in split_events(events) if not _only_usage(event))
        if _ERROR.search(events):
            self.failed = True
        return events


def split_events(data: bytes) -> Iterator[bytes]:
    """Yield the events with their ends; together they are `data`."""
    start = 0
    for boundary in _BOUNDARY.finditer(data):
        yield data[start : boundary.end()]
        start = boundary.end()
    if start < len(data):
        yield data[start:]


def _last_boundary(data: bytes, start: int) -> int:
    """Return the end of the last boundary at or after `start`, or 0."""
    if b"\r" not in data:
        return data.rfind(b"\n\n", start) + 2 if data.find(b"\n\n", start) >= 0 else 0
    end = 0
    for boundary in _BOUNDARY.finditer(data, start):
        end = boundary.end()
    return end


def _only_usage(event: bytes) -> bool:
    """Whether the event is the chunk that `include_usage` adds: no choices, but a usage."""
    if b'"usage"' not in event:
        return False
    line = event.strip()  # the LF of the CR LF before it may be its first byte
    if not line.startswith(b"data:"):
        return False
    try:
        chunk = orjson.loads(line[5:])
    except ValueError:
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
