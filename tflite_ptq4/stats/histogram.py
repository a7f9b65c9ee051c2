"""A histogram whose bins are known before any data are seen, so that merging is addition.

A bin is the sign, the exponent and the top three mantissa bits of a float32: eight bins of equal
width in every octave [2^e, 2^(e+1)) with e in [-32, 32), on either side of one bin around zero.
A bin's width is therefore between 1/16 and 1/8 of the values in it, whatever their unit.

In index order, which is the order of the values:

    0 .. 511     negative, index = 511 - code, the bin (-v(code + 1), -v(code)]
    512          zero, |x| < 2^-32
    513 .. 1024  positive, index = 513 + code, the bin [v(code), v(code + 1))

with `code = (bits(|x|) >> MANTISSA_SHIFT) - FIRST_CODE`, at most 511, a negative code meaning the
zero bin, and `v(code)` the float32 whose bits are `(code + FIRST_CODE) << MANTISSA_SHIFT`. The same
integer arithmetic can run inside a TensorFlow graph.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS_PER_OCTAVE = 8
MANTISSA_SHIFT = 20
FIRST_CODE = (127 - 32) << 3
BINS_PER_SIGN = 64 * BINS_PER_OCTAVE
ZERO_BIN = BINS_PER_SIGN
BIN_COUNT = 2 * BINS_PER_SIGN + 1

_LARGEST = 2.0**32


def bin_index(x: ArrayLike) -> NDArray[np.int64]:
    """Return the bin of every value, from its float32 bit pattern.

    Args:
        x: float array of any shape, finite. Values of |x| >= 2^32 go to the outermost bins.

    Returns:
        int64 array of the shape of `x`, in [0, BIN_COUNT), monotone in `x`.
    """
    values = np.asarray(x)
    if values.dtype != np.float32:
        # A float64 beyond the float32 range would turn into an infinity, with a warning.
        values = np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)
    magnitude_code = np.abs(values).view(np.int32) >> MANTISSA_SHIFT
    # Codes counted from 1 make the zero bin the clipped 0, and the index symmetric around it.
    distance = np.clip(magnitude_code - (FIRST_CODE - 1), 0, BINS_PER_SIGN)
    return ZERO_BIN + np.where(np.signbit(values), -distance, distance).astype(np.int64)


@cache
def bin_edges() -> NDArray[np.float64]:
    """Return the edges of the bins, float64 [BIN_COUNT + 1], ascending from -2^32 to 2^32.

    Bin i lies between edges i and i + 1. The outermost edges are finite although the outermost
    bins also hold what lies beyond them. The array is shared and read-only.
    """
    codes = np.arange(FIRST_CODE, FIRST_CODE + BINS_PER_SIGN + 1, dtype=np.int32)
    positive = (codes << MANTISSA_SHIFT).view(np.float32).astype(np.float64)
    edges = np.concatenate([-positive[::-1], positive])
    edges.flags.writeable = False
    return edges


def channel_histogram(x: NDArray[np.floating]) -> NDArray[np.int64]:
    """Count the values of every channel in the bins.

    Args:
        x: float array [n, C], finite.

    Returns:
        int64 [C, BIN_COUNT]; every row sums to n.
    """
    channels = x.shape[1]
    flat = bin_index(x) + BIN_COUNT * np.arange(channels)
    counts = np.bincount(flat.ravel(), minlength=channels * BIN_COUNT)
    return counts.reshape(channels, BIN_COUNT).astype(np.int64, copy=False)


def linear_counts(counts: NDArray[np.integer], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a histogram over other bins, the values of a bin taken as uniform in it.

    Args:
        counts: int [BIN_COUNT], of one channel.
        edges: float64 [n + 1], ascending, from the least value to the greatest.

    Returns:
        float64 [n]; they sum to the count.
    """
    # Nothing lies beyond the range, so what a bin holds lies in the part of it that is inside.
    inside = np.clip(bin_edges(), edges[0], edges[-1])
    below = np.concatenate([[0.0], np.cumsum(counts)])
    # Of edges that the clipping made equal, the last has all that lies below.
    first = np.searchsorted(inside, inside, side="right") - 1
    kept = np.unique(first)
    cumulative = np.interp(edges, inside[kept], below[kept])
    cumulative[0] = 0.0
    return np.diff(cumulative)
