"""Layers of the user's own that are made of others: what is in them is read, nothing changed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from runtimes import outputs

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.keras_side.lowering import lower
from tflite_ptq4.keras_side.trace import trace


class Block(layers.Layer):
    """A residual block, with a gate that is a model of its own."""

    def __init__(self, channels: int, **options) -> None:
        super().__init__(**options)
        self.channels = channels
        self.conv = layers.Conv2D(channels, 3, padding="same", name="conv")
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)
        self.gate = keras.Sequential(
            [
                layers.GlobalAveragePooling2D(keepdims=True),
                layers.Dense(channels, activation="sigmoid"),
            ]
        )

    def build(self, shape) -> None:
        self.conv.build(shape)
        inner = (*shape[:-1], self.channels)
        self.norm.build(inner)
        self.gate.build(inner)

    def call(self, inputs, training=True):
        x = ops.relu(self.norm(self.conv(inputs), training=training))
        return self.drop(x, training=training) * self.gate(x) + inputs

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


class Network(keras.Model):
    """By its own `call`."""

    def __init__(self, name: str = "network", **options) -> None:
        super().__init__(name=name, **options)
        self.first, self.last = Block(4, name="first"), layers.Dense(3, name="last")
        self.pool = layers.GlobalAveragePooling2D(name="pool")

    def call(self, inputs):
        return self.last(self.pool(self.first(self.first(inputs))))


class Gain(layers.Layer):
    """With a weight of its own."""

    def build(self, shape) -> None:
        self.gain = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, inputs):
        return inputs * self.gain


class OnArrays(layers.Layer):
    """What it does can be done to arrays alone."""

    def call(self, inputs):
        if isinstance(inputs, keras.KerasTensor):
            raise TypeError("no array")
        return ops.sin(inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape)


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 8, 8, 4)).astype(np.float32)


def wrapped() -> keras.Model:
    """The subclassed model as the one layer of a functional one."""
    inputs = keras.Input((8, 8, 4), name="image")
    return keras.Model(inputs, Network()(inputs))


def test_the_calls_inside_carry_the_path_and_are_those_of_inference() -> None:
    model = wrapped()
    traced = trace(model)
    block = ["conv", "batch_normalization", "relu", "dropout"]
    block += ["sequential/global_average_pooling2d", "sequential/dense", "multiply", "add"]
    first = [f"network/first/{name}" for name in block]
    again = [f"network/first_call2/{name}" for name in block]
    assert [call.name.replace("_call2", "") for call in traced.calls] == [
        *first,
        *(name.replace("_call2", "") for name in again),
        "network/pool",
        "network/last",
    ]
    values = {traced.inputs[0]: images()}
    for call in traced.calls:
        results = call.run([values[name] for name in call.inputs])
        values.update(zip(call.outputs, results, strict=True))
    expected = model.predict(images(), verbose=0)
    np.testing.assert_allclose(values[traced.outputs[0]], expected, rtol=1e-5, atol=1e-6)


def test_a_copy_has_the_same_names_and_the_same_fingerprint() -> None:
    model, other = wrapped(), wrapped()
    other.set_weights(model.get_weights())
    assert lower(model).graph.fingerprint == lower(model).graph.fingerprint
    assert lower(model).graph.fingerprint == lower(other).graph.fingerprint


def test_nothing_is_recorded_in_the_users_layers() -> None:
    model = wrapped()

    def recorded() -> list[tuple[int, int]]:
        parts = model._flatten_layers()
        return [(len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts]

    before = recorded()
    trace(model)
    assert recorded() == before


@pytest.mark.parametrize("layer", [Gain, OnArrays, lambda: layers.Lambda(ops.sin)])
def test_what_is_not_made_of_layers_stays_one_call(layer) -> None:
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, layer()(inputs))
    (call,) = trace(model).calls
    assert call.operation is model.layers[1]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_subclassed_model_is_quantized_where_it_is_called_on_an_input(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = wrapped()
    finally:
        keras.config.set_dtype_policy("float32")
    config = QuantizationConfig.preset("w4a8")
    quantized = quantize_model(model, calibrate(model, images()), config, images=images())
    assert quantized.plan.in_float == ()
    (found,) = outputs(quantized.to_tflite(), [images()])
    np.testing.assert_array_equal(found, quantized.simulated_model(images()))
