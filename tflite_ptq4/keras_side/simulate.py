"""The simulated model: a Keras model that computes in float what the exported file computes."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.fake_quantization import FakeQuantize, rounds_after
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.quantized_weights import LayerWeights


def simulate(
    lowered: LoweredModel, plan: QuantizationPlan, weights: Mapping[str, LayerWeights]
) -> keras.Model:
    """Build a Keras model of standard layers on the quantized weights, with every tensor rounded.

    Args:
        lowered: the float model.
        plan: bits and scale of every tensor.
        weights: the quantized weights of every quantized layer.

    Returns:
        A functional model with the inputs and the output structure of the float model. It can be
        saved and loaded like any Keras model, as far as the layers left in float can.
    """
    graph, names = lowered.graph, _LayerNames()
    inputs = [
        keras.Input(batch_shape=shape, name=names.unique(name))
        for name, shape in zip(lowered.trace.inputs, lowered.trace.input_shapes, strict=True)
    ]
    values = {}

    def write(name: str, value, rounding: str | None) -> None:
        if rounding is not None and name in plan.tensors:
            layer_name = names.unique(f"{name}/quantized")
            value = FakeQuantize.of(plan.tensors[name], rounding=rounding, name=layer_name)(value)
        values[name] = value

    for name, value in zip(graph.inputs, inputs, strict=True):
        write(name, value, "half_even")
    for node in graph.nodes:
        arguments = [values[name] for name in node.inputs]
        layer_name = names.unique(node.name)
        if node.rule.weighted:
            outputs = [_weighted(node, layer_name, arguments[0], plan, weights.get(node.name))]
        else:
            outputs = lowered.symbolic_runs[node.name](layer_name)(arguments)
        if node.activation is not None:
            maximum = 6.0 if node.activation == "relu6" else None
            relu = keras.layers.ReLU(maximum, name=names.unique(f"{node.name}/{node.activation}"))
            outputs = [relu(outputs[0]), *outputs[1:]]
        for name, value in zip(node.outputs, outputs, strict=True):
            write(name, value, rounds_after(node))
    outputs = lowered.trace.pack([values[name] for name in graph.outputs])
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name="simulated")


class _LayerNames:
    """Names for Keras layers, which may hold no slash and must differ."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, wish: str) -> str:
        name = base = wish.replace("/", ".")
        count = 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


def _weighted(node: Node, name: str, value, plan: QuantizationPlan, weights: LayerWeights | None):
    if weights is None:
        kernel, bias = node.kernel, node.bias
    else:
        kernel = weights.dequantized(node)
        bias = weights.stored_bias(plan.tensors.get(node.inputs[0]))
    layer = _new_layer(node, name)
    output = layer(value)
    if node.attributes.get("rank") == 1:
        kernel = kernel[0]
    layer.set_weights([kernel, np.asarray(bias, dtype=np.float32)])
    return output


def _new_layer(node: Node, name: str) -> keras.layers.Layer:
    if node.kind == "dense":
        return keras.layers.Dense(node.output_channels, name=name)
    one_axis = node.attributes.get("rank") == 1
    first_axis = 1 if one_axis else 0  # of a row of height 1 the second axis is the only one
    geometry = {
        "kernel_size": node.kernel.shape[first_axis:2],
        "strides": node.attributes["strides"][first_axis:],
        "padding": node.attributes["padding"],
        "name": name,
    }
    if node.kind == "conv2d_transpose":
        return keras.layers.Conv2DTranspose(node.output_channels, **geometry)
    geometry["dilation_rate"] = node.attributes["dilation_rate"][first_axis:]
    if node.kind == "conv2d":
        conv = keras.layers.Conv1D if one_axis else keras.layers.Conv2D
        return conv(node.output_channels, groups=node.attributes["groups"], **geometry)
    depthwise = keras.layers.DepthwiseConv1D if one_axis else keras.layers.DepthwiseConv2D
    return depthwise(depth_multiplier=node.kernel.shape[3], **geometry)
