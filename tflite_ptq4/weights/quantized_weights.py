"""Float kernels to integers on a grid, with the paper's corrections: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.numerics.affine import quantize
from tflite_ptq4.numerics.weight_scale import aciq_scale, max_abs_scale, squared_error_scale
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.stats.tensor_statistics import TensorStatistics
from tflite_ptq4.weights.kernel_layout import kernel_matrix
from tflite_ptq4.weights.layer_weights import (
    LEAST_GRID_BITS,
    LayerWeights,
    hold_bias,
    layer_weights,
    weight_grid,
)
from tflite_ptq4.weights.weight_correction import correct_bias

SMALLEST_RELATIVE_SCALE = 2.0**-20  # XNNPACK takes no ratio of scales below 2^-32
LARGEST_SECOND_ORDER = 2.0e10  # n^2 c_out, the multiplications of one layer: about ten seconds


def quantize_weights(
    graph: LayerGraph,
    plan: QuantizationPlan,
    statistics: Mapping[str, TensorStatistics],
    *,
    share: Callable[..., Iterable] = map,
) -> dict[str, LayerWeights]:
    """Quantize every planned layer from its weights and the statistics of its input.

    Args:
        graph: the lowered model.
        plan: made for this graph.
        statistics: of the tensors that the layers read.
        share: does a task for each of several items, as `map` does; they may be done at once.

    Returns:
        The weights of each quantized layer, by name.
    """

    def quantized(node: Node) -> LayerWeights:
        bits, mean = plan.layer(node.name).weight_bits, statistics[node.inputs[0]].mean
        weights = quantize_layer(node, bits, plan.config, input_mean=mean)
        return hold_bias(node, weights, plan.tensors.get(node.inputs[0]))

    nodes = [node for node in graph.weighted_nodes if plan.layer(node.name).quantized]
    names = (node.name for node in nodes)
    return dict(zip(names, share(quantized, nodes), strict=True))


def second_order_refusal(node: Node) -> str | None:
    """Why a layer's weights cannot be rounded by second order, None where they can.

    Args:
        node: a layer with weights.
    """
    if node.kind == "conv2d_transpose":
        return "each phase of a transposed convolution reads other taps: nearest rounding"
    inputs, outputs = kernel_matrix(node).shape
    if float(inputs) ** 2 * outputs > LARGEST_SECOND_ORDER:
        return f"{inputs} x {outputs} weights are too many for second order: nearest rounding"
    return None


def quantize_layer(
    node: Node,
    bits: NDArray[np.int64],
    config: QuantizationConfig,
    *,
    input_mean: NDArray[np.float64],
) -> LayerWeights:
    """Scale, nearest rounding, and the paper's bias correction of one layer.

    Args:
        node: a layer with weights.
        bits: int64 [c_out].
        config: the choices.
        input_mean: float64 [c_in], expected input.

    Returns:
        The quantized weights.
    """
    weight = kernel_matrix(node).astype(np.float64)
    scale = weight_scale(weight, bits, config)
    weights = layer_weights(node, weight, round_to_nearest(weight, scale, bits), scale)
    if not config.bias_correction:
        return weights
    return correct_bias(node, weights, bits, config, input_mean)


def weight_scale(
    weight: NDArray[np.float64], bits: NDArray[np.int64], config: QuantizationConfig
) -> NDArray[np.float64]:
    """The scale of each output channel before any correction, by the method of the config.

    A channel of fewer than 2 bits has the size of its mean as its scale.

    Args:
        weight: float64 [n, C].
        bits: int64 [C].
        config: the choices.

    Returns:
        float64 [C].
    """
    coded = bits >= LEAST_GRID_BITS
    grid_bits = np.maximum(bits, LEAST_GRID_BITS)
    search = {
        "squared_error": squared_error_scale,
        "max_abs": max_abs_scale,
        "laplace": lambda w, b: aciq_scale(w, b, density="laplace"),
        "gaussian": lambda w, b: aciq_scale(w, b, density="gaussian"),
    }[config.weight_scale]
    if config.weight_granularity == "per_tensor":
        scale = np.full(len(bits), search(weight.reshape(-1, 1), int(grid_bits.max()))[0])
    else:
        scale = search(weight, grid_bits)
    mean = np.abs(weight.mean(axis=0))
    scale = np.where(coded | (mean == 0), scale, mean)
    live = (weight != 0).any(axis=0)
    largest = scale[live].max(initial=0.0)
    return np.maximum(scale, largest * SMALLEST_RELATIVE_SCALE)


def round_to_nearest(
    weight: NDArray[np.float64], scale: NDArray[np.float64], bits: NDArray[np.int64]
) -> NDArray[np.int32]:
    """The nearest integers of the grid; a channel of fewer than 2 bits becomes its mean.

    Args:
        weight: float64 [n, C].
        scale: float64 [C].
        bits: int64 [C].

    Returns:
        int32 [n, C].
    """
    integers = quantize(weight, scale, 0, weight_grid(bits))
    return np.where(bits >= LEAST_GRID_BITS, integers, np.sign(weight.mean(axis=0))).astype(
        np.int32
    )
