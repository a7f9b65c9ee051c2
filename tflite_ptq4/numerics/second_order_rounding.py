"""Rounding and scale of a kernel by the error at the layer's output, not at each weight.

With H = E[x x^T] of the layer's input, a weight error e changes the output by e^T H e in the mean
square. Rounding one weight after the other and carrying each error forward to the weights not yet
rounded makes that small: optimal brain quantization (Frantar and Alistarh, "Optimal Brain
Compression", NeurIPS 2022), in the fixed order of GPTQ (Frantar et al., arXiv 2210.17323).

A kernel is [G, n, C]: G groups with n inputs and C outputs each. A dense layer or plain convolution
has G = 1, a depthwise convolution one group per input channel. Moments are of the input as it
reads after quantization, centred on its mean, whose share of the error goes into the bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.weight_scale import max_abs_scale

# Errors within a block are carried one weight at a time, errors of earlier blocks in one product.
_BLOCK = 64
_FRACTIONS = tuple(np.geomspace(1.0, 0.2, 24))


def second_order_rounding(
    weight: np.ndarray,
    second_moment: np.ndarray,
    scale: np.ndarray,
    bits: int | np.ndarray,
    damping: float = 0.01,
) -> np.ndarray:
    """Return integers of the signed narrow-range grid for which the output error is small.

        e^T H e = sum over k of D_k (e_k + sum over j < k of U_jk e_j)^2,   H = U D U^T
        q_k = clip(round(w_k / s + sum over j < k of U_jk e_j / s)),        e_j = w_j - s q_j

    U is unit upper triangular. Each weight thus makes its own term of the sum least, given the
    errors made before it. U_jk are the numbers that GPTQ reads from the Cholesky factor of the
    inverse of H (Chee et al., arXiv 2307.13304, theorem 6); here nothing is inverted. Inputs are
    taken in the order of descending H_jj, so that the largest errors can still be carried.

    Args:
        weight: float[G, n, C], the kernel.
        second_moment: float[G, n, n], E[x x^T] of each group's centred input; symmetric.
        scale: float[G, C], step of each output channel, > 0.
        bits: bit width >= 2, or int[G, C].
        damping: added to the diagonal of H, as a fraction of its mean; keeps the carried errors
            bounded where H is singular or known from few samples.

    Returns:
        int32[G, n, C]. The weights of an input that never varies (H_jj = 0) are rounded to nearest.

    Raises:
        ConfigError: a bit width that has no narrow-range grid, or a negative damping.
        DataError: shapes that do not fit, values that are not finite, a scale that is not positive,
            or a second moment that is not positive definite after damping.

    Source: arXiv 2210.17323, section 3.
    """
    order, feedback = _feedback(second_moment, damping)
    weight = checked_kernel(weight, feedback)
    limit = _grid_limit(bits, weight)
    steps = weight / _checked_scale(scale, weight)[:, None, :]
    # What is left to be rounded, and of what has been rounded the error.
    left = np.take_along_axis(steps, order[:, :, None], axis=1)
    del steps
    q = np.empty(left.shape, np.int32)
    for start in range(0, left.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        wanted = left[:, block] + feedback[:, block, :start] @ left[:, :start]
        for k in range(start, start + wanted.shape[1]):
            carried = feedback[:, k, None, start:k] @ left[:, start:k]
            nearest = np.clip(np.rint(wanted[:, k - start] + carried[:, 0]), -limit, limit)
            q[:, k] = nearest
            left[:, k] -= nearest
    rounded = np.empty_like(q)
    np.put_along_axis(rounded, order[:, :, None], q, axis=1)
    return rounded


def output_error_scale(
    weight: np.ndarray,
    second_moment: np.ndarray,
    bits: int | np.ndarray,
    fractions: Sequence[float] | np.ndarray = _FRACTIONS,
) -> np.ndarray:
    """Return the candidate scale for which nearest rounding errs least at the output.

        scale_c = argmin over s of (w - w_q(s))^T H (w - w_q(s)),  s = fraction * max-abs scale

    Args:
        weight: float[G, n, C], the kernel.
        second_moment: float[G, n, n], E[x x^T] of each group's centred input.
        bits: bit width >= 2, or int[G, C].
        fractions: the candidates, as fractions of the scale that just reaches the largest weight;
            each costs one product of [n, n] by [n, C]. The first of equally good ones is taken.

    Returns:
        float64[G, C]; 1.0 times the first fraction where all weights of the channel are zero.

    Raises:
        ConfigError: a bit width that has no narrow-range grid, or a fraction that is not positive.
        DataError: shapes that do not fit, or values that are not finite.
    """
    fractions = np.asarray(fractions, np.float64)
    if fractions.ndim != 1 or fractions.size == 0 or not np.all(np.isfinite(fractions)):
        raise ConfigError(
            "`fractions` must be a non-empty sequence of finite numbers. "
            f"Received: {fractions!r}. Leave it out for the default candidates."
        )
    if fractions.min() <= 0:
        raise ConfigError(
            f"`fractions` must be positive. Received: a lowest one of {fractions.min()}. "
            "1.0 is the scale of the largest weight; smaller ones clip it."
        )
    moment = _checked_moment(second_moment)
    weight = checked_kernel(weight, moment)
    groups, inputs, channels = weight.shape
    limit = _grid_limit(bits, weight)
    flat_bits = np.broadcast_to(bits, (groups, channels)).ravel()
    largest = max_abs_scale(weight.swapaxes(0, 1).reshape(inputs, -1), flat_bits)
    largest = largest.reshape(groups, channels)
    best_scale, least = largest * fractions[0], np.full((groups, channels), np.inf)
    for fraction in fractions:
        scale = largest * fraction
        step = scale[:, None, :]
        nearest = np.clip(np.rint(weight / step), -limit[:, None], limit[:, None])
        error = output_error(weight - step * nearest, moment)
        better = error < least
        best_scale, least = np.where(better, scale, best_scale), np.where(better, error, least)
    return best_scale


def output_error(weight_error: np.ndarray, second_moment: np.ndarray) -> np.ndarray:
    """Return the mean square by which an error of the kernel changes each output channel.

        e^T H e

    Args:
        weight_error: float[G, n, C], float kernel minus quantized kernel.
        second_moment: float[G, n, n], E[x x^T] of each group's input.

    Returns:
        float64[G, C], in squared units of the layer's output.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """
    moment = _checked_moment(second_moment)
    weight_error = checked_kernel(weight_error, moment)
    return np.sum(weight_error * (moment @ weight_error), axis=1)


