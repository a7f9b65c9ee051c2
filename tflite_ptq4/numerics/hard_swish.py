"""HARD_SWISH of 8-bit integers as TensorFlow Lite's kernels compute it: in 16-bit fixed point.

The result is not always the nearest level to x relu6(x + 3) / 6: near ties it is off by one, for
about one input in 750, and a simulation that rounds the real value parts from the file there.
"""

from __future__ import annotations

from math import floor, frexp

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MIN, _MAX = -(2**15), 2**15 - 1
_EXTRA_BITS = 7


def hard_swish_codes(
    codes: ArrayLike, input_scale: float, output_scale: float
) -> NDArray[np.int64]:
    """The integers, counted from zero, that HARD_SWISH gives before it clips them to int8.

    Formula: with h = 2^7 codes, in 16-bit fixed point, r = (clip(h s_in / (3 * 2^7)) + 1) / 2 and
    the result is r h s_in / (2^7 s_out).

    Args:
        codes: integers [...], stored value minus zero point, in [-255, 255].
        input_scale: of the input.
        output_scale: of the output.

    Returns:
        Integers of the shape of `codes`, to which the kernel adds the output's zero point.

    Source: TensorFlow Lite, reference_ops::HardSwish and HardSwishPrepare; the optimized kernel
    gives the same integers.
    """
    fine_scale = np.float32(input_scale) * np.float32(2.0**-_EXTRA_BITS)
    output_factor, output_exponent = _multiplier(fine_scale / np.float32(output_scale))
    gate_factor, gate_exponent = _multiplier(fine_scale / np.float32(3.0 * 2.0**-15))
    fine = np.asarray(codes, dtype=np.int64) << _EXTRA_BITS
    gate = fine
    if gate_exponent > 0:
        # One bit of the shift comes after the product, which would lose it to saturation.
        gate = np.clip(gate << (gate_exponent - 1), _MIN, _MAX)
    gate = _rounded_product(gate, gate_factor)
    if gate_exponent > 0:
        gate = np.clip(gate << 1, _MIN, _MAX)
    gate = _rounded_shift(gate, max(0, -gate_exponent))
    gate = (gate + 2**15) >> 1
    product = gate * _rounded_product(fine, output_factor)
    # This product of the kernel rounds toward zero, unlike the other two.
    truncated = np.sign(product) * (np.abs(product) >> 15)
    return _rounded_shift(truncated, max(0, -output_exponent))


def _multiplier(value: np.float32) -> tuple[int, int]:
    """A factor as m 2^(e - 15), m of 16 bits, by way of the 32 bits that the kernel starts from."""
    fraction, exponent = frexp(float(value))
    long = floor(fraction * 2.0**31 + 0.5)
    if long == 2**31:
        long, exponent = long // 2, exponent + 1
    return min((long + 2**15) >> 16, _MAX), exponent


def _rounded_product(values: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    """values * factor / 2^15, to the nearest, halves up."""
    return (values * factor + 2**14) >> 15


def _rounded_shift(values: NDArray[np.int64], exponent: int) -> NDArray[np.int64]:
    """values / 2^exponent, to the nearest, halves away from zero."""
    half = (1 << exponent) >> 1
    return np.sign(values) * ((np.abs(values) + half) >> exponent)
