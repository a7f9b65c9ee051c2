"""Operators without weights: the numpy reference equals LiteRT, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from integer_reference import OPERATORS, run_reference
from operator_cases import (
    IMAGE,
    NONE,
    RELU,
    RELU6,
    SAME,
    SIXTEEN_LEVELS,
    VALID,
    Case,
    binary,
    concatenation,
    depth_to_space,
    extremum,
    pad,
    padv2,
    pool,
    prelu,
    reduction,
    reshape,
    resize,
    single,
    softmax,
    strided_slice,
    transpose,
    unary,
)
from reference_agreement import assert_same_tensors

from tflite_ptq4.converters.integer_operators import INT8_VERSIONS
from tflite_ptq4.converters.weight_layout import WEIGHT_AXES
from tflite_ptq4.tflite_fields import OPERATOR_NAMES

Build = Callable[[np.random.Generator], Case]

INTEGER_CASES: dict[str, Build] = {
    "add": lambda r: binary(r, "ADD", (0.1, 3), (0.05, -20), (0.12, 5)),
    "add_16_levels": lambda r: binary(r, "ADD", (0.1, 112), (0.1, 120), (0.1, 112), RELU),
    "add_saturating": lambda r: binary(r, "ADD", (0.5, 0), (0.001, 4), (0.01, 0)),
    # All sums are multiples of half an output step: only ties.
    "add_ties": lambda r: binary(r, "ADD", (1.0, 0), (1.0, 0), (2.0, 0)),
    "add_relu6": lambda r: binary(r, "ADD", (0.4, 112), (0.37, -3), (0.9, 112), RELU6),
    # Scales 2^10 apart and more leave XNNPACK.
    "add_far_apart": lambda r: binary(r, "ADD", (0.1, 3), (5e-5, -20), (0.12, 5), RELU),
    "sub": lambda r: binary(r, "SUB", (0.1, 3), (0.05, -20), (0.12, 5)),
    "sub_far_apart": lambda r: binary(r, "SUB", (1e-5, 3), (0.05, -20), (0.07, 5)),
    "mul": lambda r: binary(r, "MUL", (0.1, 3), (0.05, -20), (0.4, 5), RELU),
    "mul_far_apart": lambda r: binary(r, "MUL", (0.001, 3), (0.002, -20), (0.4, 5)),
    "minimum": lambda r: extremum(r, "MINIMUM", *SIXTEEN_LEVELS),
    "maximum": lambda r: extremum(r, "MAXIMUM", *SIXTEEN_LEVELS),
    "concatenation": lambda r: concatenation(r, *SIXTEEN_LEVELS),
    "quantize_to_signed_16_levels": lambda r: unary(r, "QUANTIZE", (0.1, -120), (0.1, 120)),
    "quantize_rescaling": lambda r: unary(r, "QUANTIZE", (0.1, 3), (0.07, -9)),
    "quantize_float": lambda r: single(r, "QUANTIZE", [(IMAGE,)], (IMAGE, *SIXTEEN_LEVELS)),
    "dequantize": lambda r: single(r, "DEQUANTIZE", [(IMAGE, 0.07, -9)], (IMAGE,)),
    "relu": lambda r: unary(r, "RELU", (0.1, 3), (0.07, -9)),
    "relu6": lambda r: unary(r, "RELU6", (0.11, 3), (0.37, 112)),
    "leaky_relu": lambda r: unary(r, "LEAKY_RELU", (0.05, 3), (0.04, -60), alpha=0.2),
    # 0.001 is less than one of XNNPACK's 256ths.
    "leaky_relu_faint": lambda r: unary(r, "LEAKY_RELU", (0.05, 3), (0.02, -90), alpha=0.001),
    "prelu": lambda r: prelu(r, (0.05, 3), (0.04, -20)),
    "elu": lambda r: unary(r, "ELU", (0.05, 3), (0.03, -90)),
    "gelu": lambda r: unary(r, "GELU", (0.05, 3), (0.03, -100), approximate=False),
    "gelu_approximate": lambda r: unary(r, "GELU", (0.05, 3), (0.03, -100), approximate=True),
    "hard_swish": lambda r: unary(r, "HARD_SWISH", (0.05, 3), (0.04, -110)),
    "hard_swish_fine": lambda r: unary(r, "HARD_SWISH", (0.002, 3), (0.001, 10)),
    # Steps above 3/256 leave less than 1 bit: the gate is shifted left, and saturates.
    "hard_swish_coarse": lambda r: unary(r, "HARD_SWISH", (0.9, -40), (0.9, -128)),
    "rsqrt": lambda r: unary(r, "RSQRT", (0.05, -128), (0.01, -128)),
    "rsqrt_of_few_levels": lambda r: unary(r, "RSQRT", (0.05, -128), (0.3, 3)),
    "logistic": lambda r: unary(r, "LOGISTIC", (0.05, 3), (1 / 256, -128)),
    "tanh": lambda r: unary(r, "TANH", (0.05, 3), (1 / 128, 0)),
    "softmax": lambda r: softmax(r, 0.11, 3),
    "max_pool_same": lambda r: pool(r, "MAX_POOL_2D", SAME, NONE, *SIXTEEN_LEVELS),
    "max_pool_valid_relu6": lambda r: pool(r, "MAX_POOL_2D", VALID, RELU6, 0.3, 7),
    "average_pool_same": lambda r: pool(r, "AVERAGE_POOL_2D", SAME, NONE, 0.3, -5),
    # 6/4 = 1.5: the builtin kernel clamps at -3 + 2, XNNPACK would at round(-1.5) = -2.
    "average_pool_relu6_tie": lambda r: pool(r, "AVERAGE_POOL_2D", VALID, RELU6, 4.0, -3),
    "mean": lambda r: reduction(r, "MEAN", 7, (0.1, 112), (0.3, 20)),
    # Steps of one 64th give exact ties, which round to even after the odd zero point is added.
    "mean_ties": lambda r: reduction(r, "MEAN", 8, (0.1, 3), (0.1, 3), keep=True),
    # Ratios of 2/3 and 10, with 36 and 100 positions: the order of the float32 steps decides.
    "mean_near_ties_36": lambda r: reduction(r, "MEAN", 6, (0.6, 112), (0.9, 20)),
    "mean_near_ties_100": lambda r: reduction(r, "MEAN", 10, (1.0, 5), (0.1, -8)),
    "reduce_max": lambda r: reduction(r, "REDUCE_MAX", 3, (0.1, 112), (0.1, 112)),
    **{
        f"{name.lower()}_{before}_to_{after}": lambda r, case=(name, before, after): resize(
            r, *case, SIXTEEN_LEVELS, centres=True
        )
        for name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
        for before, after in (((6, 5), (12, 10)), ((9, 7), (4, 11)), ((1, 4), (3, 1)))
    },
    "bilinear_aligned": lambda r: resize(
        r, "RESIZE_BILINEAR", (6, 5), (11, 13), (0.1, -3), align=True
    ),
    "bilinear_from_the_corner": lambda r: resize(r, "RESIZE_BILINEAR", (6, 5), (11, 13), (0.1, -3)),
    "nearest_aligned": lambda r: resize(
        r, "RESIZE_NEAREST_NEIGHBOR", (6, 5), (11, 13), (0.1, -3), align=True
    ),
    "nearest_from_the_corner": lambda r: resize(
        r, "RESIZE_NEAREST_NEIGHBOR", (6, 5), (11, 13), (0.1, -3)
    ),
    "pad": lambda r: pad(r, *SIXTEEN_LEVELS),
    "padv2": padv2,
    "reshape": lambda r: reshape(r, *SIXTEEN_LEVELS),
    "transpose": lambda r: transpose(r, *SIXTEEN_LEVELS),
    "strided_slice": lambda r: strided_slice(r, *SIXTEEN_LEVELS),
    "strided_slice_by_two": lambda r: strided_slice(r, *SIXTEEN_LEVELS, stride=2),
    "depth_to_space": lambda r: depth_to_space(r, *SIXTEEN_LEVELS),
}

_FLOAT_FUNCTIONS = ("ROUND", "NEG", "RELU", "RELU6", "LOGISTIC", "TANH", "ELU", "HARD_SWISH")
FLOAT_CASES: dict[str, Build] = {
    **{
        name.lower(): lambda r, name=name: binary(r, name, (), (), (), RELU)
        for name in ("ADD", "SUB", "MUL")
    },
    **{name.lower(): lambda r, name=name: extremum(r, name) for name in ("MINIMUM", "MAXIMUM")},
    **{name.lower(): lambda r, name=name: unary(r, name, (), ()) for name in _FLOAT_FUNCTIONS},
    "leaky_relu": lambda r: unary(r, "LEAKY_RELU", (), (), alpha=0.2),
    "gelu": lambda r: unary(r, "GELU", (), (), approximate=False),
    "prelu": lambda r: prelu(r, (), ()),
    "max_pool": lambda r: pool(r, "MAX_POOL_2D", SAME, NONE),
    "average_pool": lambda r: pool(r, "AVERAGE_POOL_2D", SAME, RELU6),
    "mean": lambda r: reduction(r, "MEAN", 7),
    "reduce_max": lambda r: reduction(r, "REDUCE_MAX", 3),
    "resize_bilinear": lambda r: resize(r, "RESIZE_BILINEAR", (6, 5), (11, 13), (), centres=True),
    "resize_nearest": lambda r: resize(r, "RESIZE_NEAREST_NEIGHBOR", (6, 5), (11, 13), ()),
    "softmax": softmax,
    "concatenation": concatenation,
    "pad": pad,
    "reshape": reshape,
    "transpose": transpose,
    "strided_slice": strided_slice,
    "depth_to_space": depth_to_space,
}


@pytest.mark.parametrize("name", INTEGER_CASES)
def test_integer_operators_equal_litert_bit_for_bit(name: str, rng: np.random.Generator) -> None:
    assert_same_tensors(INTEGER_CASES[name](rng))


@pytest.mark.parametrize("name", FLOAT_CASES)
def test_float_operators_equal_litert_to_rounding(name: str, rng: np.random.Generator) -> None:
    assert_same_tensors(FLOAT_CASES[name](rng), tolerance=1e-5)


GRIDS = st.tuples(st.floats(0.003, 0.5), st.integers(-128, 127))


@given(
    seed=st.integers(0, 999),
    name=st.sampled_from(["RELU", "ELU", "GELU", "HARD_SWISH", "LOGISTIC", "TANH", "LEAKY_RELU"]),
    source=GRIDS,
    output=GRIDS,
)
def test_functions_on_any_grid_equal_litert(
    seed: int, name: str, source: tuple[float, int], output: tuple[float, int]
) -> None:
    output = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(name, output)
    fields = {"GELU": {"approximate": bool(seed % 2)}, "LEAKY_RELU": {"alpha": 0.3}}.get(name, {})
    assert_same_tensors(unary(np.random.default_rng(seed), name, source, output, **fields))


@given(scale=st.floats(1e-4, 2.0), output=GRIDS)
def test_rsqrt_on_any_grid_equals_litert(scale: float, output: tuple[float, int]) -> None:
    """All 256 integers of an input that begins at zero."""
    model, _ = unary(np.random.default_rng(0), "RSQRT", (scale, -128), output)
    levels = np.resize(np.arange(-128, 128), IMAGE).astype(np.int8)
    assert_same_tensors((model, [levels]))


@given(
    seed=st.integers(0, 999),
    name=st.sampled_from(["ADD", "SUB", "MUL", "PRELU"]),
    first=GRIDS,
    second=GRIDS,
    output=GRIDS,
    activation=st.sampled_from([NONE, RELU, RELU6]),
)
def test_joins_on_any_grids_equal_litert(
    seed: int, name: str, first: tuple, second: tuple, output: tuple, activation: int
) -> None:
    rng = np.random.default_rng(seed)
    if name == "PRELU":
        assert_same_tensors(prelu(rng, first, output, slope=second[0] / 10))
    else:
        assert_same_tensors(binary(rng, name, first, second, output, activation))


@given(
    name=st.sampled_from(["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"]),
    before=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    after=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    mode=st.sampled_from([{}, {"align": True}, {"centres": True}]),
)
def test_resizing_of_any_size_equals_litert(
    name: str, before: tuple, after: tuple, mode: dict
) -> None:
    assert_same_tensors(resize(np.random.default_rng(0), name, before, after, (0.1, -3), **mode))


def operators_of(data: bytes) -> set[str]:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    return {OPERATOR_NAMES[code.builtinCode] for code in model.operatorCodes}


def test_every_operator_that_is_written_in_int8_is_compared(rng: np.random.Generator) -> None:
    written = {OPERATOR_NAMES[code] for code in INT8_VERSIONS} | {"QUANTIZE", "DEQUANTIZE"}
    compared = set().union(*(operators_of(build(rng)[0]) for build in INTEGER_CASES.values()))
    weighted = {OPERATOR_NAMES[code] for code in WEIGHT_AXES}  # see test_reference_weighted.py
    assert written - compared == weighted
    assert written - set(OPERATORS) == set()


def test_minus_120_to_120_leaves_the_sixteen_signed_levels(rng: np.random.Generator) -> None:
    """q - 120 covers -8..7: everything else saturates in one of the two steps."""
    values = run_reference(*INTEGER_CASES["quantize_to_signed_16_levels"](rng))[1]
    np.testing.assert_array_equal(np.unique(values.astype(int) - 120), np.arange(-8, 8))


def test_bilinear_halves_round_up(rng: np.random.Generator) -> None:
    """Halfway between -3 and 0 lies -1.5, rounded to -1; between 0 and 3 lies 1.5, to 2."""
    model, _ = resize(rng, "RESIZE_BILINEAR", (1, 3), (1, 5), (0.1, 0), align=True)
    image = np.repeat(np.array([-3, 0, 3], np.int8), 5).reshape(1, 1, 3, 5)
    values = run_reference(model, [image])[2]
    assert values[0, 0, :, 0].tolist() == [-3, -1, 0, 2, 3]
    assert_same_tensors((model, [image]))
