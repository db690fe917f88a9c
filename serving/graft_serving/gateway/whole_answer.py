"""
An answer whose body is here as a whole: head and body go to the client's connection in one piece.

aiohttp decides framing and headers of any answer anew; here they are known.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import HttpVersion11, web


class WholeAnswer(web.StreamResponse):
    """To a POST, with a status that has a body. Headers have no line breaks: the gateway's own, or checked where they came in."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status=status)
        self._lines = headers
        self._content = body
        self._begun = False
        self._keeps: bool | None = None

    @property
    def prepared(self) -> bool:
        """Whether it is on its way."""
        return self._begun

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection stays for another request; None: as the client asks for."""
        return self._keeps

    def force_close(self) -> None:
        """Let the connection end with this answer."""
        self._keeps = False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send all of it. Raises ConnectionResetError."""
        if self._begun:
            return
        self._begun = True
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        if self._keeps is None:
            self._keeps = request.keep_alive
        transport.write(self._head(request) + self._content)
        await request.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""

    def _head(self, request: web.BaseRequest) -> bytes:
        version = request.version
        lines = [f"HTTP/{version.major}.{version.minor} {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self._lines.items()]
        lines.append(f"Content-Length: {len(self._content)}")
        if not self._keeps:
            lines.append("Connection: close")
        elif version < HttpVersion11:
            lines.append("Connection: keep-alive")
        lines.append("\r\n")
        return "\r\n".join(lines).encode("latin-1")
