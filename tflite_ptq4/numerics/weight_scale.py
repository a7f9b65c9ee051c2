"""The scale of each output channel of a kernel, on the signed narrow-range grid.

All functions take a kernel as [n, C]: its n elements for each of the C output channels. A channel
of zeros has scale 1.0. A channel of 0 bits has no scale; the caller replaces it by its mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.analytic_clipping import gaussian_ratio, laplace_ratio
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.ranges import symmetric_scale

_COARSE = np.geomspace(1.0, 0.1, 56)
# One coarse interval to either side. At 8 bits the error has minima far closer than that, and the
# best of a short kernel may lie above 1.0.
_FINE = np.linspace(_COARSE[1], 1.0 / _COARSE[1], 24)
# 128 Ki float32 numbers fit the second-level cache of common processors.
_BLOCK_ELEMENTS = 1 << 17


def max_abs_scale(weight: np.ndarray, bits: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the scale whose grid just reaches the largest weight: no clipping.

        scale_c = max |W_c| / (2^(bits-1) - 1)

    Args:
        weight: float[n, C], the kernel.
        bits: bit width >= 2, or int[C].

    Returns:
        float64[C].

    Raises:
        ConfigError: a bit width that has no narrow-range grid.
        DataError: the shape is not [n, C], or a weight is not finite.
    """
    return symmetric_scale(np.abs(_kernel(weight)).max(axis=0), bits)


def aciq_scale(
    weight: np.ndarray,
    bits: int | Sequence[int] | np.ndarray,
    *,
    density: Literal["laplace", "gaussian"] = "laplace",
) -> np.ndarray:
    """Return the scale of the analytic clip, for weights of the given density.

        scale_c = min(|E W_c| + ratio(bits) * spread, max |W_c|) / (2^(bits-1) - 1)

    The spread is E|W - E W| for Laplace and the standard deviation for Gaussian. The mean is added
    because the density lies around it and the grid around zero.

    Args:
        weight: float[n, C], the kernel.
        bits: bit width from 2 to 16, or int[C].
        density: the bell shape assumed.

    Returns:
        float64[C].

    Raises:
        ConfigError: a bit width out of range, or an unknown density.
        DataError: the shape is not [n, C], or a weight is not finite.

    Source: arXiv 1810.05723, section 3.
    """
    weight = _kernel(weight)
    mean = weight.mean(axis=0)
    if density == "laplace":
        ratio_of, spread = laplace_ratio, np.abs(weight - mean).mean(axis=0)
    elif density == "gaussian":
        ratio_of, spread = gaussian_ratio, weight.std(axis=0)
    else:
        raise ConfigError(
            '`density` must be "laplace" or "gaussian". '
            f"Received: density={density!r}. Choose one of the two."
        )
    ratio = np.vectorize(ratio_of, otypes=[float])(np.asarray(bits))
    alpha = np.minimum(np.abs(mean) + ratio * spread, np.abs(weight).max(axis=0))
    return symmetric_scale(alpha, bits)


def squared_error_scale(
    weight: np.ndarray,
    bits: int | Sequence[int] | np.ndarray,
    *,
    importance: np.ndarray | None = None,
) -> np.ndarray:
    """Return the scale at which rounding and clipping together have the least squared error.

        argmin over s of  sum over j of h_j (w_j - s q_j)^2,  q = clip(round(w / s))

    For given integers q the best step is <w, q>_h / <q, q>_h, and the error it leaves is
    <w, w>_h - <w, q>_h^2 / <q, q>_h. So 56 clips from 1.0 to 0.1 of the largest weight, then 24
    around the best of them, are judged by the error that their integers leave, in float32: of
    candidates that float32 takes for equally good either will do. The step of the winner's integers
    is taken in float64; rounding anew with it cannot raise their error.

    Args:
        weight: float[n, C], the kernel.
        bits: bit width >= 2, or int[C].
        importance: h >= 0, float[n] or float[n, C], factor on the squared error of each element;
            None means 1. A channel without any important weight gets `max_abs_scale`.

    Returns:
        float64[C].

    Raises:
        ConfigError: a bit width that has no narrow-range grid.
        DataError: the shapes do not fit, a weight is not finite, or an importance is negative or
            not finite.
    """
    weight = _kernel(weight)
    importance = _importance_per_weight(importance, weight)
    largest_step = max_abs_scale(weight, bits)
    qmax = IntegerGrid(bits, signed=True, narrow_range=True).qmax
    qmax = np.broadcast_to(qmax, largest_step.shape)
    scale = np.empty_like(largest_step)
    for block in _channel_blocks(weight.shape):
        scale[block] = _least_error_step(
            np.ascontiguousarray(weight[:, block].T),
            None if importance is None else np.ascontiguousarray(importance[:, block].T),
            largest_step[block, None],
            qmax[block, None],
        )[:, 0]
    return scale


