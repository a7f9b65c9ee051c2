"""Constants that an operator computes with, on 8 bits: integers and the scale that they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflite_ptq4.numerics.affine import quantize
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.ranges import number_on_grid, symmetric_scale

_GRID = IntegerGrid(8, signed=True, narrow_range=True)


def array_on_grid(values: ArrayLike, least_scale: float = 0.0) -> tuple[NDArray[np.int8], float]:
    """Return integers and a scale that stand for an array of numbers.

    Args:
        values: real numbers of any shape.
        least_scale: of one number the finest scale that serves, see `number_on_grid`.

    Returns:
        Integers in [-127, 127] of that shape, of one number in [-1, 1]; and the scale.
    """
    values = np.asarray(values)
    if values.size == 1:
        number, scale = number_on_grid(float(values.reshape(())), least_scale)
        return np.full(values.shape, number, dtype=np.int8), scale
    scale = float(symmetric_scale(np.abs(values).max(), 8))
    return quantize(values, scale, 0, _GRID).astype(np.int8), scale
