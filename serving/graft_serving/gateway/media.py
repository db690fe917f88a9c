"""
Images, audio and video that a request names by URL.

vLLM fetches them, from inside the cluster: whoever may ask could make it read what only pods reach. So only media that the request
itself carries (data:) pass, and those at hosts that the endpoint names. Pure.
"""

import re
from collections.abc import Collection, Iterator

from graft_serving.gateway.errors import Cause, Refusal

_HTTP = re.compile(r"https?://([a-z0-9.-]+)(?::[0-9]{1,5})?(?:[/?#].*)?", re.IGNORECASE | re.DOTALL)
"""No user, no backslash, nothing before the scheme: what URL parsers read in more than one way is at no host."""
_NAMING = ("image_url", "video_url", "audio_url", "input_audio", "file_url", "file", "source")
"""Fields of a content part that hold a URL, or an object with one. vLLM takes some of them whatever the part's `type` says."""
_INNER = ("content", "output", "source")
"""Fields with further parts: tool results, outputs of calls, documents."""


def refuse_remote(turns: object, field: str, hosts: Collection[str]) -> None:
    """Refuse media at other hosts. `turns`: messages or items; text, however long, is not looked at. Raises `Refusal`."""
    if not isinstance(turns, list):
        return
    for turn in turns:
        if isinstance(turn, dict):
            content = turn.get("content")
            if not isinstance(content, str):
                _refuse_in(content, field, hosts)
            if "output" in turn:
                _refuse_in(turn["output"], field, hosts)


def _refuse_in(parts: object, field: str, hosts: Collection[str]) -> None:
    for url in _urls(parts):
        _judge(url, field, hosts)


def _urls(parts: object) -> Iterator[str]:
    waiting = [parts]
    while waiting:
        found = waiting.pop()
        if isinstance(found, list):
            waiting.extend(found)
        elif isinstance(found, dict):
            yield from _named(found)
            waiting.extend(found[inner] for inner in _INNER if isinstance(found.get(inner), list | dict))


def _named(part: dict[str, object]) -> Iterator[str]:
    """Return the URLs that one part names."""
    for field in _NAMING:
        value = part.get(field)
        if isinstance(value, dict):
            value = value.get("url")
        elif field == "source":
            continue  # of a search result: words for the model
        if isinstance(value, str):
            yield value


def _judge(url: str, field: str, hosts: Collection[str]) -> None:
    if url[:5].lower() == "data:":  # as vLLM asks, so that nothing is data here and a URL there
        return
    found = _HTTP.fullmatch(url) if hosts else None
    if found is None or found[1].lower() not in hosts:
        message = "media are served as data: URLs, or from the hosts of gateway.allowedMediaHosts of this endpoint; this one is neither"
        raise Refusal(400, Cause.INVALID, message, param=field, code="unsupported_media_url")
