"""The clip of an activation: by one method, or by whichever errs least on the calibration data.

    laplace     mean +- ratio(bits) * E|x - E x|, or [0, ratio * E[x | x > 0]] after a ReLU (ACIQ)
    gaussian    mean +- ratio(bits) * std, or [0, ratio * sqrt(E[x^2 | x > 0])] after a ReLU (ACIQ)
    min_max     the whole range
    percentile  between the percentiles 100 - p and p
    mse         the smallest squared error on the calibration histogram
    auto        the best of all these, channel by channel

After a ReLU the paper's density is that of the tensor before it. Centred at zero, its scale is that
of the positive values alone; an estimate that counts the zeros as well would clip far too hard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflite_ptq4.errors import ConfigError, StatisticsError
from tflite_ptq4.numerics.analytic_clipping import gaussian_ratio, laplace_ratio
from tflite_ptq4.numerics.clip_search import histogram_clip_error, percentile_clip, search_clip
from tflite_ptq4.stats.histogram import bin_edges
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

# Where several err equally, `auto` takes the first.
CLIP_METHODS = ("min_max", "laplace", "gaussian", "percentile", "mse")
AUTO = "auto"
REPLACED_BY_MEAN = "mean"
MAXIMUM_BITS = 16

_Clip = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class ClipChoice:
    """The clip of each channel of a tensor, and what it was chosen from.

    Attributes:
        low: float64 [C], lower end, <= 0 unless the channel has 0 bits.
        high: float64 [C], upper end, >= 0 unless the channel has 0 bits.
        method: per channel the method taken, or "mean" for a channel of 0 bits, whose low and high
            are both its mean.
        error: float64 [C], expected squared error, in squared units of the tensor.
        candidates: per method tried, its error float64 [C]; the variance for channels of 0 bits.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    method: tuple[str, ...]
    error: NDArray[np.float64]
    candidates: dict[str, NDArray[np.float64]]


def choose_clip(
    stats: TensorStatistics,
    bits: int | ArrayLike,
    *,
    method: str,
    one_sided: bool,
    percentile: float = 99.99,
) -> ClipChoice:
    """Return the clip of each channel, for the grid that `affine_range(low, high, bits)` gives.

    The clip contains zero and stays inside the channel's range widened to zero.

    Args:
        stats: statistics with C channels, each with at least one value; `per_tensor()` for C = 1.
        bits: bit width of all channels, or int [C], in [0, 16]; 0 replaces a channel by its mean.
        method: "laplace", "gaussian", "min_max", "percentile", "mse" or "auto".
        one_sided: a ReLU is fused before the quantization, low is 0. Negative values, where `stats`
            are those of the tensor before the ReLU, count as zeros.
        percentile: p of "percentile", in [50, 100].

    Raises:
        ConfigError: unknown method, or bits or percentile out of range.
        StatisticsError: a channel saw no value.

    Reference: Banner et al., arXiv 1810.05723, section 3; the method "auto" is ours.
    """
    bits = _checked_bits(bits, stats.channels)
    _check_request(stats, method, percentile)
    if one_sided and (stats.minimum < 0).any():
        stats = stats.rectified()
    coded = bits > 0
    grid_bits = np.where(coded, bits, 1)
    clips, candidates = {}, {}
    for name in CLIP_METHODS if method == AUTO else (method,):
        clip, error = _clip_and_error(stats, grid_bits, name, one_sided, percentile)
        clips[name] = np.where(coded, clip, stats.mean)
        candidates[name] = np.where(coded, error, stats.m2 / stats.count)
    best = np.argmin(list(candidates.values()), axis=0)
    channel = np.arange(stats.channels)
    low, high = np.array(list(clips.values()))[best, :, channel].T
    names = np.where(coded, np.array(list(clips))[best], REPLACED_BY_MEAN)
    return ClipChoice(
        low=low,
        high=high,
        method=tuple(names.tolist()),
        error=np.array(list(candidates.values()))[best, channel],
        candidates=candidates,
    )