def damped_moment(second_moment: np.ndarray, damping: float) -> np.ndarray:
    """Return the second moment with a constant added to the diagonal of each group.

        H + damping * mean(diag H) * I

    An input that never varies (H_jj = 0) is separated from the others, with 1.0 on the diagonal.

    Args:
        second_moment: float[G, n, n], E[x x^T].
        damping: fraction of the mean diagonal, >= 0.

    Returns:
        float64[G, n, n]; positive definite if `damping` is positive and H is semidefinite.

    Raises:
        ConfigError: the damping is negative or not finite.
        DataError: the shape is not [G, n, n], a value is not finite, or a diagonal is negative.
    """
    if not 0 <= damping < np.inf:
        raise ConfigError(
            "The fraction of the mean diagonal to add (damping, ridge) must be finite and not "
            f"negative. Received: {damping!r}. 0.01 suits rounding, 0.5 a refit."
        )
    damped = _checked_moment(np.array(second_moment, np.float64))
    energy = np.diagonal(damped, axis1=1, axis2=2).copy()
    varies = energy > 0
    damped[~(varies[:, :, None] & varies[:, None, :])] = 0.0
    diagonal = np.arange(damped.shape[1])
    added = damping * energy.mean(axis=1, keepdims=True)
    damped[:, diagonal, diagonal] = np.where(varies, energy + added, 1.0)
    return damped


