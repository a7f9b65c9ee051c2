"""How close one array is to another that it stands for: in decibels, and in the top class."""

from __future__ import annotations

import math

import numpy as np

from tflite_ptq4.errors import DataError


def agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the share of equal argmax on the last axis of two arrays [N, ..., classes].

    Args:
        reference: number array [N, ..., classes].
        other: of the same shape.
    """
    _check_same_shape(reference, other)
    return float(np.mean(np.argmax(reference, axis=-1) == np.argmax(other, axis=-1)))


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the signal-to-quantization-noise ratio of `other` in decibels.

    `10 log10(sum(reference^2) / sum((reference - other)^2))`; infinity for equal arrays.

    Args:
        reference, other: number arrays of one shape.
    """
    _check_same_shape(reference, other)
    reference = np.asarray(reference, np.float64)
    noise = float(np.sum((reference - other) ** 2))
    return ratio_db(float(np.sum(reference**2)), noise)


def ratio_db(signal: float, noise: float) -> float:
    """Return the ratio of two powers in decibels, `10 log10(signal / noise)`.

    Args:
        signal: power of the exact values, summed or averaged, at least 0.
        noise: power of the error, summed or averaged alike.

    Returns:
        The ratio; infinity without noise, minus infinity with noise alone or where one is NaN.
    """
    if noise == 0.0:
        return math.inf
    ratio = signal / noise
    return 10.0 * math.log10(ratio) if ratio > 0.0 else -math.inf


def _check_same_shape(reference: np.ndarray, other: np.ndarray) -> None:
    if reference.shape != other.shape or reference.size == 0:
        raise DataError(
            "Outputs that are compared must have one shape and not be empty. "
            f"Received: {reference.shape} and {other.shape}."
        )
