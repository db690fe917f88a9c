"""How much of a request and its answers a pair line keeps."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from graft_api.collect import Content, SideLine, Told
from graft_evaluation.pairs.sides import Side


class Redactor:
    """Makes lines of answers and requests, with as much of their content as may be kept."""

    def __init__(self, content: Content, key: bytes, pseudonyms: bytes) -> None:
        """`key`: of this process, never written down. `pseudonyms`: of the test (`pseudonyms.py`)."""
        self._content = content
        self._key = key
        self._pseudonyms = pseudonyms

    def conversation(self, key: str) -> str:
        """
        Return what a conversation is called in the store, of 32 hexadecimal digits.

        The gateway's own key is a hash of how the conversation began: where content is not kept, it must not tell who can guess that.
        """
        return key if self._content is Content.FULL else self._pseudonym("conversation", key)

    def request_id(self, request_id: str) -> str:
        """Return what a request is called: clients choose its name, and may write anything into it."""
        if self._content is Content.NONE:
            return ""
        return request_id if self._content is Content.FULL else self._pseudonym("request", request_id)

    def _pseudonym(self, of: str, name: str) -> str:
        data = name.encode("utf-8", "surrogatepass")
        return blake2b(data, digest_size=16, key=self._pseudonyms, person=of.encode()).hexdigest()

    def side(self, side: Side) -> SideLine:
        """Return one side of a line."""
        said = side.said
        line = SideLine(ended=said.ended, seconds=side.seconds, first_byte_seconds=side.first_byte_seconds, tokens=said.tokens)
        if self._content is Content.NONE:
            return line
        calls = None if said.tool_calls is None else [(call.name, call.arguments) for call in said.tool_calls]
        update = {"characters": len(said.text), "digest": self._digest(repr((said.text, calls)).encode("utf-8", "surrogatepass"))}
        if self._content is Content.FULL:
            return line.model_copy(update={**update, "told": Told(text=_storable(said.text), tool_calls=calls)})
        return line.model_copy(update=update)

    def request(self, body: bytes) -> dict[str, Any]:
        """Return a line's fields of the request."""
        if self._content is Content.NONE:
            return {}
        found: dict[str, Any] = {"request_digest": self._digest(body), "request_bytes": len(body)}
        return {**found, "request": body.decode("utf-8", "replace")} if self._content is Content.FULL else found

    def _digest(self, data: bytes) -> str:
        return blake2b(data, digest_size=16, key=self._key).hexdigest()


def _storable(text: str) -> str:
    """Half a surrogate pair cannot be written down."""
    return text.encode("utf-8", "replace").decode()
