"""Quantizing layer by layer over the calibration images: float and quantized network side by side.

Each operator runs once in both networks, in order, so that every layer is corrected for the error
that the layers before it have left. The steps of one layer, each a switch of the config:

    1. refit     the float weights solved anew, to give the float output from the quantized input
    2. scale     of each output channel
    3. rounding  second-order, or nearest with the paper's bias correction
    4. matching  each output channel's mean and deviation to the float network's
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, prod

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.graph import Node, last_uses
from tflite_ptq4.keras_side.execution import activate, linear, run_node
from tflite_ptq4.keras_side.fake_quantization import fake_quantize, rounds_after
from tflite_ptq4.keras_side.image_batches import (
    LARGE_TENSOR,
    DerivedBatches,
    ImageBatches,
    batch_size,
)
from tflite_ptq4.keras_side.input_moments import ChannelMoments, InputMoments, input_moments
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.kernel_layout import (
    group_count,
    kernel_from_groups,
    kernel_groups,
    kernel_matrix,
)
from tflite_ptq4.numerics.output_matching import match_channels
from tflite_ptq4.numerics.ridge_refit import held_out_ridge, ridge_refit
from tflite_ptq4.numerics.second_order_rounding import second_order_rounding
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.quantized_weights import (
    LEAST_GRID_BITS,
    LayerWeights,
    correct_bias,
    hold_bias,
    layer_weights,
    round_to_nearest,
    second_order_refusal,
    weight_scale,
)


@dataclass(frozen=True)
class Effort:
    """What is spent on one layer.

    Attributes:
        rows: input patches that its second moment is taken from, at most.
        depthwise_rows: the same for a depthwise layer, each channel of which has few weights.
        holds_out: whether images are held out to choose the ridge of the refit.
    """

    rows: int
    depthwise_rows: int
    holds_out: bool


EFFORTS = {
    "fast": Effort(rows=8_192, depthwise_rows=2_048, holds_out=False),
    "balanced": Effort(rows=32_768, depthwise_rows=4_096, holds_out=True),
    "best": Effort(rows=262_144, depthwise_rows=32_768, holds_out=True),
}
RIDGE = 1.0  # of the mean diagonal of the second moment, where no images can be held out
LEAST_BATCHES = 4  # so that every other batch can be held out
MATCHING_LIMIT = 2.0  # a channel's scale changes by no more than this factor

Batches = ImageBatches | DerivedBatches
Run = Callable[[int], list]  # from the position of a batch to an operator's outputs


def quantize_layer_by_layer(
    lowered: LoweredModel,
    plan: QuantizationPlan,
    images: Sequence[NDArray[np.float32]],
    *,
    progress: Callable | None = None,
) -> tuple[dict[str, LayerWeights], dict[str, float]]:
    """Quantize every planned layer against the float network's output on the images.

    Args:
        lowered: the model.
        plan: made for it.
        images: for each input of the model float32 [n, ...], prepared as the model expects them.
        progress: wraps the list of operators and shows how far it is; None shows nothing.

    Returns:
        The weights of each quantized layer, and the SQNR of each operator's output in dB, every
        error before it included, by name.
    """
    run = _SideBySide(lowered, plan, images)
    for node in progress(lowered.graph.nodes) if progress else lowered.graph.nodes:
        run.step(node)
    return run.weights, run.sqnr_db


class _SideBySide:
    """Both networks, as far as they have been run.

    Only tensors that are still read are kept, and of those not the large ones that are computed
    from much smaller ones, as between the first two layers of an inverted bottleneck.
    """

    def __init__(
        self, lowered: LoweredModel, plan: QuantizationPlan, images: Sequence[NDArray[np.float32]]
    ) -> None:
        self.lowered, self.plan = lowered, plan
        self.weights: dict[str, LayerWeights] = {}
        self.sqnr_db: dict[str, float] = {}
        graph = lowered.graph
        self._images = len(images[0])
        self._released = last_uses(graph.nodes, ())
        self._exact: dict[str, Batches] = {}
        self._coded: dict[str, Batches] = {}
        size = batch_size([*(array.shape for array in images), *graph.shapes.values()])
        size = min(size, ceil(self._images / LEAST_BATCHES))
        for name, array in zip(graph.inputs, images, strict=True):
            self._exact[name], self._coded[name] = self._new_pair(name)
            for start in range(0, self._images, size):
                value = tf.constant(array[start : start + size], tf.float32)
                self._exact[name].append(value)
                self._coded[name].append(self._rounded(value, name, "half_even"))

    def step(self, node: Node) -> None:
        """Run one operator in both networks, quantizing it first where it has weights."""
        exact = [self._exact[name] for name in node.inputs]
        coded = [self._coded[name] for name in node.inputs]
        in_float, in_integers = (partial(self._run, node, inputs) for inputs in (exact, coded))
        if node.rule.weighted and self.plan.layer(node.name).quantized:
            self._quantize(node, exact[0], coded[0])
            in_integers = self._with_weights(node, coded[0])
        rounded = partial(self._rounded_outputs, node, in_integers)
        if self._is_derived(node, [*exact, *coded]):
            count = len(exact[0])
            self._exact[node.output] = DerivedBatches(count, lambda place: in_float(place)[0])
            self._coded[node.output] = DerivedBatches(count, lambda place: rounded(place)[0])
        else:
            self._store(node, in_float, rounded, len(exact[0]))
        self.sqnr_db[node.name] = self._compared(node.output)
        for name in self._released.get(node.name, ()):
            self._exact.pop(name, None)
            self._coded.pop(name, None)

    def _is_derived(self, node: Node, inputs: list[Batches]) -> bool:
        """Whether an output is large, and nearer to inputs that are kept than worth keeping."""
        if len(node.outputs) > 1 or any(isinstance(batches, DerivedBatches) for batches in inputs):
            return False
        read, written = (
            sum(prod(size or 1 for size in self.lowered.graph.shapes[name][1:]) for name in names)
            for names in (node.inputs, node.outputs)
        )
        return written * self._images > LARGE_TENSOR and written > 2 * read

    def _store(self, node: Node, in_float: Run, rounded: Run, count: int) -> None:
        """Run an operator in both networks and keep its outputs."""
        for name in node.outputs:
            self._exact[name], self._coded[name] = self._new_pair(name)
        for position in range(count):
            for values, run in ((self._exact, in_float), (self._coded, rounded)):
                for name, value in zip(node.outputs, run(position), strict=True):
                    values[name].append(value)

    def _compared(self, name: str) -> float:
        """The SQNR of a tensor in dB."""
        signal = noise = 0.0
        for position in range(len(self._exact[name])):
            reference, value = self._exact[name][position], self._coded[name][position]
            signal += float(tf.reduce_sum(tf.square(reference)))
            noise += float(tf.reduce_sum(tf.math.squared_difference(reference, value)))
        return _decibels(signal, noise)

    def _quantize(self, node: Node, exact: Batches, coded: Batches) -> None:
        """Quantize one layer."""
        weights = _quantized_from(node, self.plan, exact, coded)
        config = self.plan.config
        kernel, bias = weights.dequantized(node), weights.bias.astype(np.float32)
        float_moments, moments = ChannelMoments(), ChannelMoments()
        if config.output_matching:
            for position in range(len(exact)):
                float_moments.add(linear(node, exact[position], node.kernel, node.bias))
                moments.add(linear(node, coded[position], kernel, bias))
            weights = _matched(weights, config, float_moments, moments)
        planned_input = self.plan.tensors.get(node.inputs[0])
        self.weights[node.name] = hold_bias(node, weights, planned_input)

    def _run(self, node: Node, inputs: list[Batches], position: int) -> list:
        run = self.lowered.runs.get(node.name)
        return run_node(node, run, [value[position] for value in inputs])

    def _with_weights(self, node: Node, coded: Batches) -> Run:
        weights = self.weights[node.name]
        kernel = weights.dequantized(node)
        bias = weights.stored_bias(self.plan.tensors.get(node.inputs[0]))
        return lambda position: [activate(node, linear(node, coded[position], kernel, bias))]

    def _rounded_outputs(self, node: Node, run: Run, position: int) -> list:
        return [
            self._rounded(value, name, rounds_after(node))
            for name, value in zip(node.outputs, run(position), strict=True)
        ]

    def _new_pair(self, name: str) -> tuple[ImageBatches, ImageBatches]:
        plan = self.plan.tensors.get(name)
        if plan is not None and plan.per_channel and plan.source != name:
            plan = None  # flattened, its values are on levels whose channels are no longer an axis
        return (
            ImageBatches(self._images, None, lossless=False),
            ImageBatches(self._images, plan, lossless=True),
        )

    def _rounded(self, value, name: str, rounding: str | None):
        if rounding is None or name not in self.plan.tensors:
            return value
        return fake_quantize(value, self.plan.tensors[name], rounding)


def _decibels(signal: float, noise: float) -> float:
    """10 log10(E[y^2] / E[(y - y_q)^2]), +inf where there is no error."""
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(signal / noise)) if signal else float("-inf")


def _quantized_from(
    node: Node, plan: QuantizationPlan, exact: Batches, coded: Batches
) -> LayerWeights:
    """One layer's weights before its output is matched."""
    config, effort = plan.config, EFFORTS[plan.config.effort]
    bits = plan.layer(node.name).weight_bits
    weight = kernel_matrix(node).astype(np.float64)
    moments = None
    if second_order_refusal(node) is None and (
        config.refit_weights or config.weight_rounding == "second_order"
    ):
        rows = effort.depthwise_rows if node.kind == "depthwise_conv2d" else effort.rows
        moments = input_moments(node, exact, coded, rows)
    if config.refit_weights and moments is not None:
        kernel = kernel_groups(node).astype(np.float64)
        ridge = RIDGE
        if effort.holds_out and moments.parts:
            ridge = held_out_ridge(kernel, moments.parts)
        refitted = ridge_refit(kernel, moments.coded, moments.cross, ridge)
        weight = kernel_matrix(node, kernel_from_groups(node, refitted))
    scale = weight_scale(weight, bits, config)
    integers = _round(node, weight, scale, bits, config, moments)
    weights = layer_weights(node, weight, integers, scale)
    if not config.bias_correction:
        return weights
    means = ChannelMoments()
    for position in range(len(coded)):
        means.add(coded[position])
    return correct_bias(node, weights, bits, config, means.mean)


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


def _matched(
    weights: LayerWeights,
    config: QuantizationConfig,
    float_moments: ChannelMoments,
    moments: ChannelMoments,
) -> LayerWeights:
    """Fold into scale and bias what gives each channel the float network's mean and deviation."""
    limit = MATCHING_LIMIT if config.weight_granularity == "per_channel" else 1.0
    factor, shift = match_channels(
        float_moments.mean, float_moments.std, moments.mean, moments.std, limit=limit
    )
    scale = (weights.scale * factor).astype(np.float32).astype(np.float64)
    return replace(
        weights,
        scale=scale,
        bias=weights.bias * factor + shift,
        offset=weights.offset * factor,
    )