def step_range(attributes: Mapping[str, object], stats: TensorStatistics) -> _Clip | None:
    """The range of an operator's output inside a layer, where the layer's arithmetic says it.

    Values that others are divided by are not clipped by their squared error: what counts is how
    many levels the least of them has.

    Args:
        attributes: of the operator; "bounds" is the range, "times_least" how many times the least
            value the range goes up to, at most to the largest.
        stats: of its output, positive values for "times_least", with C channels.

    Returns:
        float64 [C], both ends; None where neither attribute is there.
    """
    if "bounds" in attributes:
        low, high = attributes["bounds"]
        return np.full(stats.channels, low), np.full(stats.channels, high)
    if "times_least" in attributes:
        least = np.maximum(stats.minimum, np.finfo(np.float32).tiny)
        high = np.minimum(stats.maximum, attributes["times_least"] * least)
        return np.zeros(stats.channels), high
    return None


def _clip_and_error(
    stats: TensorStatistics,
    bits: NDArray[np.int64],
    method: str,
    one_sided: bool,
    percentile: float,
) -> tuple[_Clip, NDArray[np.float64]]:
    data = stats.histogram, bin_edges(), stats.minimum, stats.maximum
    if method == "mse":
        low, high, error = search_clip(*data, bits)
        return (low, high), error
    if method == "percentile":
        low, high = percentile_clip(*data, percentile)
    elif method == "min_max":
        low, high = stats.minimum, stats.maximum
    else:
        low, high = _analytic_clip(stats, bits, method, one_sided)
    # Inside the range of the values, then widened to hold zero.
    low = np.minimum(np.maximum(low, stats.minimum), 0.0)
    high = np.maximum(np.minimum(high, stats.maximum), 0.0)
    error = histogram_clip_error(*data, low[:, None], high[:, None], bits)
    return (low, high), error[:, 0]


def _analytic_clip(
    stats: TensorStatistics, bits: NDArray[np.int64], method: str, one_sided: bool
) -> _Clip:
    ratio = laplace_ratio if method == "laplace" else gaussian_ratio
    ratios = np.array([ratio(int(b), one_sided=one_sided) for b in bits])
    if one_sided:
        return np.zeros(stats.channels), ratios * _scale_before_relu(stats, method)
    alpha = ratios * (stats.mean_abs_deviation if method == "laplace" else stats.std)
    return stats.mean - alpha, stats.mean + alpha


def _scale_before_relu(stats: TensorStatistics, method: str) -> NDArray[np.float64]:
    """Scale of the density centred at zero whose positive part the values x > 0 are."""
    if method == "laplace":
        return stats.positive_mean
    variance = stats.positive_m2 / np.maximum(stats.positive_count, 1)
    return np.sqrt(variance + stats.positive_mean**2)


def _checked_bits(bits: int | ArrayLike, channels: int) -> NDArray[np.int64]:
    array = np.asarray(bits)
    if (
        array.dtype.kind not in "iu"
        or array.shape not in ((), (channels,))
        or (array < 0).any()
        or (array > MAXIMUM_BITS).any()
    ):
        raise ConfigError(
            f"`bits` must be one integer in [0, {MAXIMUM_BITS}], or one for each of the {channels} "
            f"channels. Received: bits={bits!r}. Allocate bits per channel of this tensor."
        )
    return np.broadcast_to(array, (channels,)).astype(np.int64)


def _check_request(stats: TensorStatistics, method: str, percentile: float) -> None:
    if method not in (*CLIP_METHODS, AUTO):
        raise ConfigError(
            f"`method` must be one of {', '.join((*CLIP_METHODS, AUTO))}. "
            f"Received: method={method!r}. Correct the name."
        )
    if not 50 <= percentile <= 100:
        raise ConfigError(
            f"`percentile` must be in [50, 100]. Received: percentile={percentile!r}. "
            "99.99 leaves out one value in ten thousand at either end."
        )
    if (stats.count == 0).any():
        raise StatisticsError(
            "Every channel must have been seen in calibration to be clipped. "
            f"Received: no value for channels {np.flatnonzero(stats.count == 0).tolist()}. "
            "Calibrate on images that reach this tensor."
        )
