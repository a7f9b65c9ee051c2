from __future__ import annotations

import numpy as np
import pytest
from small_networks import float_dense, int8_conv
from tiny_tflite import TinyModel

from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.evaluation.open_models import open_tflite


def test_integers_come_as_real_numbers_with_their_grid() -> None:
    """Image 1/8 (zero point -3), kernel 16 / 16, ReLU in steps of 1/4 from 112."""
    model = open_tflite(int8_conv(np.full((1, 1, 1, 1), 16, np.int8), side=2), name="m")
    image, output = model.tensors
    assert (image.scale, image.zero_point) == (1 / 8, -3)
    assert (output.scale, output.zero_point) == (1 / 4, 112)
    values = np.array([[-1.0, 0.0, 0.26, 1.0], [1.5, 2.0, 3.75, 99.0]], np.float32)
    rounded, computed = model.run([values.reshape(2, 2, 2, 1)])
    np.testing.assert_array_equal(rounded, [[-1, 0, 0.25, 1], [1.5, 2, 3.75, 130 / 8]])
    np.testing.assert_array_equal(computed, [[0, 0, 0.25, 1], [1.5, 2, 3.75, 3.75]])
    assert model.outputs == {"tensor_3": 1}


def test_tensors_inside_xnnpack_are_seen() -> None:
    """Two matrices, one after the other: XNNPACK keeps the product between them to itself."""
    network = TinyModel()
    image = network.activation((1, 2))
    middle, end = network.activation((1, 2)), network.activation((1, 2))
    for source, result, factor in ((image, middle, 3.0), (middle, end, 5.0)):
        kernel = network.constant((factor * np.eye(2)).astype(np.float32))
        network.operator("FULLY_CONNECTED", [source, kernel, -1], result, "FullyConnectedOptions")
    model = open_tflite(network.to_bytes([image], [end]), name="m")
    found = model.run([np.array([[1, 2], [3, 4]], np.float32)])
    for values, factor in zip(found, (1, 3, 15), strict=True):
        np.testing.assert_array_equal(values, factor * np.array([[1, 2], [3, 4]]))


def test_quantizing_and_dequantizing_belong_to_the_layers_around_them() -> None:
    network = TinyModel()
    image, output = network.activation((1, 2)), network.activation((1, 2))
    rounded, positive = network.activation((1, 2), 0.5), network.activation((1, 2), 0.5)
    network.operator("QUANTIZE", [image], rounded)
    network.operator("RELU", [rounded], positive)
    network.operator("DEQUANTIZE", [positive], output)
    model = open_tflite(network.to_bytes([image], [output]), name="m")
    assert [tensor.name for tensor in model.tensors] == ["tensor_2", "tensor_3"]
    # The rounded image is known by the name of the image, and the output by its integers.
    assert model.tensors[0].layers == ("tensor_0",)
    assert model.outputs == {"tensor_1": 1}
    rows = model.run([np.array([[-1.0, 0.6]], np.float32)])
    assert [row.tolist() for row in rows] == [[[-1.0, 0.5]], [[0.0, 0.5]]]


def test_constants_that_are_unpacked_are_no_layers() -> None:
    network = TinyModel()
    image, output = network.activation((1, 2)), network.activation((1, 2))
    kernel = network.activation((2, 2))
    packed = network.constant(np.eye(2, dtype=np.int8), 0.5)
    network.operator("DEQUANTIZE", [packed], kernel)
    network.operator("FULLY_CONNECTED", [image, kernel, -1], output, "FullyConnectedOptions")
    model = open_tflite(network.to_bytes([image], [output]), name="m")
    assert [tensor.name for tensor in model.tensors] == ["tensor_0", "tensor_1"]


def test_what_litert_cannot_load_is_refused() -> None:
    with pytest.raises(FileFormatError, match="'broken'"):
        open_tflite(float_dense(np.eye(4))[:200], name="broken")
