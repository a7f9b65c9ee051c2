"""The paper's corrections of one layer's quantized weights: their mean and their deviation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.graph import Node
from tflite_ptq4.numerics.bias_correction import (
    bias_from_input_mean,
    mean_shift,
    move_roundings,
    norm_ratio,
)
from tflite_ptq4.weights.kernel_layout import group_count, kernel_from_matrix, kernel_matrix
from tflite_ptq4.weights.layer_weights import LEAST_GRID_BITS, LayerWeights, as_float32, weight_grid


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
        weights = replace(weights, scale=as_float32(weights.scale * ratio))
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
