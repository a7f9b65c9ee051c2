"""Operators with weights as functions of their input alone: backward passes leave kernels out.

In eager mode TensorFlow computes the gradients of both arguments of a convolution, whichever is
asked for. That of the kernel is the larger half of the work, and oneDNN's, of 1x1 convolutions with
strides and 8 channels, writes where it must not: on some processors the process ends there.
"""

from __future__ import annotations

import tensorflow as tf

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.execution import linear


def linear_of_input(node: Node, value: tf.Tensor, kernel: object, bias: object) -> tf.Tensor:
    """`execution.linear`, through which a gradient reaches `value` only.

    Args:
        node: as there.
        value: as there.
        kernel: as there, no variable.
        bias: as there, no variable.
    """
    if not _has_plain_gradient(node):
        return linear(node, value, kernel, bias)

    @tf.custom_gradient
    def of_input(value: tf.Tensor):
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return _input_gradient(node, upstream, kernel, value.shape)

        return linear(node, value, kernel, bias), gradient

    return of_input(value)


def _has_plain_gradient(node: Node) -> bool:
    """Whether one operator of TensorFlow is the gradient: not with groups, nor dilated."""
    if node.kind == "dense":
        return False
    rows, columns = node.attributes["strides"]
    return (
        tuple(node.attributes.get("dilation_rate", (1, 1))) == (1, 1)
        and node.attributes.get("groups", 1) == 1
        and (node.kind != "depthwise_conv2d" or rows == columns)
    )


def _input_gradient(
    node: Node, upstream: tf.Tensor, kernel: object, shape: tf.TensorShape
) -> tf.Tensor:
    strides, padding = node.attributes["strides"], node.attributes["padding"].upper()
    one_axis = node.attributes.get("rank") == 1
    if one_axis:
        upstream, shape = tf.expand_dims(upstream, 1), (shape[0], 1, *shape[1:])
    if node.kind == "conv2d_transpose":
        gradient = tf.nn.conv2d(upstream, kernel, strides, padding)
    elif node.kind == "conv2d":
        gradient = tf.nn.conv2d_transpose(upstream, kernel, shape, strides, padding)
    else:
        gradient = tf.nn.depthwise_conv2d_backprop_input(
            shape, kernel, upstream, (1, *strides, 1), padding
        )
    return tf.squeeze(gradient, 1) if one_axis else gradient
