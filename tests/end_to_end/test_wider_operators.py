"""Operators beyond plain classifiers: gates, transposed and one-dimensional convolutions, resizing.

Elementwise functions are tables over the 256 integers; a value near a tie may fall to the other
side in another arithmetic. So the file is held to the simulated model in decibels here: 30 dB is
one part in thirty of the signal, and a wrong kernel, scale or order of weights gives less than 10.
"""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras_networks import images_for

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.converters.schema import OPERATOR_NAMES
from tflite_ptq4.evaluation import predict_tflite

LEAST_SQNR_DB = 30.0
INTEGER_TARGETS = ("int8_container", "packed_int4")


def stem() -> tuple[keras.KerasTensor, keras.KerasTensor]:
    inputs = keras.Input((12, 12, 3), name="image")
    return inputs, layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)


def activations() -> keras.Model:
    inputs, x = stem()
    for name in ("leaky_relu", "elu", "tanh", "hard_sigmoid", "hard_swish", "silu", "gelu"):
        x = layers.Conv2D(8, 1, activation=name)(x)
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones")(layers.Conv2D(8, 1)(x))
    return keras.Model(inputs, layers.Conv2D(4, 1, activation="sigmoid")(x))


def squeeze_and_excitation() -> keras.Model:
    inputs, x = stem()
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1)(layers.Conv2D(4, 1, activation="relu")(gate))
    gate = layers.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0)
    x = layers.Multiply()([x, gate])
    return keras.Model(inputs, layers.Subtract()([x, layers.Conv2D(8, 1)(x)]))


def unet() -> keras.Model:
    inputs, x = stem()
    low = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(x))
    high = layers.Conv2DTranspose(8, 3, strides=2, padding="same", use_bias=False)(low)
    high = layers.ReLU()(layers.BatchNormalization()(high))
    x = layers.Concatenate()([x, high, layers.UpSampling2D(2)(low)])
    x = layers.Cropping2D(1)(layers.Conv2D(8, 3, padding="same")(x))
    return keras.Model(inputs, layers.Conv2DTranspose(4, 2, strides=2)(x))


def resized() -> keras.Model:
    inputs, x = stem()
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Resizing(10, 10)(layers.Conv2D(8, 1)(x))
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(x))


def one_dimensional() -> keras.Model:
    inputs = keras.Input((48, 6), name="sound")
    x = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu")(inputs)
    x = layers.BatchNormalization()(layers.DepthwiseConv1D(3, padding="same")(x))
    x = layers.SeparableConv1D(12, 3, padding="same", activation="relu6")(x)
    x = layers.AveragePooling1D(2)(layers.MaxPooling1D(2)(x))
    x = layers.Conv1D(8, 2, dilation_rate=2)(x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def moved() -> keras.Model:
    inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])(inputs)
    x = layers.Conv2D(8, 3, groups=1, activation="relu")(layers.Rescaling(2.0, 0.5)(x))
    x = layers.Conv2D(12, 1)(layers.Permute((2, 1, 3))(layers.ZeroPadding2D(1)(x)))
    x = ops.depth_to_space(x, 2)
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


def hard_swishes() -> keras.Model:
    inputs, x = stem()
    for _ in range(6):
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.ReLU(6.0)(layers.Conv2D(8, 1)(gate) + 3.0) * (1.0 / 6.0)
        x = layers.Multiply()([layers.Conv2D(8, 1, activation="hard_swish")(x), gate])
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


NETWORKS = {
    build.__name__: build
    for build in (
        activations,
        squeeze_and_excitation,
        unet,
        resized,
        one_dimensional,
        moved,
        hard_swishes,
    )
}


@cache
def made(network: str, preset: str):
    keras.utils.set_random_seed(0)
    model = NETWORKS[network]()
    (images,) = images_for(model, 16)
    config = QuantizationConfig.preset(preset)
    return quantize_model(model, calibrate(model, images), config, images=images), images


def operators(data: bytes) -> list[str]:
    model = parse(data)
    codes = [code.builtinCode for code in model.operatorCodes]
    return [OPERATOR_NAMES[codes[o.opcodeIndex]] for o in model.subgraphs[0].operators]


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    noise = np.mean((reference.astype(np.float64) - other) ** 2)
    return (
        np.inf if noise == 0 else 10 * np.log10(np.mean(reference.astype(np.float64) ** 2) / noise)
    )


@pytest.mark.parametrize("preset", ["w8a8", "w4a8", "w4a4"])
@pytest.mark.parametrize("target", INTEGER_TARGETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_file_computes_what_the_simulated_model_does(
    network: str, target: str, preset: str
) -> None:
    quantized, images = made(network, preset)
    simulated = quantized.simulated_model.predict(images, verbose=0)
    found = predict_tflite(quantized.to_tflite(target), images)
    assert sqnr_db(simulated, found) >= LEAST_SQNR_DB


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
def test_hard_swish_is_exact(preset: str) -> None:
    quantized, images = made("hard_swishes", preset)
    simulated = quantized.simulated_model.predict(images, verbose=0)
    np.testing.assert_array_equal(
        predict_tflite(quantized.to_tflite("int8_container"), images), simulated
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_stays_in_float(network: str) -> None:
    quantized, _ = made(network, "w8a8")
    names = operators(quantized.to_tflite("int8_container", io="int8"))
    assert quantized.plan.in_float == ()
    assert not {"QUANTIZE", "DEQUANTIZE"} & {names[0], names[-1]}


@pytest.mark.parametrize("network", NETWORKS)
def test_eight_bits_are_near_the_float_network(network: str) -> None:
    quantized, images = made(network, "w8a8")
    keras.utils.set_random_seed(0)
    exact = NETWORKS[network]().predict(images, verbose=0)
    # Each of up to ten layers rounds at 8 bits, some 40 dB below its signal: ten of them, 30 dB.
    assert sqnr_db(exact, quantized.simulated_model.predict(images, verbose=0)) >= 25.0
