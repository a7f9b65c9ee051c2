"""The standard Keras layer that has the geometry of an operator with weights."""

from __future__ import annotations

from types import ModuleType

import keras
from numpy.typing import NDArray

from tflite_ptq4.graph import Node


def keras_layer(
    node: Node, name: str, *, use_bias: bool = True, library: ModuleType = keras
) -> keras.layers.Layer:
    """A Keras layer with strides, padding and the like of an operator.

    Args:
        node: an operator with weights.
        name: of the layer.
        use_bias: whether it has a bias.
        library: `keras` or `tf_keras`.
    """
    layers = library.layers
    if node.kind == "dense":
        return layers.Dense(node.output_channels, name=name, use_bias=use_bias)
    one_axis = _is_one_axis(node)
    first = 1 if one_axis else 0  # of rows of height 1 the second axis is the only one
    geometry = {
        "kernel_size": node.kernel.shape[first:2],
        "strides": node.attributes["strides"][first:],
        "padding": node.attributes["padding"],
        "use_bias": use_bias,
        "name": name,
    }
    if node.kind == "conv2d_transpose":
        transposed = layers.Conv1DTranspose if one_axis else layers.Conv2DTranspose
        return transposed(node.output_channels, **geometry)
    geometry["dilation_rate"] = node.attributes["dilation_rate"][first:]
    if node.kind == "conv2d":
        conv = layers.Conv1D if one_axis else layers.Conv2D
        return conv(node.output_channels, groups=node.attributes["groups"], **geometry)
    depthwise = layers.DepthwiseConv1D if one_axis else layers.DepthwiseConv2D
    return depthwise(depth_multiplier=node.kernel.shape[3], **geometry)


def kernel_of_layer(node: Node, kernel: NDArray) -> NDArray:
    """A kernel in the layout of `node.kernel` as that layer holds it.

    Args:
        node: an operator with weights.
        kernel: in the layout of `node.kernel`.
    """
    return kernel[0] if _is_one_axis(node) else kernel


def _is_one_axis(node: Node) -> bool:
    return node.attributes.get("rank") == 1
