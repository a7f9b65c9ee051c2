"""Bit widths per channel under a constraint on their average.

Banner, Nahshan and Soudry, "Post training 4-bit quantization of convolutional networks for
rapid-deployment" (NeurIPS 2019, arXiv 1810.05723), section 4.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.analytic_clipping import rounding_error


def allocate_bits(
    alpha: ArrayLike,
    average_bits: float,
    *,
    method: Literal["exact", "paper"] = "exact",
    minimum: int = 0,
    maximum: int = 8,
    weight: ArrayLike | None = None,
    error_table: ArrayLike | None = None,
) -> np.ndarray:
    """Return the bit width of each channel, chosen so that the summed squared error is small.

        exact:  least sum of w_i alpha_i^2 / (3 * 4^M_i)  with  sum of M_i = round(average * C)
        paper:  M_i = round(log2 B_i),  B_i = k (w_i alpha_i^2)^(1/3)

    `exact` holds the number of bits, which makes M_i grow as log2 alpha_i; `paper` holds the number
    of quantization intervals, which makes it grow as (2/3) log2 alpha_i, and then searches the
    multiplier k for the average. A channel that cannot err (alpha or weight zero) comes last.

    Args:
        alpha: float[C], clipping value of each channel, >= 0.
        average_bits: mean bit width aimed at, from `minimum` to `maximum`.
        method: "exact" meets the average to the bit. "paper" comes as near as rounding permits,
            below it if two totals are equally near: channels of equal alpha change together, and
            channels that cannot err stay at `minimum`.
        minimum: fewest bits of a channel; 0 means that it may be replaced by its mean.
        maximum: most bits of a channel.
        weight: float[C] >= 0, factor on the squared error of each channel; None means 1.
        error_table: float[C, maximum + 1], squared error of each channel at each bit width, in
            place of the formula; only for "exact". Where a further bit gains more than the one
            before it, the two are taken together, and at most one channel is left between.

    Returns:
        int64[C]. Equal gains go to the channel of the lowest index.

    Raises:
        ConfigError: bounds or average that cannot be met, an unknown method, or an error table
            given to "paper".
        DataError: an array of the wrong shape, or a value that is negative or not finite.

    Source: arXiv 1810.05723, section 4.
    """
    alpha = _checked("alpha", alpha, np.shape(alpha))
    if alpha.ndim != 1 or alpha.size == 0:
        raise DataError(
            "`alpha` must hold one clipping value per channel. "
            f"Received: shape {alpha.shape}. Pass a one-dimensional array that is not empty."
        )
    channels = alpha.size
    weight = np.ones(channels) if weight is None else _checked("weight", weight, (channels,))
    if not 0 <= minimum <= average_bits <= maximum:
        raise ConfigError(
            "`average_bits` must lie between the bounds, with 0 <= minimum <= average_bits <= "
            f"maximum. Received: minimum={minimum!r}, average_bits={average_bits!r}, "
            f"maximum={maximum!r}. Change the average or the bounds."
        )
    total = round(average_bits * channels)
    if method == "exact":
        if error_table is None:
            errors = rounding_error(alpha[:, None], np.arange(maximum + 1))
        else:
            errors = _checked("error_table", error_table, (channels, maximum + 1))
        return minimum + _steps_of_largest_gain(
            weight[:, None] * errors[:, minimum:], total - minimum * channels
        )
    if method != "paper":
        raise ConfigError(
            '`method` must be "exact" or "paper". '
            f"Received: method={method!r}. Choose one of the two."
        )
    if error_table is not None:
        raise ConfigError(
            '`error_table` must go with method="exact": the paper\'s rule knows only alpha. '
            'Received: method="paper". Leave the table out, or choose "exact".'
        )
    return _paper_bits(weight * alpha**2, total, minimum, maximum)


def _steps_of_largest_gain(errors: np.ndarray, steps: int) -> np.ndarray:
    """Return how many steps each row takes when the `steps` largest gains of all are taken."""
    gains = -np.diff(_convex_minorant(errors), axis=1)
    # Row-major and stable: of equal gains, the lowest channel's come first and stay together.
    order = np.argsort(-gains, axis=None, kind="stable")
    taken = np.zeros(gains.size, bool)
    taken[order[:steps]] = True
    return taken.reshape(gains.shape).sum(axis=1)


def _convex_minorant(errors: np.ndarray) -> np.ndarray:
    """Return the largest convex sequence below each row, on which gains never grow."""
    minorant = errors.copy()
    positions = range(errors.shape[1])
    for left in positions:
        for right in positions[left + 2 :]:
            slope = (errors[:, right] - errors[:, left]) / (right - left)
            inner = np.arange(left + 1, right)
            chord = errors[:, left, None] + slope[:, None] * (inner - left)
            minorant[:, inner] = np.minimum(minorant[:, inner], chord)
    return minorant


def _paper_bits(weighted_square: np.ndarray, total: int, minimum: int, maximum: int) -> np.ndarray:
    """Return round(log2 k + log2(weighted_square) / 3), clipped, for the best multiplier k."""
    with np.errstate(divide="ignore"):
        interval_bits = np.log2(weighted_square) / 3.0
    # Channel i passes from m to m + 1 bits where log2 k = m + 1/2 - interval_bits[i]. The total
    # changes at these thresholds only, so the search over k is one over them.
    thresholds = np.arange(minimum, maximum) + 0.5 - interval_bits[:, None]
    distinct, counts = np.unique(thresholds[np.isfinite(thresholds)], return_counts=True)
    totals = minimum * weighted_square.size + np.concatenate([[0], np.cumsum(counts)])
    log2_multipliers = np.concatenate([[-np.inf], distinct])
    nearest = int(np.argmin(np.abs(totals - total)))
    return minimum + (thresholds <= log2_multipliers[nearest]).sum(axis=1)


def _checked(name: str, values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != shape:
        raise DataError(
            f"`{name}` must have shape {shape}. "
            f"Received: shape {values.shape}. Give one row for each channel of `alpha`."
        )
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise DataError(
            f"`{name}` must be finite and not negative. "
            f"Received: values from {values.min()} to {values.max()}. "
            "Check the calibration statistics it is derived from."
        )
    return values
