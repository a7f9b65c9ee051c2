"""RSQRT of 8-bit integers as TensorFlow Lite's kernel computes it: 1 / sqrt(x) in fixed point."""

from __future__ import annotations

from math import floor, frexp

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FRACTION_BITS = 20
_OF_ZERO = 255  # the largest integer of the output, whatever its scale
# The kernel's five steps of Newton's method end below the nearest integer for these three.
_BELOW = (2, 8, 131)


def rsqrt_codes(codes: ArrayLike, input_scale: float, output_scale: float) -> NDArray[np.int64]:
    """The integers, counted from zero, that RSQRT gives before it clips them to int8.

    Formula: round(round(2^20 / sqrt(q)) / (2^20 sqrt(s_in) s_out)), and 255 for q = 0.

    Args:
        codes: integers [...], stored value minus zero point, in [0, 255].
        input_scale: of the input.
        output_scale: of the output.

    Returns:
        Integers of the shape of `codes`, to which the kernel adds the output's zero point.

    Source: TensorFlow Lite, elementwise.cc and GetInvSqrtQuantizedMultiplierExp.
    """
    q = np.asarray(codes, dtype=np.int64)
    root = np.rint(2.0**_FRACTION_BITS / np.sqrt(np.maximum(q, 1))).astype(np.int64)
    root -= np.isin(q, _BELOW)
    scale = np.sqrt(np.float32(input_scale)) * np.float32(output_scale)
    fraction, exponent = frexp(1.0 / float(scale))
    factor, shift = floor(fraction * 2.0**31 + 0.5), _FRACTION_BITS - exponent
    if shift < 0:
        root, shift = root << -shift, 0
    # Rounded twice, as the kernels do: of positive numbers, halves go up both times.
    high = (root * factor + (1 << 30)) >> 31
    return np.where(q == 0, _OF_ZERO, (high + ((1 << shift) >> 1)) >> shift)
