"""Quantizers of TFMOT that round to the levels of a plan: ranges are given, none is learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_model_optimization.quantization.keras import quantizers

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.fake_quantization import fake_quantize
from tflite_ptq4.plan import TensorPlan, record_fields
from tflite_ptq4.weights.kernel_layout import along_outputs, kernel_matrix
from tflite_ptq4.weights.layer_weights import LEAST_GRID_BITS, LayerWeights, weight_grid


class _FixedQuantizer(quantizers.Quantizer):
    """A quantizer without variables: all that it needs is in its config."""

    def build(self, tensor_shape, name: str, layer) -> dict:
        """Nothing to build."""
        return {}


class Ptq4WeightQuantizer(_FixedQuantizer):
    """Holds a kernel to its integer grid, which gradients pass unchanged while inside it.

        w = scale * clip(round((w - offset) / scale), lower, upper) + offset

    Args:
        scale: per output channel, in a shape that broadcasts against the kernel, as nested lists.
        lower: the smallest integer of each channel, in the same shape.
        upper: the largest.
        offset: what is added to every weight of a channel.
        bias: of each output channel, exactly, as the kernel's layer was quantized with it.
    """

    def __init__(self, scale: list, lower: list, upper: list, offset: list, bias: list) -> None:
        self.scale, self.offset = (np.asarray(values, np.float64) for values in (scale, offset))
        self.lower, self.upper = (np.asarray(values, np.int64) for values in (lower, upper))
        self.bias = np.asarray(bias, np.float64)

    @classmethod
    def of(cls, node: Node, weights: LayerWeights, bits: np.ndarray) -> Ptq4WeightQuantizer:
        """The quantizer of a layer's kernel, on which the layer's integers stay what they are.

        Args:
            node: the layer.
            weights: its quantized weights.
            bits: int64 [c_out]; a channel of fewer than two bits is constant.
        """
        grid = weight_grid(bits)
        constant = kernel_matrix(node, weights.integers)[0]
        coded = bits >= LEAST_GRID_BITS
        lower = np.where(coded, grid.qmin, constant)
        upper = np.where(coded, grid.qmax, constant)

        def listed(values: np.ndarray) -> list:
            return along_outputs(node, values).tolist()

        return cls(
            listed(weights.scale),
            listed(lower),
            listed(upper),
            listed(weights.offset),
            weights.bias.tolist(),
        )

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        """Round a kernel."""
        lower, upper = (tf.constant(limit, tf.float32) for limit in (self.lower, self.upper))
        scale, offset = (tf.constant(value, tf.float32) for value in (self.scale, self.offset))
        kernel = tf.stop_gradient(inputs)
        steps = tf.round((kernel - offset) / scale)
        rounded = tf.clip_by_value(steps, lower, upper) * scale + offset
        return _straight_through(inputs, rounded, (steps >= lower) & (steps <= upper))

    def integers(self, kernel: np.ndarray) -> np.ndarray:
        """The integers of a kernel in the layout of `graph.Node`, int8."""
        steps = np.rint((kernel.astype(np.float64) - self.offset) / self.scale)
        return np.clip(steps, self.lower, self.upper).astype(np.int8)

    def get_config(self) -> dict[str, Any]:
        """What the quantizer was made with."""
        return {name: values.tolist() for name, values in vars(self).items()}


class Ptq4ActivationQuantizer(_FixedQuantizer):
    """Holds an activation to the levels of its plan, which gradients pass while inside the clip.

        y = scale * clip(round(x / scale), lower, upper)

    It also carries what the plan says of the operator that writes the activation, so that a model
    that was saved and loaded can be written as a file.

    Args:
        tensor: a `TensorPlan` as plain values, of one scale.
        rounding: "half_even" or "half_away"; None where the operator gives levels of its own.
        operator: the operator's `LayerPlan` as plain values; None where it stays in float, and for
            an input of the model.
        layer: the name of the first layer of the operator.
        recipe: the config, as plain values.
    """

    def __init__(
        self,
        tensor: dict[str, Any],
        rounding: str | None,
        operator: dict[str, Any] | None,
        layer: str,
        recipe: dict[str, Any],
    ) -> None:
        self.tensor, self.rounding = tensor, rounding
        self.operator, self.layer, self.recipe = operator, layer, recipe

    @property
    def plan(self) -> TensorPlan:
        """The plan of the activation."""
        return TensorPlan(**record_fields(self.tensor))

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        """Round an activation."""
        if self.rounding is None:
            return inputs
        plan = self.plan
        values = tf.stop_gradient(inputs)
        rounded = fake_quantize(values, plan, self.rounding)
        low, high = (tf.constant(end, tf.float32) for end in (plan.low[0], plan.high[0]))
        return _straight_through(inputs, rounded, (values >= low) & (values <= high))

    def get_config(self) -> dict[str, Any]:
        """What the quantizer was made with."""
        return dict(vars(self))


def _straight_through(values, rounded, passes):
    """`rounded`, with the gradient of `values` where `passes` is true."""

    @tf.custom_gradient
    def through(values):
        return tf.identity(rounded), lambda upstream: tf.where(passes, upstream, 0.0)

    return through(values)
