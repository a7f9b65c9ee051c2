"""Real numbers to integers and back: q = clip(round(x / scale) + zero_point), x ~ scale * (q - z).

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (CVPR 2018), section 2.1. The rounding is to nearest, ties to the even integer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tflite_ptq4.errors import DataError
from tflite_ptq4.numerics.grid import IntegerGrid


def quantize(
    x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, grid: IntegerGrid
) -> np.ndarray:
    """Return the integer of the grid that is nearest to each number.

        q = clip(round(x / scale) + zero_point, qmin, qmax)

    Args:
        x: real numbers of any shape; an infinite one goes to the end of the grid.
        scale: positive step, in units of x, broadcastable to x.
        zero_point: the integer that stands for 0.0, broadcastable to x.
        grid: the integers allowed; per-channel bit widths go along the last axis of x.

    Returns:
        int32 array of the shape of x.

    Raises:
        DataError: x holds NaN, or a scale is not positive and finite.
    """
    return _grid_positions(x, scale, zero_point, grid).astype(np.int32)


def dequantize(
    q: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, *, dtype: DTypeLike = np.float64
) -> np.ndarray:
    """Return the real numbers that the integers stand for.

        x = scale * (q - zero_point)

    Args:
        q: integers of any shape.
        scale: positive step, broadcastable to q.
        zero_point: the integer that stands for 0.0, broadcastable to q.
        dtype: floating-point type of the result; the product is formed in float64 and rounded once.

    Returns:
        Array of `dtype`, of the shape of q.
    """
    steps = np.asarray(q, np.float64) - zero_point
    return np.asarray(scale * steps, dtype)


def fake_quantize(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike,
    grid: IntegerGrid,
    *,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """Return each number as it reads after quantization: dequantize(quantize(x)).

    Args:
        x: real numbers of any shape.
        scale: positive step, in units of x, broadcastable to x.
        zero_point: the integer that stands for 0.0, broadcastable to x.
        grid: the integers allowed; per-channel bit widths go along the last axis of x.
        dtype: floating-point type of the result.

    Returns:
        Array of `dtype`, of the shape of x.

    Raises:
        DataError: x holds NaN, or a scale is not positive and finite.
    """
    return dequantize(_grid_positions(x, scale, zero_point, grid), scale, zero_point, dtype=dtype)


def _grid_positions(
    x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, grid: IntegerGrid
) -> np.ndarray:
    scale = np.asarray(scale, np.float64)
    if not np.all((scale > 0) & np.isfinite(scale)):
        raise DataError(
            "`scale` must be positive and finite everywhere. "
            f"Received: {scale.size} values, of which the lowest is {scale.min()}. "
            "Derive it with `affine_range` or `symmetric_scale`, which give an empty range 1.0."
        )
    # Wrapped because numpy gives a scalar for a scalar, and `out` below needs an array.
    positions = np.asarray(np.divide(x, scale, dtype=np.float64))
    np.rint(positions, out=positions)
    positions += zero_point
    np.clip(positions, grid.qmin, grid.qmax, out=positions)
    if np.isnan(positions).any():
        raise DataError(
            f"`x` must hold numbers. Received: {int(np.isnan(positions).sum())} NaN of "
            f"{positions.size} values. Look for the layer or image that produced them."
        )
    return positions
