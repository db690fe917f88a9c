"""
Whether a request may be asked again: only then it is mirrored.

A tool that the client runs is only named in an answer; one that a server runs acts when the model calls it. What is not known to be
the client's counts as the server's.
"""

from collections.abc import Mapping

_CLIENTS_TOOLS = frozenset({None, "function", "custom"})
"""Types of tools that are only named: chat completions, /v1/responses, and /v1/messages, where a tool of the client's needs no type."""

_ON_SERVERS = ("web_search_options", "mcp_servers", "container")
"""Fields that switch on tools of a server: chat completions the first, /v1/messages the others."""


def repeatable(body: Mapping[str, object]) -> bool:
    """Return whether a request, of any API, has neither tools that run on a server nor parts that a server keeps."""
    if any(body.get(field) for field in _ON_SERVERS) or isinstance(body.get("prompt"), dict):  # of /v1/responses: a stored prompt
        return False
    if (tools := body.get("tools")) and not _clients(tools):
        return False
    return not refers_to_stored(body.get("input"))


def _clients(tools: object) -> bool:
    if not isinstance(tools, list):
        return False
    return all(isinstance(tool, dict) and _type(tool) in _CLIENTS_TOOLS for tool in tools)


def refers_to_stored(items: object) -> bool:
    """Return whether an item of /v1/responses stands for one that was stored before."""
    return isinstance(items, list) and any(isinstance(item, dict) and _type(item) == "item_reference" for item in items)


def _type(value: Mapping[str, object]) -> str | None:
    found = value.get("type")
    return found if found is None or isinstance(found, str) else ""
