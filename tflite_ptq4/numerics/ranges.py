"""A range of real numbers to the scale and zero point of the grid that covers it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tflite_ptq4.errors import DataError
from tflite_ptq4.numerics.grid import IntegerGrid

# A scale is stored as float32, where anything smaller loses digits or is read as zero.
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_SCALE_OF_EMPTY_RANGE = 1.0


def affine_range(
    low: ArrayLike, high: ArrayLike, bits: int | Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and zero point of the unsigned grid that covers [low, high], element by element.

        scale = (high - low) / (2^bits - 1),  zero_point = round(-low / scale)

    The range is first widened to contain zero. Rounding the zero point makes 0.0 a point of the
    grid, which zero padding needs, and moves the covered range by at most half a step.

    Args:
        low: lower ends, of any shape, in units of the tensor.
        high: upper ends, broadcastable with `low`.
        bits: bit width, or one per channel of the last axis.

    Returns:
        scale float64 and zero_point int32 in [0, 2^bits - 1], both of the common shape. The empty
        range low = high = 0 has scale 1.0 and zero point 0.

    Raises:
        ConfigError: a bit width that has no grid.
        DataError: an end is not finite, or low > high.
    """
    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    if not (np.isfinite(low).all() and np.isfinite(high).all() and np.all(low <= high)):
        raise DataError(
            "A range must be finite, with low <= high. "
            f"Received: low={low.tolist()!r}, high={high.tolist()!r}. "
            "Calibrate on images that are finite and not empty."
        )
    qmax = IntegerGrid(bits).qmax
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    # Divided before the subtraction, which could overflow for the widest ranges.
    scale = _storable_scale(high / qmax - low / qmax)
    zero_point = np.clip(np.rint(-low / scale), 0, qmax)
    return scale, zero_point.astype(np.int32)


def number_on_grid(value: float, least_scale: float = 0.0) -> tuple[int, float]:
    """Return an integer and a scale that stand for one number.

    Args:
        value: the number.
        least_scale: the finest scale that serves; a number below half of it counts as none.

    Returns:
        -1, 0 or 1, and a scale, a float32 value.
    """
    scale = float(np.float32(_storable_scale(np.maximum(abs(value), least_scale))))
    return int(np.rint(value / scale)), scale


def symmetric_scale(alpha: ArrayLike, bits: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the scale of the signed narrow-range grid that covers [-alpha, alpha].

        scale = alpha / (2^(bits-1) - 1)

    Args:
        alpha: clipping values >= 0, of any shape, in units of the tensor.
        bits: bit width >= 2, or one per channel of the last axis.

    Returns:
        float64 scale of the common shape; 1.0 where alpha is zero.

    Raises:
        ConfigError: a bit width that has no narrow-range grid.
        DataError: an alpha is negative or not finite.
    """
    alpha = np.asarray(alpha, np.float64)
    if not np.all(np.isfinite(alpha) & (alpha >= 0)):
        raise DataError(
            "`alpha` must be finite and not negative. "
            f"Received: alpha={alpha.tolist()!r}. Pass the magnitude of the clipping value."
        )
    return _storable_scale(alpha / IntegerGrid(bits, signed=True, narrow_range=True).qmax)


def _storable_scale(scale: np.ndarray) -> np.ndarray:
    return np.where(scale == 0.0, _SCALE_OF_EMPTY_RANGE, np.maximum(scale, _SMALLEST_SCALE))
