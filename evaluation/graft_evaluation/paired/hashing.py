"""Everything random here is a pure function of a seed and a key, so that any process at any time draws the same."""

import math

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

BUCKET_STREAM, SAMPLE_STREAM, SKETCH_STREAM, WEIGHT_STREAM = 1, 2, 3, 16
"""Streams that must not depend on each other."""


def conversation_keys(keys: list[bytes]) -> Keys:
    """Return 16-byte conversation keys as 64-bit ones, shape [len(keys)]: their halves, mixed. Raises ValueError for another length."""
    if any(len(key) != 16 for key in keys):
        raise ValueError("a conversation key has 16 bytes")
    halves = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)
    return mix(halves[:, 0]) ^ mix(halves[:, 1] + np.uint64(1))


def mix(values: Keys) -> Keys:
    """
    Return the finaliser of splitmix64 (Steele, Lea and Flood 2014, OOPSLA; constants of Stafford's variant 13) of each value.

    It is a bijection, and its outputs for successive inputs are the pseudo-random sequence of that generator.
    """
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def stream(keys: Keys, seed: int, number: int) -> Keys:
    """Return an independent hash of each key for one stream of one seed."""
    return mix(keys ^ _constant(seed, number))


def buckets_of(keys: Keys, seed: int, buckets: int) -> NDArray[np.intp]:
    """Return each conversation's bucket, 0 to `buckets` - 1; `buckets` is a power of two."""
    return (stream(keys, seed, BUCKET_STREAM) & np.uint64(buckets - 1)).astype(np.intp)


def poisson_weights(seed: int, replicates: int, buckets: int) -> NDArray[np.float64]:
    """
    Return Poisson(1) weights, shape [replicates, buckets] (Hanley and MacGibbon 2006; Chamandy et al. 2012).

    A counter-based hash gives 64 bits for four weights, each looked up by 16 of them.
    """
    wanted = replicates * buckets
    bits = stream(np.arange((wanted + 3) // 4, dtype=np.uint64), seed, WEIGHT_STREAM)
    return _table()[bits.view(np.uint16)[:wanted]].reshape(replicates, buckets)


def _table() -> NDArray[np.float64]:
    """Return the 65,536 equally likely weights: the inverse of Poisson(1)'s distribution function at the middle of each cell."""
    below = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(10)])
    return np.searchsorted(below, (np.arange(65536) + 0.5) / 65536).astype(np.float64)


def _constant(seed: int, number: int) -> np.uint64:
    return np.uint64(mix(np.array([(seed ^ (number << 56)) & (2**64 - 1)], dtype=np.uint64))[0])
