"""
What is left to chance: drawn from hashes of the test's seed, so that every process at every time draws the same.

Each purpose has its own stream; a conversation that is in the control share is not for that reason more likely to be left out.
"""

from enum import StrEnum
from hashlib import blake2b


class Purpose(StrEnum):
    """Streams that must not depend on each other."""

    SHARE = "share"
    ADMISSION = "admission"
    CONTROL = "control"
    ORDER = "order"
    OBSERVE = "observe"
    PACE = "pace"


def place(seed: int, purpose: Purpose, key: str) -> float:
    """Return where a key falls in [0, 1)."""
    salt = blake2b(f"{purpose}:{seed}".encode(), digest_size=32).digest()
    drawn = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=salt).digest(), "big")
    return (drawn >> 11) / (1 << 53)
