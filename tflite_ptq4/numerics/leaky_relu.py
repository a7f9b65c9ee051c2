"""LEAKY_RELU of 8-bit integers as XNNPACK computes it: both slopes with 8 fractional bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FRACTION_BITS = 8
# Where a slope is no larger, or no smaller, XNNPACK leaves the operator to the builtin kernel.
_LEAST, _LARGEST = 2.0**-8, 2.0**7


def leaky_relu_codes(
    codes: ArrayLike, slope: float, input_scale: float, output_scale: float
) -> NDArray[np.int64]:
    """The integers, counted from zero, that LEAKY_RELU gives before they are clipped to int8.

    Formula: (q m + 2^7) >> 8 with m = rint(2^8 s_in / s_out) above zero, and slope times that ratio
    below. Where a ratio does not fit m, the builtin kernel's round(q s_in / s_out).

    Args:
        codes: integers [...], stored value minus zero point, in [-255, 255].
        slope: factor of what is below zero.
        input_scale: of the input.
        output_scale: of the output.

    Returns:
        Integers of the shape of `codes`, to which the kernel adds the output's zero point.

    Source: XNNPACK, qs8-vlrelu and create_leaky_relu_nc_qs8.
    """
    q = np.asarray(codes, dtype=np.int64)
    above = np.float32(input_scale) / np.float32(output_scale)
    ratios = (above, above * np.float32(slope))
    if all(_LEAST <= abs(ratio) <= _LARGEST for ratio in ratios):
        factors = [int(np.rint(np.float32(2**_FRACTION_BITS) * ratio)) for ratio in ratios]
        return (q * np.where(q > 0, *factors) + (1 << (_FRACTION_BITS - 1))) >> _FRACTION_BITS
    real = q * np.where(q > 0, *map(float, ratios))
    return (np.sign(real) * np.floor(np.abs(real) + 0.5)).astype(np.int64)
