"""How an HTTP/1.1 answer is framed: its head, and where its body ends (RFC 9112)."""

from __future__ import annotations

from typing import Protocol

_LENGTH, _END, _TRAILER = "length", "end", "trailer"
_LONGEST_LINE = 8192


class Body(Protocol):
    """Takes bytes as they come, returns those of the body."""

    needs_more: bool
    ends_with_connection: bool

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body in `data`. Raises ValueError for bytes that cannot be."""


class Sized:
    """Of a known length."""

    __slots__ = ("_left", "needs_more")
    ends_with_connection = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.needs_more = length > 0

    def feed(self, data: bytes) -> bytes:
        if len(data) > self._left:
            raise ValueError("bytes after the answer")
        self._left -= len(data)
        self.needs_more = self._left > 0
        return data


class Unsized:
    """To the end of the connection."""

    __slots__ = ()
    needs_more = True
    ends_with_connection = True

    def feed(self, data: bytes) -> bytes:
        return data


class Chunked:
    """In chunks that say their own length."""

    __slots__ = ("_buffer", "_left", "_next", "needs_more")
    ends_with_connection = False

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        """Bytes of the current chunk that have not come yet."""
        self._next = _LENGTH
        """What the next line is, when nothing is left of a chunk."""
        self.needs_more = True

    def feed(self, data: bytes) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        parts: list[bytes] = []
        position = 0
        while self.needs_more and position < len(data):
            if self._left:
                parts.append(data[position : position + self._left])
                self._left -= len(parts[-1])
                position += len(parts[-1])
                continue
            end = data.find(b"\r\n", position)
            if end < 0:
                self._keep(data[position:])
                break
            self._line(data[position:end])
            position = end + 2
        if not self.needs_more and position != len(data):
            raise ValueError("bytes after the answer")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _keep(self, start_of_line: bytes) -> None:
        if len(start_of_line) > _LONGEST_LINE:
            raise ValueError("a chunk's line is too long")
        self._buffer = start_of_line

    def _line(self, line: bytes) -> None:
        if self._next == _LENGTH:
            self._left = _hexadecimal(line.partition(b";")[0])
            self._next = _END if self._left else _TRAILER
        elif self._next == _TRAILER:
            self.needs_more = bool(line)
        elif line:
            raise ValueError("a chunk without its end")
        else:
            self._next = _LENGTH


def _hexadecimal(text: bytes) -> int:
    text = text.strip(b" \t")
    if not text or len(text) > 15 or text.strip(b"0123456789abcdefABCDEF"):
        raise ValueError("not a chunk's length")
    return int(text, 16)


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Return status and headers (names in lower case; of repeated ones the last). Raises ValueError."""
    lines = head.decode("latin-1").split("\r\n")
    if not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
        raise ValueError("a line break within a line")  # a client would read it as two headers
    if b"\0" in head:
        raise ValueError("not a head")
    status_line = lines[0]
    if not status_line.startswith(("HTTP/1.1 ", "HTTP/1.0 ")) or not status_line[9:12].isdecimal():
        raise ValueError("not a status line")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name[0] in " \t" or name[-1] in " \t":
            raise ValueError("not a header")
        headers[name.lower()] = value.strip(" \t")
    if status_line.startswith("HTTP/1.0 "):
        headers.setdefault("connection", "close")
    return int(status_line[9:12]), headers


def body_of(status: int, headers: dict[str, str]) -> Body:
    """Return how the body of an answer to a POST or GET is framed. Raises ValueError."""
    if status in (204, 304):
        return Sized(0)
    if coding := headers.get("transfer-encoding"):
        if coding.lower() != "chunked" or "content-length" in headers:
            raise ValueError("not a framing that a door uses")
        return Chunked()
    length = headers.get("content-length")
    if length is None:
        return Unsized()
    if not length.isdecimal():
        raise ValueError("not a length")
    return Sized(int(length))
