"""
Answers on their way through: the model's name made the alias, the usage read, streams cut at the ends of events only.

An event ends with an empty line; lines end with CR LF, LF or CR (WHATWG HTML, section 9.2). Bytes that need no change are passed
on as they came, several events in one piece.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

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
        """Take what an answer, or whole events of one, say; the larger number holds, for streams count up."""
        if text.count(_USAGE) == 1:
            self._scan(text)
            return
        for piece in split_events(text):
            if piece.count(_USAGE) < 2 or not self._parse(piece):
                self._scan(piece)

    def _scan(self, text: bytes) -> None:
        at = text.find(_USAGE)
        if at < 0:
            return
        part = text[at : at + _USAGE_LENGTH]
        if count := _TOKENS_IN.search(part):
            self.tokens_in = max(self.tokens_in, int(count[1]))
        if count := _TOKENS_OUT.search(part):
            self.tokens_out = max(self.tokens_out, int(count[1]))

    def _parse(self, text: bytes) -> bool:
        """Read where a server counts, and not where a tool's input uses the word. False of what cannot be parsed."""
        if (parsed := _parsed(text)) is None:
            return False
        for holder in parsed.holders():
            if isinstance(found := holder.get("usage"), dict):
                self.tokens_in = max(self.tokens_in, _tokens(found, "prompt_tokens", "input_tokens"))
                self.tokens_out = max(self.tokens_out, _tokens(found, "completion_tokens", "output_tokens"))
        return True


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
        if self._count(text) < 2 or (parsed := _parsed(text)) is None:
            return self._everywhere(text)
        for holder in parsed.holders():
            if holder.get("model") == self._version:
                holder["model"] = self._alias
        return parsed.head + orjson.dumps(parsed.document) + parsed.tail

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


class _Parsed(NamedTuple):
    """One event, or a whole answer."""

    head: bytes
    """An event's lines before its JSON."""
    document: dict[str, Any]
    tail: bytes

    def holders(self) -> list[dict[str, Any]]:
        """Return the objects in which a server names the model and counts tokens."""
        return [one for one in (self.document, self.document.get("message"), self.document.get("response")) if isinstance(one, dict)]


def _parsed(text: bytes) -> _Parsed | None:
    head, brace, rest = text.partition(b"{")
    written = rest.rstrip()
    try:
        return _Parsed(head, orjson.loads(brace + written), rest[len(written) :])
    except ValueError:
        return None


def _tokens(usage: Mapping[str, Any], *names: str) -> int:
    return max((count for name in names if isinstance(count := usage.get(name), int)), default=0)


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
