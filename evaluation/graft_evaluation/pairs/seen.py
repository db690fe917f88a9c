"""Which pairs were read, in a bit each."""

from __future__ import annotations

PAGE = 1024
"""Numbers that share a word: a gateway's are consecutive, somebody's own need not be."""


class Seen:
    """Pairs by their gateway's boot and their number."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, int], int] = {}

    def add(self, boot: str, number: int) -> bool:
        """Whether it is new."""
        page, place = divmod(number, PAGE)
        bits = self._pages.get((boot, page), 0)
        if bits >> place & 1:
            return False
        self._pages[boot, page] = bits | 1 << place
        return True
