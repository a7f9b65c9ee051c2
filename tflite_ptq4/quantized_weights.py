"""Float kernels to integers on a grid, with the paper's corrections: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.kernel_layout import along_outputs, group_count, kernel_from_matrix, kernel_matrix
from tflite_ptq4.numerics.affine import dequantize, quantize
from tflite_ptq4.numerics.bias_correction import (
    bias_from_input_mean,
    mean_shift,
    move_roundings,
    norm_ratio,
)
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.weight_scale import aciq_scale, max_abs_scale, squared_error_scale
from tflite_ptq4.plan import QuantizationPlan, TensorPlan
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

LEAST_GRID_BITS = 2  # a symmetric grid of one bit holds zero alone
SMALLEST_RELATIVE_SCALE = 2.0**-20  # XNNPACK takes no ratio of scales below 2^-32
LARGEST_SECOND_ORDER = 2.0e10  # n^2 c_out, the multiplications of one layer: about ten seconds


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The quantized weights of one layer: W ~ scale * integers + offset, per output channel.

    Attributes:
        integers: int8, in the layout of `graph.Node.kernel`.
        scale: float64 [c_out], each a float32 value.
        bias: float64 [c_out], with every correction in it.
        offset: float64 [c_out], what the paper's own correction of the mean adds to every weight of
            a channel; zeros wherever weights lie on the integer grid.
        unrounded: float32, in the layout of the kernel, what the integers were rounded from, with
            the factors of later corrections; None where that is the float kernel itself.
    """

    integers: NDArray[np.int8]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    offset: NDArray[np.float64]
    unrounded: NDArray[np.float32] | None = None

    def dequantized(self, node: Node) -> NDArray[np.float32]:
        """The kernel that the integers stand for, float32 in the layout of `node.kernel`."""
        offset = along_outputs(node, self.offset)
        return (dequantize(self.integers, along_outputs(node, self.scale), 0) + offset).astype(
            np.float32
        )

    def bias_integers(self, input_plan: TensorPlan) -> NDArray[np.int32]:
        """The bias on the grid of the accumulator, whose step is s_input * s_weight."""
        steps = np.rint(self.bias / (input_plan.scale * self.scale))
        limit = np.iinfo(np.int32)
        return np.clip(steps, limit.min, limit.max).astype(np.int32)

    def stored_bias(self, input_plan: TensorPlan | None) -> NDArray[np.float32]:
        """The bias as an integer file holds it; unrounded where the input has no single scale."""
        if input_plan is None or input_plan.per_channel:
            return self.bias.astype(np.float32)
        return (self.bias_integers(input_plan) * (input_plan.scale * self.scale)).astype(np.float32)


def quantize_weights(
    graph: LayerGraph, plan: QuantizationPlan, statistics: Mapping[str, TensorStatistics]
) -> dict[str, LayerWeights]:
    """Quantize every planned layer from its weights and the statistics of its input.

    Args:
        graph: the lowered model.
        plan: made for this graph.
        statistics: of the tensors that the layers read.

    Returns:
        The weights of each quantized layer, by name.
    """
    quantized = {}
    for node in graph.weighted_nodes:
        layer = plan.layer(node.name)
        if layer.quantized:
            mean = statistics[node.inputs[0]].mean
            weights = quantize_layer(node, layer.weight_bits, plan.config, input_mean=mean)
            quantized[node.name] = hold_bias(node, weights, plan.tensors.get(node.inputs[0]))
    return quantized


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


def weight_grid(bits: NDArray[np.int64]) -> IntegerGrid:
    """The symmetric grid of a kernel, int bits per output channel."""
    return IntegerGrid(np.maximum(bits, LEAST_GRID_BITS), signed=True, narrow_range=True)


def layer_weights(
    node: Node,
    weight: NDArray[np.float64],
    integers: NDArray[np.int32],
    scale: NDArray[np.float64],
) -> LayerWeights:
    """Integers and scales of a layer, with the bias that it has, as one value.

    Args:
        node: the layer.
        weight: float64 [n, C] that the integers stand for.
        integers: int32 [n, C].
        scale: float64 [C].
    """
    dead = (weight == 0).all(axis=0)
    # The bias of a dead channel lies on the grid of a scale that nothing else determines.
    of_bias = max(float(np.abs(node.bias).max()), 1e-6) / 2**15
    scale = np.where(dead, of_bias if dead.all() else scale[~dead].max() / 2**12, scale)
    return LayerWeights(
        integers=kernel_from_matrix(node, integers).astype(np.int8),
        scale=_float32(scale),
        bias=node.bias.astype(np.float64),
        offset=np.zeros(len(scale)),
    )


