"""The simulated model: a Keras model that computes what the exported file computes."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.fake_quantization import FakeQuantize, rounds_after
from tflite_ptq4.keras_side.integer_operators import integer_layer
from tflite_ptq4.keras_side.layer_of_node import keras_layer, kernel_of_layer
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.keras_side.mixed_precision import float32_policy
from tflite_ptq4.keras_side.unique_names import UniqueNames
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.weights.layer_weights import LayerWeights


@float32_policy()
def simulate(
    lowered: LoweredModel, plan: QuantizationPlan, weights: Mapping[str, LayerWeights]
) -> keras.Model:
    """Build a Keras model in which every planned tensor takes its planned levels.

    Where the plan fits an integer target, its layers compute on the integers as XNNPACK does, and
    the model gives what `int8_container` gives. Elsewhere standard layers compute on the quantized
    weights, each followed by the rounding of its output.

    Args:
        lowered: the float model.
        plan: bits and scale of every tensor.
        weights: the quantized weights of every quantized layer.

    Returns:
        A functional model that takes and gives the structures of the float model. It can be
        saved and loaded like any Keras model, as far as the layers left in float can.
    """
    graph, names = lowered.graph, UniqueNames(".", second=2)
    inputs = {
        name: keras.Input(batch_shape=shape, name=names(name))
        for name, shape in zip(lowered.trace.inputs, lowered.trace.input_shapes, strict=True)
    }
    values = {
        name: _rounded(value, name, plan, "half_even", names) for name, value in inputs.items()
    }
    on_integers = not plan.config.needs_float_target
    for node in graph.nodes:
        arguments = [values[name] for name in node.inputs]
        exact = None
        if on_integers and plan.layer(node.name).quantized:
            exact = integer_layer(lowered, node, plan, weights, names)
        if exact is not None:
            values[node.output] = exact(arguments[0] if len(arguments) == 1 else arguments)
            continue
        outputs = _in_float(lowered, node, arguments, plan, weights, names)
        rounding = rounds_after(node, quantized=plan.layer(node.name).quantized)
        for name, value in zip(node.outputs, outputs, strict=True):
            values[name] = _rounded(value, name, plan, rounding, names)
    outputs = lowered.trace.pack([values[name] for name in graph.outputs])
    given = keras.tree.map_structure(inputs.get, lowered.trace.input_structure)
    return keras.Model(given, outputs, name="simulated")


def _rounded(value, name: str, plan: QuantizationPlan, rounding: str | None, names: UniqueNames):
    if rounding is None or name not in plan.tensors:
        return value
    layer_name = names(f"{name}/quantized")
    return FakeQuantize.of(plan.tensors[name], rounding=rounding, name=layer_name)(value)


def _in_float(
    lowered: LoweredModel,
    node: Node,
    arguments: list,
    plan: QuantizationPlan,
    weights: Mapping[str, LayerWeights],
    names: UniqueNames,
) -> list:
    """The outputs of an operator in float arithmetic, on quantized weights where there are some."""
    layer_name = names(node.name)
    if node.rule.weighted:
        outputs = [_weighted(node, layer_name, arguments[0], plan, weights.get(node.name))]
    else:
        outputs = lowered.symbolic_runs[node.name](layer_name)(arguments)
    if node.activation is not None:
        maximum = 6.0 if node.activation == "relu6" else None
        relu = keras.layers.ReLU(maximum, name=names(f"{node.name}/{node.activation}"))
        outputs = [relu(outputs[0]), *outputs[1:]]
    return outputs


def _weighted(node: Node, name: str, value, plan: QuantizationPlan, weights: LayerWeights | None):
    if weights is None:
        kernel, bias = node.kernel, node.bias
    else:
        kernel = weights.dequantized(node)
        bias = weights.stored_bias(plan.tensors.get(node.inputs[0]))
    layer = keras_layer(node, name)
    output = layer(value)
    layer.set_weights([kernel_of_layer(node, kernel), np.asarray(bias, dtype=np.float32)])
    return output
