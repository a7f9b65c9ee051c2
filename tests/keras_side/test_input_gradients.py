"""Gradients at the input of an operator with weights, against those of the tape."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.execution import activate, linear
from tflite_ptq4.keras_side.input_gradients import has_plain_gradient, input_gradient
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


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_is_that_of_the_tape(
    name: str, activation: str | None, rng: np.random.Generator
) -> None:
    shape, layer = LAYERS[name]
    node = dataclasses.replace(node_of(shape, layer), activation=activation)
    value = tf.constant(rng.normal(0, 6, (2, *shape)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(value)
        output = activate(node, linear(node, value, node.kernel, node.bias))
    upstream = tf.constant(rng.normal(size=output.shape), tf.float32)
    expected = tape.gradient(output, value, output_gradients=upstream)
    assert has_plain_gradient(node)
    found = input_gradient(node, value.shape, output, upstream)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEFT_TO_THE_TAPE)
def test_others_are_left_to_the_tape(name: str) -> None:
    assert not has_plain_gradient(node_of(*LEFT_TO_THE_TAPE[name]))
