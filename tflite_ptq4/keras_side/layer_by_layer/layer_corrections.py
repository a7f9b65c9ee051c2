"""Quantizing one layer against the float network's output, step by step.

The steps in their order, each a switch of the config:

    1. refit       the float weights solved anew, to give the float output from the quantized input
    2. scale       of each output channel
    3. rounding    second-order, or nearest
    4. correction  the paper's, of the mean and the deviation of the weights
    5. matching    each output channel's mean and deviation to the float network's
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.execution import linear
from tflite_ptq4.keras_side.image_batches import Batches
from tflite_ptq4.keras_side.layer_by_layer.channel_moments import ChannelMoments, channel_moments
from tflite_ptq4.keras_side.layer_by_layer.input_moments import InputMoments, input_moments
from tflite_ptq4.numerics.held_out_damping import held_out_damping
from tflite_ptq4.numerics.output_matching import match_channels
from tflite_ptq4.numerics.ridge_refit import held_out_ridge, ridge_refit
from tflite_ptq4.numerics.second_order_rounding import output_error, second_order_rounding
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.weights.kernel_layout import (
    along_outputs,
    group_count,
    kernel_from_groups,
    kernel_from_matrix,
    kernel_groups,
    kernel_matrix,
)
from tflite_ptq4.weights.layer_weights import (
    LEAST_GRID_BITS,
    LayerWeights,
    as_float32,
    hold_bias,
    layer_weights,
)
from tflite_ptq4.weights.quantized_weights import (
    round_to_nearest,
    second_order_refusal,
    weight_scale,
)
from tflite_ptq4.weights.weight_correction import correct_bias


@dataclass(frozen=True)
class Spending:
    """What an effort of the config spends on one layer.

    Attributes:
        rows: input patches that its second moment is taken from, at most.
        depthwise_rows: the same for a depthwise layer, each channel of which has few weights.
        holds_out: whether images are held out to choose the ridge of the refit and the damping of
            the rounding.
    """

    rows: int
    depthwise_rows: int
    holds_out: bool


SPENDING = {
    "fast": Spending(rows=4_096, depthwise_rows=1_024, holds_out=False),
    "balanced": Spending(rows=16_384, depthwise_rows=4_096, holds_out=True),
    "best": Spending(rows=262_144, depthwise_rows=32_768, holds_out=True),
}
# Of the mean diagonal of the second moment, where no images are held out.
RIDGE = 1.0
DAMPING = 0.1
MOST_HELD_OUT_INPUTS = 2_304  # beyond, ten more solutions would cost more than all other steps
MATCHING_LIMIT = 2.0  # a channel's scale changes by no more than this factor


def quantize_on_images(
    node: Node,
    plan: QuantizationPlan,
    exact: Batches,
    coded: Batches,
    *,
    keeps_unrounded: bool = False,
    share: Callable[..., Iterable] = map,
) -> LayerWeights:
    """Quantize one layer.

    Args:
        node: a layer with weights that the plan quantizes.
        plan: made for its network.
        exact: batches float32 [images, ...] of its input in the float network.
        coded: the same batches of its input in the quantized network.
        keeps_unrounded: whether the result holds what its integers were rounded from.
        share: calls a function for each of many pieces, and gives the results in their order.

    Returns:
        Its weights, as a file holds them.
    """
    config = plan.config
    bits = plan.layer(node.name).weight_bits
    moments = _moments(node, config, exact, coded, share)
    weight = _refitted(node, config, moments)
    moments = moments and moments.without_cross()
    scale = weight_scale(weight, bits, config)
    integers = _rounded(node, config, weight, scale, bits, moments)
    weights = layer_weights(node, weight, integers, scale)
    if not keeps_unrounded:
        weights = replace(weights, unrounded=None)
    elif config.refit_weights:
        weights = replace(weights, unrounded=kernel_from_matrix(node, weight).astype(np.float32))
    if config.bias_correction:
        weights = correct_bias(node, weights, bits, config, channel_moments(coded).mean)
    if config.output_matching:
        outputs = _outputs(node, weights, exact, coded, moments)
        weights = _matched(node, config, weights, *outputs)
    return hold_bias(node, weights, plan.tensors.get(node.inputs[0]))


def _moments(
    node: Node,
    config: QuantizationConfig,
    exact: Batches,
    coded: Batches,
    share: Callable[..., Iterable],
) -> InputMoments | None:
    """Second moments of what the weights are multiplied with, where a step needs them."""
    needed = config.refit_weights or config.weight_rounding == "second_order"
    if not needed or second_order_refusal(node) is not None:
        return None
    spending = SPENDING[config.effort]
    depthwise = node.kind == "depthwise_conv2d"
    rows = spending.depthwise_rows if depthwise else spending.rows
    return input_moments(node, exact, coded, rows, share=share)


def _refitted(
    node: Node, config: QuantizationConfig, moments: InputMoments | None
) -> NDArray[np.float64]:
    if not config.refit_weights or moments is None:
        return kernel_matrix(node).astype(np.float64)
    kernel = kernel_groups(node).astype(np.float64)
    holds_out = _holds_out(kernel, config, moments)
    ridge = held_out_ridge(kernel, moments.parts) if holds_out else RIDGE
    refitted = ridge_refit(kernel, moments.coded, moments.cross, ridge)
    return kernel_matrix(node, kernel_from_groups(node, refitted))


def _rounded(
    node: Node,
    config: QuantizationConfig,
    weight: NDArray[np.float64],
    scale: NDArray[np.float64],
    bits: NDArray[np.int64],
    moments: InputMoments | None,
) -> NDArray[np.int32]:
    nearest = round_to_nearest(weight, scale, bits)
    if config.weight_rounding == "nearest" or moments is None:
        return nearest
    groups = group_count(node)
    kernel = kernel_groups(node, weight.reshape(node.kernel.shape))
    grid = (
        scale.reshape(groups, -1),
        np.maximum(bits, LEAST_GRID_BITS).reshape(groups, -1),
    )
    damping = DAMPING
    if _holds_out(kernel, config, moments):
        damping = held_out_damping(kernel, [coded for coded, _ in moments.parts], *grid)
    rounded = second_order_rounding(kernel, moments.coded, *grid, damping)
    rounded = kernel_matrix(node, kernel_from_groups(node, rounded))
    return np.where(bits >= LEAST_GRID_BITS, rounded, nearest)


def _holds_out(
    kernel: NDArray[np.float64], config: QuantizationConfig, moments: InputMoments
) -> bool:
    """Whether images are held out to choose how far the moments of one layer are to be trusted."""
    few_enough = kernel.shape[1] <= MOST_HELD_OUT_INPUTS
    return SPENDING[config.effort].holds_out and bool(moments.parts) and few_enough


def _outputs(
    node: Node,
    weights: LayerWeights,
    exact: Batches,
    coded: Batches,
    moments: InputMoments | None,
) -> tuple[ChannelMoments, ChannelMoments]:
    """Mean and deviation of each output channel in the float and in the quantized network.

    Both are of the same sample of patches, whose noise they share, where second moments are known;
    otherwise both layers are run on all images.
    """
    kernel, bias = weights.dequantized(node), weights.bias
    if moments is not None:
        blocks = kernel_groups(node, kernel).astype(np.float64)
        variance = output_error(blocks, moments.coded)
        mean = np.einsum("gn,gnc->gc", moments.coded_mean, blocks)
        return (
            ChannelMoments(
                moments.output_mean.ravel() + node.bias, moments.output_variance.ravel()
            ),
            ChannelMoments(mean.ravel() + bias, np.maximum(variance, 0.0).ravel()),
        )
    return (
        channel_moments(linear(node, batch, node.kernel, node.bias) for batch in exact),
        channel_moments(linear(node, batch, kernel, bias.astype(np.float32)) for batch in coded),
    )


def _matched(
    node: Node,
    config: QuantizationConfig,
    weights: LayerWeights,
    wanted: ChannelMoments,
    found: ChannelMoments,
) -> LayerWeights:
    """Fold into scale and bias what gives each channel the float network's mean and deviation."""
    limit = MATCHING_LIMIT if config.weight_granularity == "per_channel" else 1.0
    factor, shift = match_channels(wanted.mean, wanted.std, found.mean, found.std, limit=limit)
    scale = as_float32(weights.scale * factor)
    unrounded = weights.unrounded
    if unrounded is not None:
        unrounded = (unrounded * along_outputs(node, factor)).astype(np.float32)
    return replace(
        weights,
        scale=scale,
        bias=weights.bias * factor + shift,
        offset=weights.offset * factor,
        unrounded=unrounded,
    )
