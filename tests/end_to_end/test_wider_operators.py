"""Operators beyond plain classifiers: gates, transposed and one-dimensional convolutions, resizing.

Elementwise functions are tables over the 256 integers; a value near a tie may fall to the other
side in another arithmetic. So the file is held to the simulated model in decibels here: 30 dB is
one part in thirty of the signal, and a wrong kernel, scale or order of weights gives less than 10.
"""

from __future__ import annotations

import keras
import keras_networks
import numpy as np
import pytest
from exported_networks import exported
from keras import layers
from runtimes import operator_names, outputs

from tflite_ptq4 import LayerRule, QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.errors import ModelError
from tflite_ptq4.numerics.closeness import sqnr_db

NETWORKS = sorted(set(keras_networks.WIDER_NETWORKS) - keras_networks.WITH_FLOAT_LAYERS)
LEAST_SQNR_DB = 30.0
INTEGER_TARGETS = ("int8_container", "packed_int4")


@pytest.mark.parametrize("config", ["w8a8", "w4a8", "w4a4"])
@pytest.mark.parametrize("target", INTEGER_TARGETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_file_computes_what_the_simulated_model_does(
    network: str, target: str, config: str
) -> None:
    made = exported(network, config)
    (found,) = outputs(made.file(target), made.images)
    (simulated,) = made.simulated_outputs
    assert sqnr_db(simulated, found) >= LEAST_SQNR_DB


@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
@pytest.mark.parametrize(
    "network", ["hard_swishes", "selu", "layer_norms", "prelus", "averages", "extrema"]
)
def test_what_takes_several_operators_is_exact(network: str, config: str, runtime: str) -> None:
    made = exported(network, config)
    (found,) = outputs(made.file(), made.images, runtime)
    np.testing.assert_array_equal(found, made.simulated_outputs[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_stays_in_float(network: str) -> None:
    made = exported(network, "w8a8")
    names = operator_names(made.file(io="int8"))
    assert made.quantized.plan.in_float == ()
    assert not {"QUANTIZE", "DEQUANTIZE"} & {names[0], names[-1]}


@pytest.mark.parametrize("network", NETWORKS)
def test_eight_bits_are_near_the_float_network(network: str) -> None:
    made = exported(network, "w8a8")
    # Each of up to ten layers rounds at 8 bits, some 40 dB below its signal: ten of them, 30 dB.
    assert sqnr_db(np.asarray(made.model(made.images[0])), made.simulated_outputs[0]) >= 25.0


def test_the_loop_of_a_recurrent_layer_keeps_its_graphs() -> None:
    """A GRU stays in float, and becomes a WHILE whose condition and body are graphs of the file."""
    inputs = keras.Input((8, 8, 3))
    rows = layers.Reshape((8, -1))(keras_networks.conv(4)(inputs))
    model = keras.Model(inputs, layers.Dense(4)(layers.GRU(5)(rows)))
    images = keras_networks.images_for(model)
    config = QuantizationConfig.preset("w4a8")
    quantized = quantize_model(model, calibrate(model, images), config, images=images)
    simulated = np.asarray(quantized.simulated_model(images[0]))
    for target in INTEGER_TARGETS:
        file = quantized.to_tflite(target=target)
        assert "WHILE" in operator_names(file)
        assert sqnr_db(simulated, outputs(file, images)[0]) >= LEAST_SQNR_DB


@pytest.mark.parametrize("in_float", [(), ("left",), ("right",), ("left", "right")])
def test_layers_that_read_one_tensor_share_no_operator(in_float: tuple[str, ...]) -> None:
    """Both begin with the same steps; one of them may be in float, and each is run in its place."""
    inputs = keras.Input((24, 4))
    x = layers.Conv1D(6, 3)(inputs)
    options = {"dilation_rate": 2, "padding": "causal"}
    left = layers.Conv1D(6, 3, **options, name="left")(x)
    right = layers.Conv1D(6, 3, **options, name="right")(x)
    model = keras.Model(inputs, layers.Concatenate()([left, right]))
    images = keras_networks.images_for(model, 4)
    rules = tuple(LayerRule(match=name, quantize=False) for name in in_float)
    config = QuantizationConfig.preset("w8a8", rules=rules)
    quantized = quantize_model(model, calibrate(model, images), config, images=images)
    simulated = np.asarray(quantized.simulated_model(images[0]))
    found = outputs(quantized.to_tflite(), images)[0]
    assert sqnr_db(simulated, found) >= 60.0


def test_a_layer_may_give_one_tensor_twice() -> None:
    inputs = keras_networks.image()
    x = keras_networks.conv(4)(inputs)
    first, second = layers.Lambda(lambda x: [keras.ops.sin(x)] * 2)(x)
    first, second = keras_networks.conv(3)(first), keras_networks.conv(5)(second)
    model = keras.Model(inputs, layers.Concatenate()([first, second]))
    images = keras_networks.images_for(model)
    rules = (LayerRule(match="lambda", activation_bits=8),)
    config = QuantizationConfig.preset("w4a4", rules=rules)
    quantized = quantize_model(model, calibrate(model, images), config, images=images)
    simulated = np.asarray(quantized.simulated_model(images[0]))
    assert sqnr_db(simulated, outputs(quantized.to_tflite(), images)[0]) >= LEAST_SQNR_DB


def test_a_layer_in_float_that_changes_nothing_has_a_scale_of_its_own() -> None:
    """The converter leaves it out; what it gives is read as 4 bits, what it reads has 8."""
    inputs = keras_networks.image()
    x = layers.Lambda(lambda x: x * keras.ops.ones(4))(keras_networks.conv(4)(inputs))
    model = keras.Model(inputs, keras_networks.conv(3)(x))
    images = keras_networks.images_for(model)
    rules = (LayerRule(match="conv2d", activation_bits=8),)
    config = QuantizationConfig.preset("w4a4", rules=rules, activation_bit_budget=None)
    quantized = quantize_model(model, calibrate(model, images), config, images=images)
    simulated = np.asarray(quantized.simulated_model(images[0]))
    assert sqnr_db(simulated, outputs(quantized.to_tflite(), images)[0]) >= LEAST_SQNR_DB


def test_a_layer_that_cannot_be_converted_is_refused_by_name() -> None:
    inputs = keras_networks.image()
    x = keras_networks.conv(4)(inputs)
    x = layers.UpSampling2D(2, interpolation="bicubic", name="cubic")(x)
    model = keras.Model(inputs, layers.Conv2D(4, 1)(x))
    images = keras_networks.images_for(model)
    quantized = quantize_model(model, calibrate(model, images), QuantizationConfig.preset("w8a8"))
    with pytest.raises(ModelError, match=r"layer 'cubic' \(UpSampling2D\), which needs ResizeBic"):
        quantized.to_tflite()


def test_layer_normalization_is_near_the_float_one_where_positions_differ_in_size(
    rng: np.random.Generator,
) -> None:
    """Sizes from a fifth to five times the usual one; squares of such values leave 8 bits."""
    keras.utils.set_random_seed(0)
    inputs = keras_networks.image(8, 8, 16)
    x = layers.LayerNormalization()(layers.Conv2D(16, 1)(inputs))
    model = keras.Model(inputs, layers.Conv2D(16, 1)(x))
    sizes = np.exp(rng.normal(0.0, 0.6, (16, 8, 8, 1)))
    images = (sizes * rng.normal(size=(16, 8, 8, 16))).astype(np.float32)
    statistics = calibrate(model, images)
    expected = np.asarray(model(images))

    def decibels(*rules: LayerRule) -> float:
        config = QuantizationConfig.preset("w8a8", rules=rules)
        made = quantize_model(model, statistics, config, images=images)
        return sqnr_db(expected, np.asarray(made.simulated_model(images)))

    in_float = decibels(LayerRule(layer_type="LayerNormalization", quantize=False))
    assert in_float > 22.0
    assert decibels() > in_float - 3.5
