"""How the values of a tensor are distributed, beside its clip and the density fitted to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflite_ptq4.graph import Node
from tflite_ptq4.numerics.analytic_clipping import gaussian_ratio, laplace_ratio
from tflite_ptq4.plan import TensorPlan
from tflite_ptq4.stats.histogram import ZERO_BIN, bin_edges
from tflite_ptq4.stats.tensor_statistics import TensorStatistics
from tflite_ptq4.weights.kernel_layout import kernel_matrix
from tflite_ptq4.weights.layer_weights import LEAST_GRID_BITS, LayerWeights, weight_grid

BINS = 56
TAIL = 1e-4  # share of the values that may lie beyond either end of what is shown
MOST_CLIPS = 2.5  # how far beyond the clip is shown at most
DIGITS = 4  # of the shares, so that equal runs give equal files


@dataclass(frozen=True)
class Prior:
    """A density that was fitted to the values.

    Attributes:
        family: "laplace" or "gaussian".
        center: its mode.
        scale: b of a Laplace density, sigma of a Gaussian one.
        share: of all values, those that it describes: the positive ones after a ReLU.
        one_sided: whether it describes values > 0 alone.
        chosen: whether the clip was taken from it; otherwise it is the likelier of the two.
    """

    family: str
    center: float
    scale: float
    share: float
    one_sided: bool
    chosen: bool

    def density(self, x: ArrayLike) -> NDArray[np.float64]:
        """Share of the values per unit of x."""
        away = (np.asarray(x, np.float64) - self.center) / self.scale
        if self.family == "laplace":
            shape = np.exp(-np.abs(away)) / (2.0 * self.scale)
        else:
            shape = np.exp(-(away**2) / 2.0) / (self.scale * math.sqrt(2.0 * math.pi))
        return self.share * shape * (2.0 if self.one_sided else 1.0)


@dataclass(frozen=True)
class Distribution:
    """A histogram in equal bins, for people to look at.

    Attributes:
        start: lower end of the first bin.
        stop: upper end of the last bin.
        shares: of all values, how many lie in each bin; zeros are counted apart.
        zeros: share of the values that are zero.
        below: share of the values below `start`.
        above: share of the values above `stop`.
        clip_low: lower end of the grid.
        clip_high: upper end of the grid.
        clipped: share of the values beyond the grid.
        prior: the density fitted to the values, None where they have no spread.
    """

    start: float
    stop: float
    shares: tuple[float, ...]
    zeros: float
    below: float
    above: float
    clip_low: float
    clip_high: float
    clipped: float
    prior: Prior | None


def tensor_distribution(
    statistics: TensorStatistics, plan: TensorPlan, *, one_sided: bool
) -> Distribution | None:
    """The values of an activation, all channels together.

    Args:
        statistics: of the tensor.
        plan: its levels; of several scales the widest clip counts.
        one_sided: a ReLU comes before it.

    Returns:
        The distribution; None where calibration saw no value.
    """
    merged = statistics.per_tensor()
    if merged.count[0] == 0:
        return None
    if one_sided and merged.minimum[0] < 0:
        merged = merged.rectified()
    low, high = float(plan.low.min()), float(plan.high.max())
    edges = np.clip(bin_edges(), merged.minimum[0], merged.maximum[0])
    counts = merged.histogram[0].astype(np.float64)
    method = plan.method[0] if len(set(plan.method)) == 1 else ""
    return _distribution(edges, counts, low, high, _prior(merged, one_sided, method))


def weight_distribution(
    node: Node, weights: LayerWeights, bits: NDArray[np.int64], method: str
) -> Distribution | None:
    """The float weights of a layer, each as a share of the clip of its channel.

    Args:
        node: the layer.
        weights: its quantized weights.
        bits: int64 [c_out].
        method: how the scale was chosen, as in the config.

    Returns:
        The distribution, its clip being [-1, 1]; None where every channel has one level.
    """
    coded = bits >= LEAST_GRID_BITS
    if not coded.any():
        return None
    clip = (weights.scale * weight_grid(bits).qmax)[coded]
    values = (kernel_matrix(node)[:, coded].astype(np.float64) / clip).reshape(-1, 1)
    statistics = TensorStatistics.from_array(values)
    if method in ("laplace", "gaussian"):
        ratio = laplace_ratio if method == "laplace" else gaussian_ratio
        scale = 1.0 / ratio(int(np.median(bits[coded])))
        prior = Prior(method, 0.0, scale, 1.0, one_sided=False, chosen=True)
    else:
        prior = _prior(statistics, False, "")
    edges = np.clip(bin_edges(), statistics.minimum[0], statistics.maximum[0])
    return _distribution(edges, statistics.histogram[0].astype(np.float64), -1.0, 1.0, prior)


def _distribution(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    low: float,
    high: float,
    prior: Prior | None,
) -> Distribution:
    total = counts.sum()
    zeros = counts[ZERO_BIN] / total
    shares = np.where(np.arange(len(counts)) == ZERO_BIN, 0.0, counts) / total
    below_edge = np.concatenate([[0.0], np.cumsum(shares)])

    def below(x: ArrayLike) -> NDArray[np.float64]:
        # Of equal edges, where the range ends, the last one counts.
        return np.interp(x, edges, below_edge)

    seen = below_edge[-1]
    # A lower bound of 1e-9 keeps an interval where all values are zero.
    reach = max(high, -low, 1e-9)
    ends = np.searchsorted(below_edge, [TAIL, seen - TAIL], side="left")
    inner = edges[np.minimum(ends, len(edges) - 1)]
    start = max(min(low, inner[0]), -MOST_CLIPS * reach)
    stop = min(max(high, inner[1]), MOST_CLIPS * reach)
    margin = 0.04 * (stop - start)
    start, stop = start - margin * (start < 0), stop + margin
    inside = np.diff(below(np.linspace(start, stop, BINS + 1)))
    return Distribution(
        start=_rounded(start),
        stop=_rounded(stop),
        shares=tuple(_rounded(share) for share in np.maximum(inside, 0.0)),
        zeros=_rounded(zeros),
        below=_rounded(max(float(below(start)), 0.0)),
        above=_rounded(max(seen - float(below(stop)), 0.0)),
        clip_low=_rounded(low),
        clip_high=_rounded(high),
        clipped=_rounded(max(float(below(low)) + seen - float(below(high)), 0.0)),
        prior=prior,
    )


def _prior(statistics: TensorStatistics, one_sided: bool, method: str) -> Prior | None:
    """The density that the clip came from, or the likelier one of the two."""
    if one_sided:
        count, center = statistics.positive_count[0], 0.0
        variance = statistics.positive_m2[0] / max(count, 1) + statistics.positive_mean[0] ** 2
        deviation = statistics.positive_mean[0]
    else:
        count, center = statistics.count[0], statistics.mean[0]
        variance, deviation = statistics.m2[0] / count, statistics.mean_abs_deviation[0]
    if variance <= 0.0 or deviation <= 0.0:
        return None
    sigma = math.sqrt(variance)
    chosen = method in ("laplace", "gaussian")
    # The greater likelihood: -log(2 b) - 1 against -log(sigma sqrt(2 pi e)).
    likelier = math.log(2.0 * deviation) + 1.0 < math.log(sigma * math.sqrt(2 * math.pi * math.e))
    family = method if chosen else "laplace" if likelier else "gaussian"
    return Prior(
        family=family,
        center=_rounded(center),
        scale=_rounded(deviation if family == "laplace" else sigma),
        share=_rounded(count / statistics.count[0]),
        one_sided=one_sided,
        chosen=chosen,
    )


def _rounded(value: float) -> float:
    return float(f"{float(value):.{DIGITS}g}")
