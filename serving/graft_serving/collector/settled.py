"""A set of numbers that grows upwards: a floor, and one bit for each number above it."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode

FULL = b"\xff"
ROOM = 1 << 26
"""Numbers above the floor that have a bit: 8 MiB. What is higher no gateway has given out while an exchange was under way."""


class Settled:
    """Numbers from 1. Everything up to `floor` is closed: settled, or too old to come."""

    def __init__(self, floor: int = 0) -> None:
        """`floor`: rounded down to a multiple of eight."""
        self.floor = floor - floor % 8
        self._bits = bytearray()
        """Bit `i` is of number `floor + 1 + i`."""

    def __contains__(self, number: int) -> bool:
        place, bit = divmod(number - self.floor - 1, 8)
        return number <= self.floor or (place < len(self._bits) and bool(self._bits[place] >> bit & 1))

    def add(self, number: int) -> None:
        """Settle a number. Raises ValueError for one that is too far above the floor."""
        if number <= self.floor:
            return
        if number - self.floor > ROOM:
            raise ValueError(f"number {number} is far above {self.floor}")
        place, bit = divmod(number - self.floor - 1, 8)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits)))
        self._bits[place] |= 1 << bit
        if not place and self._bits[0] == FULL[0]:
            self._raise(len(self._bits) - len(self._bits.lstrip(FULL)))

    def close(self, through: int) -> None:
        """Close the holes up to a number, or to some less."""
        self._raise((through - self.floor) // 8)
        self._raise(len(self._bits) - len(self._bits.lstrip(FULL)))

    def to_text(self) -> str:
        """Return what is above the floor."""
        return b64encode(zlib.compress(bytes(self._bits), 1)).decode()

    @classmethod
    def of(cls, floor: int, text: str) -> Settled:
        """Return what `to_text` wrote. Raises ValueError."""
        found = cls(floor)
        try:
            found._bits = bytearray(zlib.decompress(b64decode(text)))
        except zlib.error as error:
            raise ValueError("settled numbers are damaged") from error
        return found

    def _raise(self, count: int) -> None:
        if count > 0:
            del self._bits[:count]
            self.floor += 8 * count
