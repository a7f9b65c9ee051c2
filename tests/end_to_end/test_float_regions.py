"""Tensors between layers in float and layers on integers: each is rounded once, in every form."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
from exported_networks import CONFIGS, calibrate, export_model
from file_checks import excess_levels, steps_apart
from keras import layers
from keras_networks import images_for

from tflite_ptq4.config.layer_rules import LayerRule

SIGNED = CONFIGS["w4a4_signed4"]
POOL_IN_FLOAT = SIGNED.replace(rules=(LayerRule(match="pool", quantize=False),))
EIGHT_BITS_BEFORE = SIGNED.replace(rules=(LayerRule(match="before", activation_bits=8),))


class SineAndCosine(keras.layers.Layer):
    """A layer of two outputs, without an integer form."""

    def call(self, inputs):
        return keras.ops.sin(inputs), keras.ops.cos(inputs)


def nothing(values):
    return layers.Lambda(lambda inputs: inputs, name="nothing")(values)


def second_output(values):
    return SineAndCosine(name="two")(values)[1]


def both_outputs(values):
    return layers.Add(name="sum")(SineAndCosine(name="two")(values))


def pool(values):
    return layers.MaxPooling2D(2, name="pool")(values)


def pool_of_float(values):
    return layers.MaxPooling2D(2, name="pool")(layers.Lambda(keras.ops.sin, name="sine")(values))


def reshape_to_itself(values):
    return layers.Reshape((8, 8, 4), name="pool")(values)


CASES = {
    "a layer that does nothing": (nothing, SIGNED),
    "a layer that does nothing, between widths": (nothing, EIGHT_BITS_BEFORE),
    "the second output of a layer": (second_output, SIGNED),
    "both outputs of a layer": (both_outputs, SIGNED),
    "a pool left in float": (pool, POOL_IN_FLOAT),
    "a pool left in float, after a float layer": (pool_of_float, POOL_IN_FLOAT),
    "a reshape left in float that does nothing": (reshape_to_itself, POOL_IN_FLOAT),
    "a reshape on integers that does nothing": (reshape_to_itself, SIGNED),
}


def network(between: Callable) -> keras.Model:
    """A convolution whose ReLU leaves nothing below zero, what is between, another convolution."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    values = layers.Conv2D(4, 3, padding="same", activation="relu", name="before")(image)
    values = layers.Conv2D(4, 3, padding="same", name="after")(between(values))
    return keras.Model(image, layers.Conv2D(3, 1, name="head")(values))


@pytest.mark.parametrize("case", CASES)
def test_files_compute_what_the_simulated_model_does(case: str) -> None:
    between, config = CASES[case]
    model = network(between)
    images = images_for(model)
    made = export_model(model, images, calibrate(model, images), config)
    assert excess_levels(made.file(), made.quantized.plan, images) == []
    for target in ("int8_container", "float_simulated"):
        for apart in steps_apart(made, target):
            assert np.mean(apart > 0.5) <= 0.005, target
            assert apart.max() <= 2.0, target