def hold_bias(node: Node, weights: LayerWeights, input_plan: TensorPlan | None) -> LayerWeights:
    """Widen the scale of channels whose bias the accumulator cannot hold, and round again.

        s_w >= |b| / (s_input 2^30)

    The weights of such a channel are next to nothing beside its bias: a BatchNormalization that
    has all but switched the channel off. The other half of the accumulator is for the products.

    Args:
        node: the layer.
        weights: its quantized weights.
        input_plan: of the tensor that it reads.

    Returns:
        The weights, with another scale only where the bias asks for it.
    """
    if input_plan is None or input_plan.per_channel:
        return weights
    scale = np.maximum(weights.scale, _float32(np.abs(weights.bias) / input_plan.scale / 2**30))
    ratio = along_outputs(node, weights.scale / scale)
    return replace(weights, integers=np.rint(weights.integers * ratio).astype(np.int8), scale=scale)


def correct_bias(
    node: Node,
    weights: LayerWeights,
    bits: NDArray[np.int64],
    config: QuantizationConfig,
    input_mean: NDArray[np.float64],
) -> LayerWeights:
    """Correct the mean and the deviation of each output channel's weights.

        variance: scale_c <- xi_c scale_c,  xi_c = ||W_c - E W_c|| / ||Wq_c - E Wq_c||
        mean, "bias":      b_c <- b_c + sum over the inputs of (W - Wq) E[x]
        mean, "roundings": the cheapest roundings move until |E W_c - E Wq_c| is below half a step
        mean, "weights":   Wq_c <- Wq_c + (E W_c - E Wq_c), the paper's own form, off the grid

    Args:
        node: the layer, with its float weights.
        weights: its quantized weights.
        bits: int64 [c_out].
        config: says which of these.
        input_mean: float64 [c_in], expected input.

    Returns:
        The corrected weights.

    Source: arXiv 1810.05723, section 5.
    """
    float_weight = kernel_matrix(node).astype(np.float64)
    if config.mean_correction == "roundings":
        integers = kernel_matrix(node, weights.integers).astype(np.int32)
        moved = move_roundings(float_weight, integers, weights.scale, weight_grid(bits))
        moved = np.where(bits >= LEAST_GRID_BITS, moved, integers)
        weights = replace(weights, integers=kernel_from_matrix(node, moved).astype(np.int8))
    if config.variance_correction and config.weight_granularity == "per_channel":
        ratio = norm_ratio(float_weight, kernel_matrix(node, weights.dequantized(node)))
        weights = replace(weights, scale=_float32(weights.scale * ratio))
    quantized = kernel_matrix(node, weights.dequantized(node)).astype(np.float64)
    if config.mean_correction == "bias":
        shift = output_shift(node, float_weight - quantized, input_mean)
        return replace(weights, bias=weights.bias + shift)
    if config.mean_correction == "weights":
        return replace(weights, offset=mean_shift(float_weight, quantized))
    return weights


def output_shift(
    node: Node, difference: NDArray[np.float64], input_mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """By how much a difference of the weights moves the mean of each output channel.

    Args:
        node: the layer.
        difference: float64 [n, c_out], in the layout of `kernel_matrix`.
        input_mean: float64 [c_in], expected input.

    Returns:
        float64 [c_out].
    """
    return bias_from_input_mean(difference, _mean_per_weight(node, input_mean))


def _mean_per_weight(node: Node, input_mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The expected input of every weight, [n, c_out] in the layout of `kernel_matrix`."""
    kernel = node.kernel
    if node.kind in ("dense", "depthwise_conv2d"):
        spread = np.broadcast_to(input_mean[:, None], kernel.shape)
    elif node.kind == "conv2d_transpose":
        spread = np.broadcast_to(input_mean, kernel.shape)
    else:
        groups = group_count(node)
        by_group = np.repeat(input_mean.reshape(groups, -1).T, kernel.shape[3] // groups, axis=1)
        spread = np.broadcast_to(by_group, kernel.shape)
    return kernel_matrix(node, spread)


def _float32(values: NDArray) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float32).astype(np.float64)
