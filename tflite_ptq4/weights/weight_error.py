"""Squared error of a channel's weights at each bit width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.numerics.affine import fake_quantize
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.weight_scale import squared_error_scale


def weight_error_table(weight: NDArray, maximum_bits: int) -> NDArray[np.float64]:
    """Sum of squared errors of each output channel, by the bits of its weights.

    At 0 bits the channel is its mean; a signed grid of 1 bit that holds zero and is symmetric has
    no other point, so 1 bit gives what 0 bits give.

    Args:
        weight: float [n, C].
        maximum_bits: the last column.

    Returns:
        float64 [C, maximum_bits + 1].
    """
    weight = np.asarray(weight, dtype=np.float64)
    spread = ((weight - weight.mean(axis=0)) ** 2).sum(axis=0)
    columns = [spread, spread][: maximum_bits + 1]
    for bits in range(2, maximum_bits + 1):
        grid = IntegerGrid(bits, signed=True, narrow_range=True)
        error = weight - fake_quantize(weight, squared_error_scale(weight, bits), 0, grid)
        columns.append((error**2).sum(axis=0))
    return np.stack(columns, axis=1)
