"""
Which conversation a request belongs to, and which arm of its route that conversation is on.

Pure and the same in every replica and after every restart: the same key decides arms, samples and clusters.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate

from graft_api.routes import Arm
from graft_api.tee import Measuring

KEY_BYTES = 16


def named_key(owner: str, name: str) -> bytes:
    """Return the key of a conversation that its client names. Two owners may use the same name for two conversations."""
    return _digest(b"named", owner.encode(), name.encode("utf-8", "surrogatepass"))


def opening_key(owner: str, opening: bytes) -> bytes:
    """Return the key of an unnamed conversation, by what all its turns begin with: system prompt and first user message."""
    return _digest(b"opening", owner.encode(), opening)


def cumulative_weights(arms: Sequence[Arm]) -> tuple[int, ...]:
    """Return the upper ends of the arms' ranges."""
    return tuple(accumulate(arm.weight for arm in arms))


def salt_key(salt: str) -> bytes:
    """Return what a route's or a sample's salt is to the hash."""
    return blake2b(salt.encode(), digest_size=32).digest()


def arm_index(salt: bytes, key: bytes, cumulative: Sequence[int]) -> int:
    """
    Return which arm the conversation is on. `salt` is a `salt_key`.

    A point in [0, sum of weights) that is uniform over conversations. Whoever makes the first arm wider moves conversations to it
    and none away from it.
    """
    if len(cumulative) == 1:
        return 0
    point = int.from_bytes(blake2b(key, digest_size=8, key=salt).digest(), "big")
    return bisect_right(cumulative, point * cumulative[-1] >> 64)


@dataclass(frozen=True, slots=True)
class Sample:
    """Which conversations are measured."""

    salt: bytes
    share: int
    """In ten thousand."""

    def holds(self, key: bytes) -> bool:
        """Whether the conversation is one of them. Says nothing of its arm, even if both have the same salt: `person` parts the hashes."""
        point = int.from_bytes(blake2b(key, digest_size=8, key=self.salt, person=b"graft-measuring").digest(), "big")
        return point * 10_000 >> 64 < self.share


def sample_of(measuring: Measuring) -> Sample:
    """Return the sample that the routes ask for."""
    return Sample(salt_key(measuring.salt), measuring.share)


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))  # so that no two lists of parts are one text
        digest.update(part)
    return digest.digest()
