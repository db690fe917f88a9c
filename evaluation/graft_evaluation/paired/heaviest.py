"""How much of the traffic the largest conversation is, in bounded memory."""

import numpy as np
from numpy.typing import NDArray

from graft_evaluation.paired.hashing import SKETCH_STREAM, Keys, stream

ROWS, CELLS = 4, 8192
"""A cell holds about 1/8,192 of everybody else: 0.01 % of the traffic, against a limit of 10 %."""


def counted(keys: Keys, seed: int) -> NDArray[np.int64]:
    """
    Return the count-min sketch of conversation keys, shape [ROWS, CELLS] (Cormode and Muthukrishnan 2005).

    Sketches add up exactly. Four rows come from one 64-bit hash, 13 bits each.
    """
    bits = stream(keys, seed, SKETCH_STREAM)
    rows = [(bits >> np.uint64(16 * row)) & np.uint64(CELLS - 1) for row in range(ROWS)]
    return np.stack([np.bincount(row.astype(np.intp), minlength=CELLS) for row in rows]).astype(np.int64)


def largest(sketch: NDArray[np.int64]) -> int:
    """Return an upper bound of the largest conversation's pairs: its cell holds it in every row, so the least of the rows' maxima."""
    return int(sketch.max(axis=1).min())
