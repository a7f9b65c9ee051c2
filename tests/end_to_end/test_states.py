"""A file answers an image alike whatever came before it, or is not written."""

from __future__ import annotations

from types import ModuleType

import keras
import numpy as np
import pytest
import tf_keras
from runtimes import outputs

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.errors import TargetError

TARGETS = ["int8_container", "packed_int4", "float_simulated"]
IMAGES = np.random.default_rng(0).normal(size=(8, 6, 5, 1)).astype(np.float32)


def recurrent(kerases: ModuleType, *, unroll: bool):
    layers = kerases.layers
    image = kerases.Input((6, 5, 1))
    x = layers.Conv2D(2, 3, padding="same", activation="relu")(image)
    x = layers.Reshape((6, 10))(x)
    x = layers.Bidirectional(layers.LSTM(3, unroll=unroll), name="both_ways")(x)
    return kerases.Model(image, layers.Dense(2)(x))


def quantized(model):
    config = QuantizationConfig.preset("w4a8")
    return quantize_model(model, calibrate(model, IMAGES), config, images=IMAGES)


@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_that_would_keep_its_state_is_refused(target: str) -> None:
    made = quantized(recurrent(tf_keras, unroll=False))
    with pytest.raises(TargetError, match=r"'both_ways' .* UNIDIRECTIONAL_SEQUENCE_LSTM .* unroll"):
        made.to_tflite(target)


@pytest.mark.parametrize(("kerases", "unroll"), [(tf_keras, True), (keras, False)])
def test_the_ways_out_begin_each_run_anew(kerases: ModuleType, unroll: bool) -> None:
    content = quantized(recurrent(kerases, unroll=unroll)).to_tflite("int8_container")
    (answers,) = outputs(content, [IMAGES[[0, 1, 0]]])
    first, second, again = answers
    np.testing.assert_array_equal(again, first)
    assert (second != first).any()
