"""Gradients that reach the input alone, against those of the tape through the kernel too."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.execution import linear
from tflite_ptq4.keras_side.input_gradients import linear_of_input
from tflite_ptq4.keras_side.lowering import lower

LAYERS: dict[str, tuple[tuple[int, ...], layers.Layer]] = {
    "convolution": ((9, 8, 3), layers.Conv2D(4, 3, strides=2, padding="same")),
    "valid": ((9, 8, 3), layers.Conv2D(4, (2, 3), strides=(1, 2))),
    "one axis": ((9, 3), layers.Conv1D(4, 3, strides=2, padding="same")),
    "depthwise": ((9, 8, 3), layers.DepthwiseConv2D(3, 2, padding="same", depth_multiplier=2)),
    "transposed": ((5, 4, 3), layers.Conv2DTranspose(4, 3, strides=2, padding="same")),
    "transposed with gaps": ((5, 4, 3), layers.Conv2DTranspose(4, 2, strides=3)),
}
LEFT_TO_THE_TAPE: dict[str, tuple[tuple[int, ...], layers.Layer]] = {
    "dilated": ((9, 8, 3), layers.Conv2D(4, 3, dilation_rate=2)),
    "grouped": ((9, 8, 4), layers.Conv2D(4, 3, groups=2)),
    "depthwise on one axis": ((9, 3), layers.DepthwiseConv1D(3, 2)),
    "dense": ((5, 3), layers.Dense(4)),
}


def node_of(shape: tuple[int, ...], layer: layers.Layer) -> Node:
    inputs = keras.Input(shape)
    (node,) = lower(keras.Model(inputs, layer(inputs))).graph.weighted_nodes
    return node


def outputs_and_gradients(
    run: Callable, node: Node, value: tf.Tensor, rng: np.random.Generator
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Outputs, and the gradients of the input and of the kernel."""
    kernel = tf.constant(node.kernel)
    with tf.GradientTape() as tape:
        tape.watch([value, kernel])
        outputs = run(node, value, kernel, tf.constant(node.bias))
    upstream = tf.constant(rng.normal(size=outputs.shape), tf.float32)
    return outputs, *tape.gradient(outputs, [value, kernel], output_gradients=upstream)


@pytest.mark.parametrize("name", [*LAYERS, *LEFT_TO_THE_TAPE])
def test_outputs_and_gradients_are_those_of_the_tape(name: str, rng: np.random.Generator) -> None:
    shape, layer = (LAYERS | LEFT_TO_THE_TAPE)[name]
    node, value = node_of(shape, layer), tf.constant(rng.normal(size=(2, *shape)), tf.float32)
    outputs, expected, _ = outputs_and_gradients(linear, node, value, np.random.default_rng(1))
    own, found, kernel = outputs_and_gradients(
        linear_of_input, node, value, np.random.default_rng(1)
    )
    np.testing.assert_array_equal(own, outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (kernel is None) == (name in LAYERS)
