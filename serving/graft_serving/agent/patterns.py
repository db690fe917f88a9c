"""
Which regular expressions of an adapter_config.json are matched at all.

`re` backtracks and keeps the interpreter for as long as it does: one crafted pattern, and the agent answers neither gateways nor
the kubelet for hours. So only what has few ways to match is taken, which is what people write for modules: names, wildcards,
classes, alternatives. No repeated groups, no look-around, no back references.
"""

import re
from typing import Final

from graft_serving.agent.failure import VersionRefusedError, invalid, unsupported

PATTERN_LENGTH: Final = 256
MODULE_LENGTH: Final = 128
"""Of a module's name; the longest in use have about 80 characters."""
MOST_WAYS: Final = 2**22
"""To match a pattern: some tenths of a second, where it matches in none."""
WILDCARD_WAYS: Final = 64
"""Of an unbounded repetition in a name: three of them share MODULE_LENGTH characters in 128**3 / 6 ways, about 64**3."""

_TOKEN: Final = re.compile(
    r"(?P<open>\((?:\?:|(?!\?)))|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<repeat>(?:[*+?]|\{(?P<least>\d{1,3})(?P<to>,(?P<most>\d{0,3}))?\})\??)"
    r"|(?P<one>[A-Za-z0-9_.$^/-]|\\[dwDWbB./_-]|\[\^?(?:[A-Za-z0-9_.-]|\\[dw.-])+\])"
)


def check_pattern(where: str, pattern: str) -> None:
    """Refuse what is no regular expression, and one that could take for ever; `where` says whose it is."""
    if len(pattern) > PATTERN_LENGTH:
        raise unsupported(f"{where}: a pattern of {len(pattern)} characters, more than {PATTERN_LENGTH}")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise invalid(f"{where}: {pattern[:80]!r} is no regular expression") from error
    if _ways(where, pattern) > MOST_WAYS:
        raise _too_much(where, pattern, "has too many ways to match: use fewer wildcards, or list the modules")


def _ways(where: str, pattern: str) -> int:
    """Return a bound of the ways to match: the product of those of a sequence, the sum of those of alternatives."""
    groups, place, before = [[0, 1]], 0, ""  # of each open group: its finished alternatives, and the one at hand
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        if token is None:
            raise _too_much(where, pattern, f"has {pattern[place : place + 3]!r}, which is not taken here")
        kind = str(token.lastgroup)
        if kind == "open":
            groups.append([0, 1])
        elif kind == "bar":
            groups[-1] = [sum(groups[-1]), 1]
        elif kind == "close":
            ways = sum(groups.pop())
            groups[-1][1] *= ways
        elif kind == "repeat":
            if before == "close" and token[0] != "?":
                raise _too_much(where, pattern, "repeats a group")
            groups[-1][1] *= _repeated(token)
        place, before = token.end(), kind
    return sum(groups[0])


def _repeated(token: re.Match[str]) -> int:
    if token[0].startswith("?"):
        return 2
    if token["least"] is None or (token["to"] and not token["most"]):
        return WILDCARD_WAYS
    return max(1, int(token["most"] or token["least"]) - int(token["least"]) + 1)


def _too_much(where: str, pattern: str, what: str) -> VersionRefusedError:
    return unsupported(f"{where}: the pattern {pattern[:80]!r} {what}")