def _least_error_step(
    weight: np.ndarray, importance: np.ndarray | None, largest_step: np.ndarray, qmax: np.ndarray
) -> np.ndarray:
    """Search one block of channels, here the rows; all arguments and the result are [C, n or 1]."""
    if qmax.min() == qmax.max():
        qmax = qmax[:1, 0]  # numpy clips to one number five times as fast as to an array
    # In units of the largest step, as a float32 square of the weights themselves may underflow.
    relative, factor = (weight / largest_step).astype(np.float32), None
    if importance is not None:
        largest = importance.max(axis=1, keepdims=True)
        factor = (importance / np.where(largest > 0, largest, 1.0)).astype(np.float32)
    searched = _Fit(relative, factor, qmax.astype(np.float32))
    exact = _Fit(weight, importance, qmax)
    fraction = np.ones_like(largest_step, np.float32)
    most = np.zeros_like(fraction)
    scale = largest_step
    for steps in (_COARSE, _FINE):
        centre = (scale / largest_step).astype(np.float32)
        for step in steps.astype(np.float32):
            candidate = centre * step
            _, explained = searched.best_step(candidate)
            better = explained > most
            fraction = np.where(better, candidate, fraction)
            most = np.where(better, explained, most)
        scale, _ = exact.best_step(fraction * largest_step)
    return scale


class _Fit:
    """The integers that a step gives to the rows of a kernel, and what they make of it."""

    def __init__(self, weight: np.ndarray, importance: np.ndarray | None, qmax: np.ndarray) -> None:
        self._weight, self._importance, self._qmax = weight, importance, qmax
        self._weighted = weight if importance is None else weight * importance
        self._q = np.empty_like(weight)

    def best_step(self, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the best step for the integers that `step` gives, and the energy they explain."""
        q = self._q
        np.divide(self._weight, step, out=q)
        np.rint(q, out=q)
        np.clip(q, -self._qmax, self._qmax, out=q)
        product = _row_products(self._weighted, q)
        square = _row_products(q if self._importance is None else q * self._importance, q)
        # Where all weights that matter round to zero, the integers fit no step; keep the given one.
        fitted = np.divide(product, square, out=step.copy(), where=square > 0)
        return fitted, product * fitted


def _row_products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left[:, None, :] @ right[:, :, None])[:, 0]


def _channel_blocks(shape: tuple[int, int]) -> Iterator[slice]:
    elements, channels = shape
    width = max(1, _BLOCK_ELEMENTS // elements)
    for start in range(0, channels, width):
        yield slice(start, start + width)


def _kernel(weight: np.ndarray) -> np.ndarray:
    weight = np.asarray(weight, np.float64)
    if weight.ndim != 2 or weight.size == 0 or not np.isfinite(weight).all():
        raise DataError(
            "A kernel must be [n, C], elements by output channels, not empty and finite. "
            f"Received: shape {weight.shape}. Reshape it, and look for NaN or Inf in the layer."
        )
    return weight


def _importance_per_weight(importance: np.ndarray | None, weight: np.ndarray) -> np.ndarray | None:
    if importance is None:
        return None
    importance = np.asarray(importance, np.float64)
    if importance.shape not in (weight.shape[:1], weight.shape):
        raise DataError(
            "`importance` must have the shape [n] or [n, C] of the kernel. "
            f"Received: {importance.shape} for {weight.shape}. Give one factor per kernel element."
        )
    if not np.all(np.isfinite(importance) & (importance >= 0)):
        raise DataError(
            "`importance` must be finite and not negative. "
            f"Received: values from {importance.min()} to {importance.max()}. "
            "Derive it from a mean square, which cannot be negative."
        )
    if importance.ndim == 1:
        importance = importance[:, None]
    return np.broadcast_to(importance, weight.shape)
