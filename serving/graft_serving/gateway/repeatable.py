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
    """Return whether a request, of any API, has no tools that run on a server. One that a server keeps parts of is no request here."""
    if any(body.get(field) for field in _ON_SERVERS):
        return False
    tools = body.get("tools")
    return not tools or _clients(tools)


def _clients(tools: object) -> bool:
    if not isinstance(tools, list):
        return False
    return all(isinstance(tool, dict) and _type(tool) in _CLIENTS_TOOLS for tool in tools)


def _type(value: Mapping[str, object]) -> str | None:
    found = value.get("type")
    return found if found is None or isinstance(found, str) else ""
