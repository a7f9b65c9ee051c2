"""The gradient at the input of an operator with weights, without that of its kernel.

In eager mode TensorFlow's tape computes the gradients of both arguments of a convolution, whichever
is asked for. That of the kernel is the larger half of the work, and oneDNN's, of 1x1 convolutions
with strides and 8 channels, writes where it must not: on some processors the process ends there.
"""

from __future__ import annotations

import tensorflow as tf

from tflite_ptq4.graph import Node


def has_plain_gradient(node: Node) -> bool:
    """Whether `input_gradient` knows an operator: not with groups, nor dilated, nor dense.

    Args:
        node: an operator with weights.
    """
    if node.kind == "dense":
        return False
    rows, columns = node.attributes["strides"]
    return (
        tuple(node.attributes.get("dilation_rate", (1, 1))) == (1, 1)
        and node.attributes.get("groups", 1) == 1
        and (node.kind != "depthwise_conv2d" or rows == columns)
    )


def input_gradient(
    node: Node, shape: tf.TensorShape, output: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    """The gradient at the input of an operator with weights, from that at its output.

    Args:
        node: an operator that `has_plain_gradient`.
        shape: of the input, [n, ..., c_in].
        output: float32 [n, ..., c_out], what the operator gives, after its activation.
        upstream: float32 of the same shape, the gradient there.

    Returns:
        float32 [n, ..., c_in].
    """
    if node.activation == "relu":
        upstream = tf.raw_ops.ReluGrad(gradients=upstream, features=output)
    elif node.activation == "relu6":
        upstream = tf.raw_ops.Relu6Grad(gradients=upstream, features=output)
    strides, padding = node.attributes["strides"], node.attributes["padding"].upper()
    one_axis = node.attributes.get("rank") == 1
    if one_axis:
        upstream, shape = tf.expand_dims(upstream, 1), (shape[0], 1, *shape[1:])
    if node.kind == "conv2d_transpose":
        gradient = tf.nn.conv2d(upstream, node.kernel, strides, padding)
    elif node.kind == "conv2d":
        gradient = tf.nn.conv2d_transpose(upstream, node.kernel, shape, strides, padding)
    else:
        gradient = tf.nn.depthwise_conv2d_backprop_input(
            shape, node.kernel, upstream, (1, *strides, 1), padding
        )
    return tf.squeeze(gradient, 1) if one_axis else gradient
