"""Running a lowered graph, or the primitives of a model, on tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from keras import ops

from tflite_ptq4.graph import Node, last_uses
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.keras_side.primitives.primitive import Primitive
from tflite_ptq4.keras_side.trace import Run


def run_primitives(
    primitives: Sequence[Primitive], inputs: Mapping[str, object]
) -> dict[str, object]:
    """Repeat the user's model, primitive by primitive, on its own weights.

    Args:
        primitives: of a lowered model, in order.
        inputs: a tensor for each input of the model.

    Returns:
        Every tensor by name. Inside a `tf.function` only what is used afterwards is kept.
    """
    values = dict(inputs)
    for primitive in primitives:
        results = primitive.run([values[name] for name in primitive.inputs])
        values.update(zip(primitive.outputs, results, strict=True))
    return values


def linear(node: Node, value, kernel, bias):
    """The linear part of an operator with weights: kernel and bias, before the activation.

    Args:
        node: an operator with weights.
        value: float32 tensor [n, ..., c_in].
        kernel: float32 in the layout of `node.kernel`.
        bias: float32 [c_out].

    Returns:
        float32 tensor [n, ..., c_out].
    """
    return _one_axis_again(node, _on_two_axes(node, value, kernel, bias))


def _on_two_axes(node: Node, value, kernel, bias):
    """`linear`, with the axis of length one that a one-dimensional convolution is computed on."""
    if node.kind == "dense":
        return ops.add(ops.matmul(value, kernel), bias)
    one_axis = node.attributes.get("rank") == 1
    if one_axis:
        value = ops.expand_dims(value, 1)
    strides, padding = node.attributes["strides"], node.attributes["padding"]
    if node.kind == "conv2d_transpose":
        outputs = ops.conv_transpose(value, kernel, strides, padding, data_format="channels_last")
    elif node.attributes.get("groups", 1) > 1:
        # Outside of a graph Keras would compile it with XLA at each call.
        rates = node.attributes["dilation_rate"]
        outputs = tf.nn.conv2d(value, kernel, strides, padding.upper(), dilations=rates)
    else:
        convolution = ops.conv if node.kind == "conv2d" else ops.depthwise_conv
        outputs = convolution(
            value,
            kernel,
            strides,
            padding,
            data_format="channels_last",
            dilation_rate=node.attributes["dilation_rate"],
        )
    return ops.add(outputs, ops.reshape(bias, (1, 1, 1, -1)))


def _one_axis_again(node: Node, outputs):
    return ops.squeeze(outputs, 1) if node.attributes.get("rank") == 1 else outputs


def activate(node: Node, value):
    """The activation that is fused into an operator.

    Args:
        node: the operator.
        value: its output before the activation.
    """
    if node.activation == "relu":
        return ops.relu(value)
    if node.activation == "relu6":
        return ops.relu6(value)
    return value


def run_node(node: Node, run: Run | None, values: Sequence) -> list:
    """One operator of a lowered graph, with its folded float weights.

    Args:
        node: the operator.
        run: how to run it, for an operator without weights.
        values: its input tensors.

    Returns:
        Its output tensors.
    """
    if node.rule.weighted:
        # TFLiteConverter fuses an activation with the convolution right before it.
        outputs = activate(node, _on_two_axes(node, values[0], node.kernel, node.bias))
        return [_one_axis_again(node, outputs)]
    outputs = run(values)
    return [activate(node, outputs[0]), *outputs[1:]]


def run_graph(
    lowered: LoweredModel, inputs: Mapping[str, object], keep: Sequence[str] = ()
) -> Iterator[tuple[Node, list, list]]:
    """Run a lowered graph node by node, letting go of each tensor after its last use.

    Args:
        lowered: the model.
        inputs: a tensor for each input.
        keep: tensors not to let go.

    Yields:
        Each node with its input and output tensors.
    """
    values = dict(inputs)
    released = last_uses(lowered.graph.nodes, keep)
    for node in lowered.graph.nodes:
        arguments = [values[name] for name in node.inputs]
        results = run_node(node, lowered.runs.get(node.name), arguments)
        values.update(zip(node.outputs, results, strict=True))
        yield node, arguments, results
        for name in released.get(node.name, ()):
            values.pop(name, None)
