"""Operators with weights: the numpy reference equals LiteRT, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_reference import run_litert, run_reference
from operator_cases import (
    NONE,
    RELU,
    RELU6,
    RELU_N1_TO_1,
    SAME,
    SIXTEEN_LEVELS,
    VALID,
    Case,
)
from reference_agreement import assert_same_tensors
from tiny_tflite import TinyModel
from weighted_cases import (
    block,
    convolution,
    dense,
    float_transposed,
    float_weighted,
    folded_weights,
    transposed_convolution,
)

Build = Callable[[np.random.Generator], Case]

INTEGER_CASES: dict[str, Build] = {
    "conv_16_levels": lambda r: convolution(
        r, (12, 11, 5), 7, 3, SIXTEEN_LEVELS, activation=RELU, limit=7
    ),
    "conv_stride2_same": lambda r: convolution(r, (13, 12, 16), 15, 3, (0.1, 3), stride=2),
    "conv_stride2_valid_relu6": lambda r: convolution(
        r, (13, 12, 16), 15, 3, (0.37, 112), stride=2, padding=VALID, activation=RELU6
    ),
    "conv_groups": lambda r: convolution(r, (9, 9, 16), 24, 3, (0.05, -128), groups=4),
    "conv_dilated_5x5": lambda r: convolution(r, (20, 20, 8), 9, 5, (0.3, -120), dilation=3),
    "conv_per_tensor": lambda r: convolution(r, (9, 9, 5), 7, 3, (0.2, 7), per_channel=False),
    "conv_n1_to_1": lambda r: convolution(
        r, (9, 9, 5), 7, 3, (0.125, 120), activation=RELU_N1_TO_1
    ),
    # 6/4 + 111 = 112.5 is a tie: XNNPACK rounds it to 112, half away from zero would give 113.
    "conv_relu6_tie": lambda r: convolution(r, (9, 9, 5), 7, 3, (4.0, 111), activation=RELU6),
    "depthwise_16_levels": lambda r: convolution(
        r, (12, 12, 15), 15, 3, (0.3, 112), depthwise=True, activation=RELU, limit=7
    ),
    "depthwise_multiplier": lambda r: convolution(
        r, (13, 12, 8), 24, 5, (0.1, -3), depthwise=True, stride=2
    ),
    "depthwise_dilated": lambda r: convolution(
        r, (13, 12, 7), 7, 3, (0.1, -120), depthwise=True, dilation=2, padding=VALID
    ),
    "transposed_same": lambda r: transposed_convolution(r, (6, 5, 4), 7, 3, (0.1, 3)),
    "transposed_valid_relu": lambda r: transposed_convolution(
        r, (6, 5, 4), 7, 2, (0.1, 112), padding=VALID, activation=RELU
    ),
    "transposed_per_tensor": lambda r: transposed_convolution(
        r, (6, 5, 4), 7, 4, (0.1, -3), stride=1, per_channel=False
    ),
    "transposed_beyond_the_kernels": lambda r: transposed_convolution(
        r, (6, 5, 4), 7, 2, (0.1, 3), stride=3, padding=VALID, beyond=1
    ),
    # XNNPACK leaves kernels smaller than the stride to the builtin kernel.
    "transposed_with_gaps": lambda r: transposed_convolution(
        r, (9, 9, 8), 12, 2, (0.004, -20), stride=3
    ),
    "dense": lambda r: dense(r, (16, 127), 31),
    "dense_flattening": lambda r: dense(r, (1, 8, 8, 4), 31, bias=False, activation=RELU6),
    "int4_dense": lambda r: dense(r, (16, 128), 31, packed=True),
    "int4_dense_per_tensor": lambda r: dense(r, (16, 128), 31, packed=True, per_channel=False),
    "int4_dense_of_odd_width": lambda r: dense(r, (16, 127), 31, packed=True, output=(0.05, 9)),
    "int4_pointwise": lambda r: dense(
        r, (1, 9, 9, 32), 31, keep=True, packed=True, activation=RELU, output=(0.1, 112)
    ),
    # Negative halves tell apart the two ways in which the builtin kernels round.
    **{
        f"int4_{name}": lambda r, options=options: convolution(
            r, (20, 20, 12), output=(0.02, 20), packed=True, limit=7, **options
        )
        for name, options in {
            "conv": {"filters": 15, "kernel": 3},
            "conv_relu": {"filters": 15, "kernel": 3, "activation": RELU},
            "conv_1x1_per_tensor": {"filters": 9, "kernel": 1, "per_channel": False},
            "conv_stride2_valid": {"filters": 7, "kernel": 4, "stride": 2, "padding": VALID},
            "conv_dilated": {"filters": 7, "kernel": 3, "dilation": 2},
            "conv_groups": {"filters": 9, "kernel": 3, "groups": 3},
            # 12 channels: 8 in vectors, the other 4 one by one.
            "depthwise": {"filters": 12, "kernel": 3, "depthwise": True},
            "depthwise_multiplier": {"filters": 36, "kernel": 2, "depthwise": True, "stride": 2},
            "depthwise_dilated": {"filters": 12, "kernel": 3, "depthwise": True, "dilation": 3},
        }.items()
    },
    "block": block,
}

FLOAT_CASES: dict[str, Build] = {
    **{
        name.lower(): lambda r, name=name: float_weighted(r, name)
        for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    },
    "transpose_conv": float_transposed,
    "folded_weights": folded_weights,
}


@pytest.mark.parametrize("name", INTEGER_CASES)
def test_integer_operators_equal_litert_bit_for_bit(name: str, rng: np.random.Generator) -> None:
    assert_same_tensors(INTEGER_CASES[name](rng))


@pytest.mark.parametrize("name", FLOAT_CASES)
def test_float_operators_equal_litert_to_rounding(name: str, rng: np.random.Generator) -> None:
    assert_same_tensors(FLOAT_CASES[name](rng), tolerance=1e-5)


@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(3, 9), st.integers(3, 9), st.integers(1, 19)),
    filters=st.integers(1, 3),
    kernel=st.integers(1, 3),
    output=st.tuples(st.floats(0.005, 0.5), st.integers(-128, 127)),
    stride=st.integers(1, 2),
    padding=st.sampled_from([SAME, VALID]),
    activation=st.sampled_from([NONE, RELU, RELU6]),
    depthwise=st.booleans(),
    packed=st.booleans(),
)
def test_convolutions_of_any_shape_equal_litert(
    seed: int, shape: tuple, filters: int, depthwise: bool, packed: bool, **options
) -> None:
    rng = np.random.default_rng(seed)
    filters = shape[-1] * filters if depthwise else 4 * filters + 1
    limit = 7 if packed else 127
    case = convolution(
        rng, shape, filters, depthwise=depthwise, packed=packed, limit=limit, **options
    )
    assert_same_tensors(case)


def test_packed_weights_unpack_low_nibble_first() -> None:
    model = TinyModel()
    source, result = model.activation((1, 3), 1.0), model.activation((1, 1), 1.0)
    held = model.constant(np.array([[-8, 7, 1]], np.int8), 1.0, packed=True)
    model.operator("FULLY_CONNECTED", [source, held, -1], result, "FullyConnectedOptions")
    outputs = run_reference(model.to_bytes([source], [result]), [np.array([[1, 2, 3]], np.int8)])
    assert outputs[held].tolist() == [[-8, 7, 1]]
    assert outputs[result].tolist() == [[1 * -8 + 2 * 7 + 3 * 1]]


def test_requantization_by_hand() -> None:
    """acc = (12 - 2) * 3 - 10 = 20; 20 * (0.5 * 0.25 / 1) = 2.5, to even 2; 2 + 112 = 114."""
    model = TinyModel()
    source, result = model.activation((1, 1), 0.5, 2), model.activation((1, 1), 1.0, 112)
    held = model.constant(np.array([[3]], np.int8), 0.25)
    bias = model.constant(np.array([-10], np.int32), 0.125)
    model.operator("FULLY_CONNECTED", [source, held, bias], result, "FullyConnectedOptions")
    case = model.to_bytes([source], [result]), [np.array([[12]], np.int8)]
    assert run_reference(*case)[result].item() == 114
    assert run_litert(*case)[result].item() == 114


def test_transposed_convolution_by_hand() -> None:
    """One row, stride 2, kernel [1, 2, 3] on [1, 10]: 1 2 3 0 0 plus 0 0 10 20 30.

    SAME cuts 5 positions to 4, the odd one at the end.
    """
    model = TinyModel()
    source, result = model.activation((1, 1, 2, 1), 1.0), model.activation((1, 1, 4, 1), 1.0)
    wanted = model.constant(np.array([1, 1, 4, 1], np.int32))
    kernel = model.constant(np.array([1, 2, 3], np.int8).reshape(1, 1, 3, 1), 1.0)
    model.operator(
        "TRANSPOSE_CONV",
        [wanted, kernel, source],
        result,
        "TransposeConvOptions",
        3,
        padding=SAME,
        strideH=1,
        strideW=2,
    )
    case = model.to_bytes([source], [result]), [np.array([1, 10], np.int8).reshape(1, 1, 2, 1)]
    assert run_reference(*case)[result].ravel().tolist() == [1, 2, 13, 20]
    assert run_litert(*case)[result].ravel().tolist() == [1, 2, 13, 20]


def test_zero_point_112_after_relu_leaves_sixteen_levels(rng: np.random.Generator) -> None:
    values = run_reference(*INTEGER_CASES["conv_16_levels"](rng))[3]
    np.testing.assert_array_equal(np.unique(values), np.arange(112, 128))


@pytest.mark.parametrize("depthwise", [False, True])
def test_int4_convolutions_do_round_otherwise_than_xnnpack(
    depthwise: bool, rng: np.random.Generator
) -> None:
    """The same integers as int8 differ in a few of a hundred outputs, by one."""
    outputs = [
        run_litert(
            *convolution(
                np.random.default_rng(0),
                (20, 20, 15),
                15,
                3,
                (0.05, -20),
                depthwise=depthwise,
                packed=packed,
                limit=7,
            )
        )[3].astype(int)
        for packed in (False, True)
    ]
    apart = np.abs(outputs[0] - outputs[1])
    assert apart.max() == 1
    assert 0 < np.mean(apart) < 0.05