def checked_kernel(weight: np.ndarray, second_moment: np.ndarray) -> np.ndarray:
    """Return the kernel in float64 if it goes with the second moment.

    Args:
        weight: float[G, n, C], the kernel.
        second_moment: float[G, n, n].

    Returns:
        float64[G, n, C].

    Raises:
        DataError: the shapes do not fit, or a weight is not finite.
    """
    weight = np.asarray(weight, np.float64)
    if weight.ndim != 3 or weight.shape[2] == 0 or weight.shape[:2] != second_moment.shape[:2]:
        raise DataError(
            "`weight` must be [G, n, C] for a second moment [G, n, n]. "
            f"Received: {weight.shape} for {second_moment.shape}. "
            "Bring the kernel to groups by inputs of a group by outputs of a group."
        )
    if not np.isfinite(weight).all():
        raise DataError(
            f"`weight` must be finite. Received: {int((~np.isfinite(weight)).sum())} values of "
            f"{weight.size} that are NaN or infinite. Look for them in the layer's kernel."
        )
    return weight


def _feedback(second_moment: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the inputs and U^T of H = U D U^T in that order.

    Only j < k of [G, k, j] is meaningful.
    """
    moment = damped_moment(second_moment, damping)
    energy = np.diagonal(second_moment, axis1=1, axis2=2)
    order = np.argsort(-energy, axis=1, kind="stable")
    # Cholesky gives lower times upper. Upper times lower is the same of the reversed order.
    arranged = np.empty_like(moment)
    for group, last_first in enumerate(order[:, ::-1]):
        rows = moment[group].take(last_first, axis=0)
        rows.take(last_first, axis=1, out=arranged[group], mode="clip")  # "raise" would buffer
    del moment, rows  # of a wide layer each takes more memory than the kernel
    try:
        lower = np.linalg.cholesky(arranged)
    except np.linalg.LinAlgError as error:
        raise DataError(
            "`second_moment` must be positive definite after damping. "
            f"Received: shape {arranged.shape}, of which a group is not. "
            "Increase `damping`, or accumulate the moment in float64."
        ) from error
    del arranged
    lower /= np.diagonal(lower, axis1=1, axis2=2)[:, None, :].copy()
    return order, np.ascontiguousarray(lower.swapaxes(1, 2)[:, ::-1, ::-1])


def _grid_limit(bits: int | np.ndarray, weight: np.ndarray) -> np.ndarray:
    groups, _, channels = weight.shape
    try:
        bits = np.broadcast_to(bits, (groups, channels))
    except ValueError as error:
        raise DataError(
            f"`bits` must be one integer or [G, C] = [{groups}, {channels}]. "
            f"Received: shape {np.shape(bits)}. Give each output channel of each group its width."
        ) from error
    grid = IntegerGrid(bits.ravel(), signed=True, narrow_range=True)
    return np.reshape(grid.qmax, (groups, channels))


def _checked_scale(scale: np.ndarray, weight: np.ndarray) -> np.ndarray:
    scale = np.asarray(scale, np.float64)
    expected = (weight.shape[0], weight.shape[2])
    if scale.shape != expected or not np.all((scale > 0) & np.isfinite(scale)):
        raise DataError(
            f"`scale` must be [G, C] = {list(expected)}, positive and finite. "
            f"Received: shape {scale.shape}. Derive it with `output_error_scale`."
        )
    return scale


def _checked_moment(second_moment: np.ndarray) -> np.ndarray:
    moment = np.asarray(second_moment, np.float64)
    if moment.ndim != 3 or moment.size == 0 or moment.shape[1] != moment.shape[2]:
        raise DataError(
            "`second_moment` must be [G, n, n], not empty. "
            f"Received: {moment.shape}. Add the axis of groups, of length 1 for a plain layer."
        )
    energy = np.diagonal(moment, axis1=1, axis2=2)
    if not np.isfinite(moment).all() or energy.min() < 0:
        raise DataError(
            "`second_moment` must be finite, with a diagonal that is not negative. "
            f"Received: a lowest diagonal of {energy.min()}. "
            "Look for NaN in the layer's input, or accumulate the moment in float64."
        )
    return moment
