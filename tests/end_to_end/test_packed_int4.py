"""Packed INT4 files: what is packed in which layout, that it computes the same, and the sizes."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
from exported_networks import exported
from keras import layers

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.converters.schema import TensorType
from tflite_ptq4.errors import TargetError
from tflite_ptq4.evaluation.runnable_models import predict_tflite
from tflite_ptq4.tflite_fields import OPERATOR_NAMES

NETWORKS = ("residual", "depthwise", "separable", "dense_after_flatten", "conv_strided", "pools")


def packed(network: str, layout: str, config: str = "w4a8") -> bytes:
    return exported(network, config).quantized.to_tflite("packed_int4", layout=layout)


def int4_operators(data: bytes) -> dict[str, str]:
    """For each kernel of type INT4 the operator that reads it."""
    editor = GraphEditor(parse(data))
    found = {}
    for operator in editor.graph.operators:
        for index in operator.inputs:
            tensor = editor.tensors[int(index)] if index >= 0 else None
            if tensor is not None and tensor.type == TensorType.INT4:
                found[tensor.name.decode()] = OPERATOR_NAMES[editor.builtin_code(operator)]
    return found


def kernels(data: bytes) -> dict[str, np.ndarray]:
    editor = GraphEditor(parse(data))
    return {
        tensor.name.decode(): editor.constant(index).reshape(-1)
        for index, tensor in enumerate(editor.tensors)
        if tensor.name.endswith(b"/kernel")
    }


@pytest.mark.parametrize("layout", ["fast", "smallest"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_packed_file_holds_the_integers_of_the_int8_file(network: str, layout: str) -> None:
    expected = kernels(exported(network, "w4a8").file())
    found = kernels(packed(network, layout))
    assert found.keys() == expected.keys()
    for name, integers in expected.items():
        np.testing.assert_array_equal(found[name], integers, err_msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_fast_layout_computes_exactly_what_the_int8_file_does(network: str) -> None:
    made = exported(network, "w4a8")
    np.testing.assert_array_equal(
        predict_tflite(packed(network, "fast"), made.images[0]),
        predict_tflite(made.file(), made.images[0]),
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_the_smallest_layout_computes_nearly_the_same(network: str) -> None:
    """INT4 convolutions run outside XNNPACK, which rounds otherwise in a few of a hundred cases.

    One step of 8 bits in each of them is 40 dB below the signal; wrong nibbles would leave nothing.
    """
    made = exported(network, "w4a8")
    int8 = predict_tflite(made.file(), made.images[0]).astype(np.float64)
    small = predict_tflite(packed(network, "smallest"), made.images[0])
    assert np.mean((small - int8) ** 2) <= 10**-2.5 * np.mean(int8**2)


@cache
def pointwise(layout: str | None) -> bytes:
    """A network of 1x1 convolutions, packed in a layout, or as int8."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Conv2D(64, 1, activation="relu", name="even"),
            layers.Conv2D(63, 1, activation="relu", name="wide"),
            layers.Conv2D(64, 1, activation="relu", name="odd"),
            layers.Conv2D(64, 1, strides=2, activation="relu", name="strided"),
            layers.Conv2D(4, 1),
        ]
    )
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    config = QuantizationConfig.preset("w4a8")
    quantized = quantize_model(model, calibrate(model, images), config, images=images)
    if layout is None:
        return quantized.to_tflite("int8_container")
    return quantized.to_tflite("packed_int4", layout=layout)


def test_fast_packs_only_what_is_accelerated() -> None:
    for network in NETWORKS:
        found = set(int4_operators(packed(network, "fast")).values())
        assert found <= {"FULLY_CONNECTED"}, network


def test_pointwise_convolutions_become_fully_connected() -> None:
    """But not with an odd number of inputs, nor with a stride: XNNPACK takes neither."""
    found = int4_operators(pointwise("fast"))
    assert found == {
        "even/linear/kernel": "FULLY_CONNECTED",
        "wide/linear/kernel": "FULLY_CONNECTED",
    }


def test_smallest_packs_convolutions_and_only_those_of_4_bits() -> None:
    made = exported("residual", "w4a8")
    found = int4_operators(packed("residual", "smallest"))
    assert "CONV_2D" in found.values()
    for name in found:
        bits = made.quantized.plan.layer(name.removesuffix("/kernel")).weight_bits
        assert bits.max() <= 4, name


def test_sizes_fall() -> None:
    int8, fast, smallest = (len(pointwise(layout)) for layout in (None, "fast", "smallest"))
    # Half a byte for each weight: fast packs even and wide, smallest the other two as well.
    assert int8 - fast == pytest.approx((64 * 64 + 64 * 63) / 2, abs=200)
    assert fast - smallest == pytest.approx((63 * 64 + 64 * 64) / 2, abs=200)


def test_eight_bit_plans_are_not_packed() -> None:
    assert int4_operators(packed("residual", "smallest", "w8a8")) == {}


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(TargetError, match="`layout` must be one of fast, smallest"):
        packed("residual", "tiny")
