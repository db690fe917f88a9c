"""Request ids and W3C trace context: what a client sends is kept if it is well formed, and made up otherwise."""

import re
from random import Random
from typing import NamedTuple

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_STATE = re.compile(r"[\x20-\x7e]{1,512}")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class Trace(NamedTuple):
    """The span of this request in the gateway, as its upstream request names it."""

    trace_id: str
    parent: str
    """`traceparent` for upstream."""
    state: str | None
    """`tracestate`, unchanged: the gateway adds nothing to it."""


def request_id(offered: str | None, random: Random) -> str:
    """Return the client's id, or a new one. Not a secret: `random` need not be one."""
    if offered and _REQUEST_ID.fullmatch(offered):
        return offered
    return f"{random.getrandbits(128):032x}"


def continue_trace(parent: str | None, state: str | None, random: Random) -> Trace:
    """
    Return a child of the client's span, or a new trace.

    https://www.w3.org/TR/trace-context/: a broken traceparent is as none, and then tracestate does not count; a later version is read
    as version 00. The sampled flag is the client's; a new trace is not sampled, since the gateway has no exporter.
    """
    found = _PARENT.fullmatch(parent) if parent else None
    span = f"{random.getrandbits(64) | 1:016x}"
    if found is None or not _valid(found):
        trace_id = f"{random.getrandbits(128) | 1:032x}"
        return Trace(trace_id, f"00-{trace_id}-{span}-00", None)
    flags = int(found[4], 16) & 1
    return Trace(found[2], f"00-{found[2]}-{span}-{flags:02x}", state if state and _STATE.fullmatch(state) else None)


def _valid(found: re.Match[str]) -> bool:
    version_00_with_more = found[1] == "00" and len(found[0]) != 55
    return found[1] != "ff" and found[2] != _NO_TRACE and found[3] != _NO_SPAN and not version_00_with_more
