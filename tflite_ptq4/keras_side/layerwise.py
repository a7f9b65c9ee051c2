"""Quantizing layer by layer over the calibration images: float and quantized network side by side.

Each operator runs once in both networks, in order, so that every layer is corrected for the error
that the layers before it have left. The steps of one layer, each a switch of the config:

    1. refit     the float weights solved anew, to give the float output from the quantized input
    2. scale     of each output channel
    3. rounding  second-order, or nearest with the paper's bias correction
    4. matching  each output channel's mean and deviation to the float network's
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.graph import Node, last_uses
from tflite_ptq4.keras_side.execution import activate, linear, run_node
from tflite_ptq4.keras_side.fake_quantization import fake_quantize, rounds_after
from tflite_ptq4.keras_side.input_moments import InputMoments, input_moments
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.kernel_layout import (
    group_count,
    kernel_from_groups,
    kernel_groups,
    kernel_matrix,
)
from tflite_ptq4.numerics.output_matching import match_channels
from tflite_ptq4.numerics.ridge_refit import ridge_refit
from tflite_ptq4.numerics.second_order_rounding import second_order_rounding
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.quantized_weights import (
    LEAST_GRID_BITS,
    LayerWeights,
    correct_bias,
    layer_weights,
    round_to_nearest,
    second_order_refusal,
    weight_scale,
)

RIDGE = 0.5  # of the mean diagonal of the second moment
MATCHING_LIMIT = 2.0  # a channel's scale changes by no more than this factor


def quantize_layer_by_layer(
    lowered: LoweredModel,
    plan: QuantizationPlan,
    images: NDArray[np.float32],
    *,
    progress: Callable | None = None,
) -> tuple[dict[str, LayerWeights], dict[str, float]]:
    """Quantize every planned layer against the float network's output on the images.

    Args:
        lowered: the model.
        plan: made for it.
        images: float32 [n, ...], prepared as the model expects them.
        progress: wraps the list of operators and shows how far it is; None shows nothing.

    Returns:
        The weights of each quantized layer, and the SQNR of each operator's output in dB, every
        error before it included, by name.
    """
    graph = lowered.graph
    exact = {graph.inputs[0]: tf.constant(images, tf.float32)}
    coded = {name: _rounded(value, name, plan, "half_even") for name, value in exact.items()}
    released = last_uses(graph.nodes, ())
    weights: dict[str, LayerWeights] = {}
    sqnr: dict[str, float] = {}
    for node in progress(graph.nodes) if progress else graph.nodes:
        run = lowered.runs.get(node.name)
        exact_inputs = [exact[name] for name in node.inputs]
        coded_inputs = [coded[name] for name in node.inputs]
        if node.rule.weighted and plan.layer(node.name).quantized:
            exact_linear = linear(node, exact_inputs[0], node.kernel, node.bias)
            weights[node.name], coded_linear = _quantize_layer(
                node, plan, exact_inputs[0], coded_inputs[0], exact_linear
            )
            exact_outputs = [activate(node, exact_linear)]
            coded_outputs = [activate(node, coded_linear)]
        else:
            exact_outputs = run_node(node, run, exact_inputs)
            coded_outputs = run_node(node, run, coded_inputs)
        for name, value, approximate in zip(
            node.outputs, exact_outputs, coded_outputs, strict=True
        ):
            exact[name] = value
            coded[name] = _rounded(approximate, name, plan, rounds_after(node))
        sqnr[node.name] = _sqnr_db(exact[node.output], coded[node.output])
        for name in released.get(node.name, ()):
            exact.pop(name, None)
            coded.pop(name, None)
    return weights, sqnr


def _rounded(value, name: str, plan: QuantizationPlan, rounding: str | None):
    if rounding is None or name not in plan.tensors:
        return value
    return fake_quantize(value, plan.tensors[name], rounding)


def _sqnr_db(exact: tf.Tensor, coded: tf.Tensor) -> float:
    """10 log10(E[y^2] / E[(y - y_q)^2]), +inf where there is no error."""
    signal = float(tf.reduce_mean(tf.square(exact)))
    noise = float(tf.reduce_mean(tf.math.squared_difference(exact, coded)))
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(signal / noise)) if signal else float("-inf")


def _quantize_layer(
    node: Node,
    plan: QuantizationPlan,
    exact_input: tf.Tensor,
    coded_input: tf.Tensor,
    exact_output: tf.Tensor,
) -> tuple[LayerWeights, tf.Tensor]:
    """One layer's weights, and the output of its linear part with them."""
    config = plan.config
    bits = plan.layer(node.name).weight_bits
    weight = kernel_matrix(node).astype(np.float64)
    moments = None
    if second_order_refusal(node) is None and (
        config.refit_weights or config.weight_rounding == "second_order"
    ):
        moments = input_moments(node, exact_input, coded_input)
    if config.refit_weights and moments is not None:
        refitted = ridge_refit(
            kernel_groups(node).astype(np.float64), moments.coded, moments.cross, RIDGE
        )
        weight = kernel_matrix(node, kernel_from_groups(node, refitted))
    scale = weight_scale(weight, bits, config)
    integers = _round(node, weight, scale, bits, config, moments)
    weights = layer_weights(node, weight, integers, scale)
    if config.bias_correction:
        mean = tf.reduce_mean(coded_input, list(range(coded_input.shape.rank - 1)))
        weights = correct_bias(node, weights, bits, config, mean.numpy().astype(np.float64))
    if config.output_matching:
        weights = _match_output(node, weights, config, coded_input, exact_output)
    planned_input = plan.tensors.get(node.inputs[0])
    bias = weights.stored_bias(planned_input)
    return weights, linear(node, coded_input, weights.dequantized(node), bias)


def _round(
    node: Node,
    weight: NDArray[np.float64],
    scale: NDArray[np.float64],
    bits: NDArray[np.int64],
    config: QuantizationConfig,
    moments: InputMoments | None,
) -> NDArray[np.int32]:
    nearest = round_to_nearest(weight, scale, bits)
    if config.weight_rounding == "nearest" or moments is None:
        return nearest
    groups = group_count(node)
    rounded = second_order_rounding(
        kernel_groups(node, weight.reshape(node.kernel.shape)),
        moments.coded,
        scale.reshape(groups, -1),
        np.maximum(bits, LEAST_GRID_BITS).reshape(groups, -1),
    )
    rounded = kernel_matrix(node, kernel_from_groups(node, rounded))
    return np.where(bits >= LEAST_GRID_BITS, rounded, nearest)


def _match_output(
    node: Node,
    weights: LayerWeights,
    config: QuantizationConfig,
    coded_input: tf.Tensor,
    exact_output: tf.Tensor,
) -> LayerWeights:
    """Fold into scale and bias what gives each channel the float network's mean and deviation."""
    output = linear(node, coded_input, weights.dequantized(node), weights.bias.astype(np.float32))
    float_mean, float_std = _mean_and_std(exact_output)
    mean, std = _mean_and_std(output)
    limit = MATCHING_LIMIT if config.weight_granularity == "per_channel" else 1.0
    factor, shift = match_channels(float_mean, float_std, mean, std, limit=limit)
    scale = (weights.scale * factor).astype(np.float32).astype(np.float64)
    return replace(
        weights,
        scale=scale,
        bias=weights.bias * factor + shift,
        offset=weights.offset * factor,
    )


def _mean_and_std(values: tf.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, variance = tf.nn.moments(values, list(range(values.shape.rank - 1)))
    return mean.numpy().astype(np.float64), np.sqrt(variance.numpy().astype(np.float64))
