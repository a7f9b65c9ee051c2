"""Levels read off a graph; the arithmetic beside the cases is `clip(rint(x / s) + zero_point)`."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from small_networks import RELU, RELU6
from tiny_tflite import TinyModel

from tflite_ptq4.file_inspection.activation_levels import activation_levels

SHAPE = (1, 4, 4, 1)


def levels(content: bytes) -> dict[int, list[float]]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    found = activation_levels(model, model.subgraphs[0])
    return {index: count.tolist() for index, count in found.items()}


def levels_along(activation: int, zero_point: int, scale: float, *after: tuple) -> list[float]:
    """Levels of an int8 convolution, then of each (operator, scale, zero point) after it."""
    network = TinyModel()
    image = network.activation(SHAPE, 0.1)
    kernel = network.constant(np.ones((1, 3, 3, 1), np.int8), 0.1)
    path = [network.activation(SHAPE, scale, zero_point)]
    options = {"options": "Conv2DOptions", "fusedActivationFunction": activation}
    network.operator("CONV_2D", [image, kernel, -1], path[0], **options)
    for name, next_scale, next_zero_point in after:
        path.append(network.activation(SHAPE, next_scale, next_zero_point))
        network.operator(name, path[-2:-1], path[-1])
    found = levels(network.to_bytes([image], path[-1:]))
    assert found[image] == [256]
    return [count for tensor in path for count in found[tensor]]


@pytest.mark.parametrize(
    ("activation", "zero_point", "scale", "expected"),
    [
        (RELU, 112, 0.3, 16),  # [112, 127]
        (RELU, -128, 0.3, 256),  # [-128, 127]
        (RELU, 120, 0.3, 8),  # [120, 127]
        (RELU6, 112, 0.6, 11),  # 6 / 0.6 = 10: [112, 122]
        (RELU6, 112, 0.37, 16),  # 6 / 0.37 = 16.2, above 127: [112, 127]
        (RELU6, -128, 0.5, 13),  # 6 / 0.5 = 12: [-128, -116]
        (0, 112, 0.3, 256),  # nothing fused: the whole type
    ],
)
def test_a_fused_activation_bounds_an_int8_tensor(
    activation: int, zero_point: int, scale: float, expected: int
) -> None:
    assert levels_along(activation, zero_point, scale) == [expected]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(-120, 120, 16), (-120, 119, 17), (-121, 120, 15), (0, 0, 256)],
)
def test_a_pair_of_zero_points_bounds_a_signed_tensor_from_both_sides(
    before: int, after: int, expected: int
) -> None:
    """[-128, 127] moves by after - before and saturates at 127."""
    assert levels_along(0, before, 0.3, ("QUANTIZE", 0.3, after)) == [256, expected]


@pytest.mark.parametrize(
    "operator",
    ["MAX_POOL_2D", "PAD", "AVERAGE_POOL_2D", "MEAN", "RESHAPE", "TRANSPOSE", "CONCATENATION"],
)
def test_operators_that_move_or_average_keep_the_levels(operator: str) -> None:
    assert levels_along(RELU, 112, 0.3, (operator, 0.3, 112)) == [16, 16]


@pytest.mark.parametrize(("operator", "expected"), [("MAXIMUM", 16), ("MINIMUM", 256)])
def test_an_extremum_lies_where_its_inputs_let_it(operator: str, expected: int) -> None:
    """Of [-128, 127] and [112, 127] the larger is in [112, 127], the smaller in [-128, 127]."""
    network = TinyModel()
    image, clamped, joined = (network.activation(SHAPE, 0.3, 112) for _ in range(3))
    network.operator("RELU", [image], clamped)
    network.operator(operator, [image, clamped], joined)
    found = levels(network.to_bytes([image], [joined]))
    assert (found[clamped], found[joined]) == ([16], [expected])


def test_dequantize_keeps_the_levels_as_float() -> None:
    assert levels_along(RELU, 112, 0.3, ("DEQUANTIZE", None, 0)) == [16, 16]


def test_a_coarser_quantize_merges_levels() -> None:
    """[0, 15] * 0.3 in steps of 0.9 is [0, 5]: 6 levels."""
    assert levels_along(RELU, 112, 0.3, ("QUANTIZE", 0.9, -128)) == [16, 6]


def test_an_unknown_operator_may_give_anything() -> None:
    assert levels_along(RELU, 112, 0.3, ("LOGISTIC", 1 / 256, -128)) == [16, 256]


def test_a_float_chain_of_round_minimum_and_relu_is_counted_per_channel() -> None:
    """x / s -> ROUND -> MINIMUM [15, 7, 3] -> RELU -> * s: 16, 8 and 4 levels."""
    shape = (1, 2, 2, 3)
    network = TinyModel()

    def computed(name: str, *inputs: int) -> int:
        return network.operator(name, inputs, network.activation(shape))

    def channels(*values: float) -> int:
        return network.constant(np.array(values, np.float32))

    image = network.activation(shape)
    rounded = computed("ROUND", computed("MUL", image, channels(2, 4, 8)))
    clamped = computed("RELU", computed("MINIMUM", rounded, channels(15, 7, 3)))
    quantized = computed("MUL", clamped, channels(0.5, 0.25, 0.125))
    assert levels(network.to_bytes([image], [quantized])) == {
        clamped: [16, 8, 4],
        quantized: [16, 8, 4],
    }


def test_a_float_graph_without_bounds_has_no_levels() -> None:
    network = TinyModel()
    image, output = network.activation(SHAPE), network.activation(SHAPE)
    network.operator("RELU", [image], output)
    assert levels(network.to_bytes([image], [output])) == {}
