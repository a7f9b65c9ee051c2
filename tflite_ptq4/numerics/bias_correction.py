"""Correction of the mean and the norm that quantization shifts in each output channel of a kernel.

Banner, Nahshan and Soudry, "Post training 4-bit quantization of convolutional networks for
rapid-deployment" (NeurIPS 2019, arXiv 1810.05723), section 5.

    Wq_c <- xi_c (Wq_c - E Wq_c) + E W_c

All functions take a kernel as [n, C]: its n elements for each of the C output channels. The
factor `norm_ratio` scales a channel's steps. The mean, moved by `mean_shift`, leaves the integer
grid. A file needs a form that stays on it: the shift of the output goes into the bias
(`bias_from_input_mean`), or some roundings are moved (`move_roundings`).
"""

from __future__ import annotations

import numpy as np

from tflite_ptq4.errors import DataError
from tflite_ptq4.numerics.affine import dequantize
from tflite_ptq4.numerics.grid import IntegerGrid

# Weights that differ by less, relative to the largest, differ by the rounding of their mean only.
_CONSTANT_TOLERANCE = 1e-12


def mean_shift(weight: np.ndarray, quantized: np.ndarray) -> np.ndarray:
    """Return how far quantization moved the mean of each channel.

        mu_c = E[W_c] - E[Wq_c]

    Args:
        weight: float[n, C], the kernel.
        quantized: float[n, C], the kernel as it reads after quantization.

    Returns:
        float64[C], in units of the kernel.

    Raises:
        DataError: the two shapes differ or are not [n, C].

    Source: arXiv 1810.05723, section 5.
    """
    weight, quantized = _kernel_pair(weight, quantized)
    return weight.mean(axis=0) - quantized.mean(axis=0)


def norm_ratio(weight: np.ndarray, quantized: np.ndarray) -> np.ndarray:
    """Return the factor by which quantization changed the spread of each channel, inverted.

        xi_c = ||W_c - E W_c|| / ||Wq_c - E Wq_c||

    It multiplies the channel's scale and costs nothing in the file.

    Args:
        weight: float[n, C], the kernel.
        quantized: float[n, C], the kernel as it reads after quantization.

    Returns:
        float64[C], positive. 1.0 where the channel is constant before or after quantization, as no
        factor could then restore its spread.

    Raises:
        DataError: the two shapes differ or are not [n, C].

    Source: arXiv 1810.05723, section 5.
    """
    weight, quantized = _kernel_pair(weight, quantized)
    before, after = _spread(weight), _spread(quantized)
    return np.divide(before, after, out=np.ones_like(after), where=(before > 0) & (after > 0))


def bias_from_input_mean(weight_error: np.ndarray, input_mean: np.ndarray) -> np.ndarray:
    """Return what to add to the bias so that the expected output is that of the float kernel.

        bias_c = sum over j of (W - Wq)[j, c] E[x_j]

    It is exact for each input element, where the paper's mu_c knows the channel's mean alone.

    Args:
        weight_error: float[n, C], float kernel minus quantized kernel.
        input_mean: float[n], mean of the input that meets each kernel element; or float[n, C] if
            each output channel reads its own input, as in a depthwise convolution.

    Returns:
        float64[C], in units of the layer's output.

    Raises:
        DataError: the shapes do not fit.
    """
    weight_error = np.asarray(weight_error, np.float64)
    input_mean = np.asarray(input_mean, np.float64)
    if weight_error.ndim != 2 or input_mean.shape not in (
        weight_error.shape[:1],
        weight_error.shape,
    ):
        raise DataError(
            "`input_mean` must have the shape [n] or [n, C] of `weight_error`. "
            f"Received: {input_mean.shape} for {weight_error.shape}. "
            "Repeat each input channel's mean over the kernel's window."
        )
    if input_mean.ndim == 1:
        return input_mean @ weight_error
    return np.einsum("nc,nc->c", input_mean, weight_error)


def move_roundings(
    weight: np.ndarray, q: np.ndarray, scale: np.ndarray, grid: IntegerGrid
) -> np.ndarray:
    """Return the integers with the cheapest roundings moved so that each channel keeps its mean.

    With the remainder r = w / scale - q of each element, D = sum of r over the channel, in steps.
    The round(|D|) elements of D's sign whose remainder is nearest to half go to the integer on the
    other side of w, which leaves |E[W_c] - E[Wq_c]| <= scale_c / (2 n).

    Args:
        weight: float[n, C], the kernel.
        q: int[n, C], its integers on the grid, with zero point 0.
        scale: float[C], step of each channel.
        grid: the integers allowed, per tensor or per channel.

    Returns:
        int32[n, C]. No element moves by more than one step, or away from its weight, or off the
        grid; if a channel's error comes from clipping, the moves may not suffice for all of it.

    Raises:
        DataError: the shapes of `weight` and `q` differ or are not [n, C].

    Source: arXiv 1810.05723, section 5, of which this is the form that stays on the grid.
    """
    weight, q = _kernel_pair(weight, q)
    remainder = (weight - dequantize(q, scale, 0)) / scale
    missing_steps = remainder.sum(axis=0)
    direction = np.sign(missing_steps)
    moved = q + direction
    gain = remainder * direction
    movable = (gain > 0) & (moved >= grid.qmin) & (moved <= grid.qmax)
    cheapest_first = np.argsort(np.where(movable, -gain, np.inf), axis=0, kind="stable")
    rank = np.argsort(cheapest_first, axis=0, kind="stable")
    chosen = movable & (rank < np.rint(np.abs(missing_steps)))
    return np.where(chosen, moved, q).astype(np.int32)


def _spread(weight: np.ndarray) -> np.ndarray:
    spread = np.linalg.norm(weight - weight.mean(axis=0), axis=0)
    largest = np.abs(weight).max(axis=0)
    noise = _CONSTANT_TOLERANCE * np.sqrt(len(weight)) * largest
    return np.where(spread > noise, spread, 0.0)


def _kernel_pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 2 or first.size == 0:
        raise DataError(
            "A kernel and its quantized form must both be [n, C], elements by output channels. "
            f"Received: {first.shape} and {second.shape}. Reshape each kernel to two dimensions."
        )
    return first, second
