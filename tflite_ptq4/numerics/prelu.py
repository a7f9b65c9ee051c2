"""PRELU of 8-bit integers as TensorFlow Lite's kernel computes it: slopes of 8 bits too."""

from __future__ import annotations

from math import floor, frexp

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflite_ptq4.numerics.constant_arrays import array_on_grid

_FRACTION_BITS = 31


def prelu_codes(
    codes: ArrayLike, slopes: ArrayLike, input_scale: float, output_scale: float
) -> NDArray[np.int64]:
    """The integers, counted from zero, that PRELU gives before they are clipped to int8.

    Formula: round(q s_in / s_out) from zero up, and round(q a s_in s_a / s_out) below, where a and
    s_a are the slopes on 8 bits; each factor has 31 bits, and its product is rounded twice.

    Args:
        codes: integers [n], stored value minus zero point, in [-255, 255].
        slopes: [channels], what is below zero is multiplied by.
        input_scale: of the input.
        output_scale: of the output.

    Returns:
        Integers [channels, n], to which the kernel adds the output's zero point.

    Source: TensorFlow Lite, prelu of reference_ops and MultiplyByQuantizedMultiplier.
    """
    q = np.asarray(codes, dtype=np.int64)
    integers, scale = array_on_grid(np.asarray(slopes, dtype=np.float32))
    source, target = np.float32(input_scale), np.float32(output_scale)
    above = _doubly_rounded(q, float(source / target))
    steps = q * integers.astype(np.int64)[:, None]
    below = _doubly_rounded(steps, float(source * np.float32(scale) / target))
    return np.where(q >= 0, above, below)


def _doubly_rounded(x: NDArray[np.int64], factor: float) -> NDArray[np.int64]:
    """x times a factor of 31 bits: halves up after 31 bits, away from zero after the others."""
    fraction, exponent = frexp(factor)
    fixed = floor(fraction * 2.0**_FRACTION_BITS + 0.5)
    left, right = max(exponent, 0), max(-exponent, 0)
    product = (x << left) * fixed
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    total = product + nudge
    # The kernel divides, which truncates towards zero, and does not shift.
    high = np.sign(total) * (np.abs(total) >> _FRACTION_BITS)
    half = (1 << right) >> 1
    return np.sign(high) * ((np.abs(high) + half) >> right)
