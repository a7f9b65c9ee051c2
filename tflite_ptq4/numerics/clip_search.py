"""Clips chosen by what they do to the calibration histogram, without assuming a density.

Everywhere here the values of a bin are taken as uniform in the part of it that lies in the
channel's [minimum, maximum], so that a mass at the end of the range, as a ReLU6 makes, stays there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.ranges import affine_range

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Shrink factors: ten octaves in half octaves, then steps of 1/8 and of 1/32 of an octave.
_COARSE = 2.0 ** (-np.arange(21) / 2)
_NEAR = 2.0 ** (np.arange(-6, 7) / 2)
_FINE = (2.0 ** (np.arange(-3, 4) / 8), 2.0 ** (np.arange(-3, 4) / 32))

# Narrower than this, relative to its place, a bin is a point: the difference of the two
# antiderivatives would be rounding noise.
_POINT_WIDTH = 1e-9


def histogram_clip_error(
    counts: Integers,
    edges: Floats,
    minimum: Floats,
    maximum: Floats,
    low: Floats,
    high: Floats,
    bits: Integers,
) -> Floats:
    """Return the mean squared error of quantizing each channel with each candidate clip.

        error = sum_i p_i * mean over bin i of (x - scale * n(x))^2,
        n(x) = clip(rint(x / scale), -zero_point, 2^bits - 1 - zero_point)

    with (scale, zero_point) = affine_range(low, high, bits). The mean over a bin is exact: with
    u = x / scale, the integral of (u - n)^2 is n / 12 + (u - n)^3 / 3, inside the clip and beyond.

    Args:
        counts: int64 [C, N] values per bin; at least one in every channel.
        edges: float64 [N + 1] edges of the bins, ascending.
        minimum: float64 [C] lowest value of each channel.
        maximum: float64 [C] highest value of each channel.
        low: float64 [C, K] lower ends of the candidate clips.
        high: float64 [C, K] upper ends.
        bits: int64 [C] bit widths, at least 1.

    Returns:
        float64 [C, K], in squared units of the tensor.

    Reference: the measured counterpart of equation 1 of Banner et al., arXiv 1810.05723.
    """
    # Bit widths go along the last axis there.
    scales, zero_points = (array.T for array in affine_range(low.T, high.T, bits))
    highest = np.broadcast_to(IntegerGrid(bits).qmax, (len(counts),))
    error = np.empty(scales.shape)
    # Channel by channel: each has few occupied bins of its own, and they fit the cache.
    for channel, row in enumerate(counts):
        occupied = np.flatnonzero(row)
        span = minimum[channel], maximum[channel]
        lower, upper = np.clip(edges[occupied], *span), np.clip(edges[occupied + 1], *span)
        scale, zero_point = scales[channel, :, None], zero_points[channel, :, None]
        mean_square = _mean_squared_residual(
            lower / scale, upper / scale, -zero_point, highest[channel] - zero_point
        )
        mean_square *= row[occupied] / row.sum()
        # Not a matrix product: its rounding would depend on the number of candidates.
        error[channel] = mean_square.sum(axis=1) * scale[:, 0] ** 2
    return error


def search_clip(
    counts: Integers, edges: Floats, minimum: Floats, maximum: Floats, bits: Integers
) -> tuple[Floats, Floats, Floats]:
    """Return the clip of the smallest `histogram_clip_error` of each channel.

    A common bound alpha on |x| is searched first, from coarse to fine, then, where the channel has
    both signs, the upper and the lower end each on its own. The whole range [minimum, maximum] is
    among the candidates. The last step is 1/32 of an octave, 2 % of the bound.

    Args:
        counts: int64 [C, N] values per bin; at least one in every channel.
        edges: float64 [N + 1] edges of the bins, ascending.
        minimum: float64 [C] lowest value of each channel.
        maximum: float64 [C] highest value of each channel.
        bits: int64 [C] bit widths, at least 1.

    Returns:
        low, high and error, float64 [C]; low <= 0 <= high, inside the range widened to zero.
    """

    def errors(low: Floats, high: Floats, rows: NDArray[np.intp]) -> Floats:
        return histogram_clip_error(
            counts[rows], edges, minimum[rows], maximum[rows], low, high, bits[rows]
        )

    reach_low, reach_high = np.maximum(-minimum, 0.0), np.maximum(maximum, 0.0)
    rows = np.arange(len(counts))
    alpha, error = _best_bound(
        lambda bound: errors(
            -np.minimum(bound, reach_low[:, None]), np.minimum(bound, reach_high[:, None]), rows
        ),
        start=np.maximum(reach_low, reach_high),
        reach=np.maximum(reach_low, reach_high),
        factors=_COARSE,
    )
    below, above = np.minimum(alpha, reach_low), np.minimum(alpha, reach_high)
    rows = np.flatnonzero((reach_low > 0) & (reach_high > 0))
    if rows.size:
        above[rows], _ = _best_bound(
            lambda bound: errors(-_columns(below[rows], bound), bound, rows),
            start=above[rows],
            reach=reach_high[rows],
            factors=_NEAR,
        )
        below[rows], error[rows] = _best_bound(
            lambda bound: errors(-bound, _columns(above[rows], bound), rows),
            start=below[rows],
            reach=reach_low[rows],
            factors=_NEAR,
        )
    return 0.0 - below, above, error


def percentile_clip(
    counts: Integers, edges: Floats, minimum: Floats, maximum: Floats, percentile: float
) -> tuple[Floats, Floats]:
    """Return the clip between the percentiles 100 - p and p, widened to contain zero.

    Args:
        counts: int64 [C, N] values per bin; at least one in every channel.
        edges: float64 [N + 1] edges of the bins, ascending.
        minimum: float64 [C] lowest value of each channel.
        maximum: float64 [C] highest value of each channel.
        percentile: p in [50, 100]; at 100 the clip is the whole range.

    Returns:
        low and high, float64 [C].
    """
    clip = np.empty((len(counts), 2))
    fractions = np.array([100 - percentile, percentile]) / 100
    for channel, row in enumerate(counts):
        below = np.concatenate([[0], np.cumsum(row)])
        places = np.clip(edges, minimum[channel], maximum[channel])
        clip[channel] = np.interp(fractions * below[-1], below, places)
    return np.minimum(clip[:, 0], 0.0), np.maximum(clip[:, 1], 0.0)


def _best_bound(
    errors: Callable[[Floats], Floats], *, start: Floats, reach: Floats, factors: Floats
) -> tuple[Floats, Floats]:
    """Follow the best of `start * factors`, then of finer steps around it, never beyond `reach`."""
    best = start
    for step in (factors, *_FINE):
        bounds = np.minimum(best[:, None] * step, reach[:, None])
        candidates = errors(bounds)
        choice = np.arange(len(best)), candidates.argmin(axis=1)
        best = bounds[choice]
    return best, candidates[choice]


def _mean_squared_residual(
    lower: Floats, upper: Floats, lowest: NDArray[np.int32], highest: NDArray[np.int32]
) -> Floats:
    """Mean of (u - clip(rint(u), lowest, highest))^2 over each [lower, upper], in steps squared."""
    width = upper - lower
    point = width <= _POINT_WIDTH * np.maximum(np.abs(lower), np.abs(upper))
    integral, _ = _residual_integral(upper, lowest, highest)
    start, residual = _residual_integral(lower, lowest, highest)
    integral -= start
    return np.divide(integral, width, out=residual * residual, where=~point)


def _residual_integral(
    u: Floats, lowest: NDArray[np.int32], highest: NDArray[np.int32]
) -> tuple[Floats, Floats]:
    """Antiderivative of the squared residual, n / 12 + (u - n)^3 / 3, and the residual u - n."""
    nearest = np.clip(np.rint(u), lowest, highest)
    residual = u - nearest
    integral = residual * residual
    integral *= residual
    integral *= 4.0
    integral += nearest
    integral /= 12.0
    return integral, residual


def _columns(values: Floats, like: Floats) -> Floats:
    return np.broadcast_to(values[:, None], like.shape)
