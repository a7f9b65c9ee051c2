"""The integer layer of each kind of operator, where there is one that is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.integer_layers import (
    IntegerInterpolation,
    IntegerJoin,
    IntegerLinear,
    IntegerMean,
    IntegerRange,
    IntegerRescale,
    IntegerTable,
)
from tflite_ptq4.keras_side.layer_of_node import keras_layer, kernel_of_layer
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.numerics.hard_swish import hard_swish_codes
from tflite_ptq4.numerics.leaky_relu import leaky_relu_codes
from tflite_ptq4.numerics.prelu import prelu_codes
from tflite_ptq4.numerics.ranges import number_on_grid
from tflite_ptq4.numerics.rsqrt import rsqrt_codes
from tflite_ptq4.operator_rules import LEAST_SCALE_OF_TERM
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.weights.layer_weights import LayerWeights

Names = Callable[[str], str]

# Functions of one value whose kernels do not give the nearest level.
_TABULATED = ("hard_swish", "leaky_relu", "prelu", "rsqrt")


def integer_layer(
    lowered: LoweredModel,
    node: Node,
    plan: QuantizationPlan,
    weights: Mapping[str, LayerWeights],
    unique_name: Names,
) -> Callable | None:
    """What computes an operator on integers, exactly as XNNPACK does.

    Args:
        lowered: the model.
        node: a quantized operator.
        plan: bits and scale of every tensor.
        weights: of the quantized layers.
        unique_name: makes a layer name that is not taken yet.

    Returns:
        A function from symbolic inputs to the symbolic output, or None where rounding the output of
        the float operator is exact: it only moves values, or is a function, a sigmoid say, whose
        input has a scale without ties.
    """
    inputs = [IntegerRange.of(plan.tensors[name]).to_config() for name in node.inputs]
    output = IntegerRange.of(plan.tensors[node.output], node.activation).to_config()
    if node.rule.weighted:
        return _linear(node, plan, weights[node.name], inputs, output, unique_name)
    if node.kind in ("add", "subtract", "multiply") and len(inputs) == 2:
        return IntegerJoin(inputs, output, node.kind, name=unique_name(node.name))
    if node.kind in ("add", "multiply") and "constant" in node.attributes:
        least = LEAST_SCALE_OF_TERM * output[0] if node.kind == "add" else 0.0
        number, scale = number_on_grid(float(node.attributes["constant"]), least)
        entry = [scale, -1, 1]
        return IntegerJoin([*inputs, entry], output, node.kind, number, name=unique_name(node.name))
    if node.kind in ("relu", "relu6"):
        cut = IntegerRange.of(plan.tensors[node.output], node.kind).to_config()
        return IntegerRescale(inputs, cut, name=unique_name(node.name))
    if node.kind in _TABULATED:
        table = _table(node, IntegerRange(*inputs[0]), IntegerRange(*output))
        return IntegerTable(inputs, output, table, name=unique_name(node.name))
    if node.kind == "mean" and node.layer_type.startswith("GlobalAveragePooling"):
        keepdims = len(lowered.graph.shapes[node.output]) > 2
        axes = range(1, len(lowered.graph.shapes[node.inputs[0]]) - 1)
        return IntegerMean(inputs, output, list(axes), keepdims, name=unique_name(node.name))
    if node.kind == "mean" and "axes" in node.attributes:
        axes = list(node.attributes["axes"])
        return IntegerMean(inputs, output, axes, keepdims=True, name=unique_name(node.name))
    if node.rule.rescales_inputs:
        return _on_one_scale(node, inputs, output, unique_name)
    if node.kind == "average_pool":
        inner = _pooling(lowered, node, unique_name(f"{node.name}/inner"))
        return IntegerInterpolation(inner, inputs, output, name=unique_name(node.name))
    return None


def _table(node: Node, entry: IntegerRange, output: IntegerRange) -> list:
    """What each integer of the input becomes; of a PReLU in each channel."""
    codes = np.arange(entry.lower, entry.upper + 1)
    if node.kind == "hard_swish":
        return hard_swish_codes(codes, entry.scale, output.scale).tolist()
    if node.kind == "rsqrt":
        return rsqrt_codes(codes, entry.scale, output.scale).tolist()
    if node.kind == "prelu":
        return prelu_codes(codes, node.attributes["slopes"], entry.scale, output.scale).tolist()
    slope = node.attributes["slope"]
    return leaky_relu_codes(codes, slope, entry.scale, output.scale).tolist()


def _linear(
    node: Node,
    plan: QuantizationPlan,
    weights: LayerWeights,
    inputs: list,
    output: list,
    unique_name: Names,
) -> Callable:
    inner = keras_layer(node, unique_name(f"{node.name}/integers"), use_bias=False)
    layer = IntegerLinear(
        inner, inputs, output, weights.scale.tolist(), name=unique_name(node.name)
    )

    def apply(value):
        result = layer(value)
        layer.inner.set_weights([kernel_of_layer(node, weights.integers.astype(np.float32))])
        layer.bias.assign(weights.bias_integers(plan.tensors[node.inputs[0]]))
        return result

    return apply


def _on_one_scale(node: Node, inputs: list, output: list, unique_name: Names) -> Callable:
    """Values on one scale are joined, or compared, as the integers are."""
    name = unique_name(node.name)
    if node.kind == "concatenate":
        joined = keras.layers.Concatenate(node.attributes["axis"], name=name)
    else:
        extremum = {"maximum": keras.layers.Maximum, "minimum": keras.layers.Minimum}[node.kind]
        joined = extremum(name=name)

    def apply(values):
        moved = [
            value
            if entry == output
            else IntegerRescale([entry], output, name=unique_name(f"{node.name}/rescaled"))(value)
            for entry, value in zip(inputs, values, strict=True)
        ]
        return joined(moved)

    return apply


def _pooling(lowered: LoweredModel, node: Node, name: str) -> keras.layers.Layer:
    call = next(call for call in lowered.trace.calls if call.name == node.name)
    return type(call.operation).from_config({**call.operation.get_config(), "name": name})
