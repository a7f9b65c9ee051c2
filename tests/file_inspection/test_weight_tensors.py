from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from small_networks import float_dense, int8_conv
from tiny_tflite import TinyModel

from tflite_ptq4.file_inspection.weight_tensors import WeightTensor, weight_tensor, weight_uses


def weights(content: bytes) -> list[WeightTensor]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return [weight_tensor(use) for use in weight_uses(model, model.subgraphs[0])]


@pytest.mark.parametrize(
    ("packed", "type_name", "size", "stored_bits"), [(False, "INT8", 6, 8), (True, "INT4", 3, 4)]
)
def test_integers_use_the_bits_of_their_channels(
    packed: bool, type_name: str, size: int, stored_bits: int
) -> None:
    """Magnitudes up to 7 need 4 bits, up to 1 need 2."""
    kernel = np.array([[-7, 3, 5], [1, 0, -1]], np.int8).reshape(2, 1, 1, 3)
    (weight,) = weights(int8_conv(kernel, packed=packed))
    assert (weight.type, weight.bytes, weight.stored_bits) == (type_name, size, stored_bits)
    assert (weight.shape, weight.elements) == ((2, 1, 1, 3), 6)
    assert weight.effective_bits == (4 + 2) / 2
    assert (weight.lowest, weight.highest) == (-7, 5)


def test_float_weights_on_a_grid_are_told_from_free_ones(rng: np.random.Generator) -> None:
    q = np.concatenate([np.tile([[-7, 7, 6]], (4, 1)), rng.integers(-7, 8, (4, 13))], axis=1)
    (simulated,) = weights(float_dense(q * 0.0371, side=4))
    assert (simulated.stored_bits, simulated.effective_bits) == (32, 4)
    (free,) = weights(float_dense(rng.normal(size=(4, 16)), side=4))
    assert (free.stored_bits, free.effective_bits) == (32, 32)


def test_weights_behind_a_dequantize_are_weights() -> None:
    network = TinyModel()
    image, output = network.activation((1, 1, 1, 2)), network.activation((1, 1))
    stored = network.constant(np.array([[7, -7]], np.int8), 0.1)
    kernel = network.operator("DEQUANTIZE", [stored], network.activation((1, 2)))
    network.operator("FULLY_CONNECTED", [image, kernel, -1], output, "FullyConnectedOptions")
    (weight,) = weights(network.to_bytes([image], [output]))
    assert (weight.operator, weight.type, weight.effective_bits) == ("FULLY_CONNECTED", "INT8", 4)


def test_half_precision_uses_no_more_bits_than_it_has(rng: np.random.Generator) -> None:
    network = TinyModel()
    image, output = network.activation((1, 1, 1, 16)), network.activation((1, 2))
    stored = network.constant(rng.normal(size=(2, 16)).astype(np.float16))
    kernel = network.operator("DEQUANTIZE", [stored], network.activation((2, 16)))
    network.operator("FULLY_CONNECTED", [image, kernel, -1], output, "FullyConnectedOptions")
    (weight,) = weights(network.to_bytes([image], [output]))
    assert (weight.type, weight.stored_bits, weight.effective_bits) == ("FLOAT16", 16, 16)


def test_weights_that_are_computed_are_not_weights_of_the_file() -> None:
    network = TinyModel()
    image, kernel = network.activation((1, 2)), network.activation((3, 2))
    output = network.activation((1, 3))
    network.operator("FULLY_CONNECTED", [image, kernel, -1], output, "FullyConnectedOptions")
    assert weights(network.to_bytes([image, kernel], [output])) == []
