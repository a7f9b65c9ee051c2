"""The numpy reference agrees with LiteRT, operator by operator, so other tests may lean on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from integer_reference import expose_all_tensors, run_litert, run_reference
from tiny_tflite import TinyModel

NONE = schema.ActivationFunctionType.NONE
RELU = schema.ActivationFunctionType.RELU
RELU_N1_TO_1 = schema.ActivationFunctionType.RELU_N1_TO_1
RELU6 = schema.ActivationFunctionType.RELU6
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID

# A model and its inputs; an activation is (shape, scale, zero point), or (shape,) for float32.
Case = tuple[bytes, list[np.ndarray]]
Activation = tuple

IMAGE = (1, 24, 22, 5)
SIXTEEN_LEVELS = (0.21, 112)


def random_input(rng: np.random.Generator, activation: Activation) -> np.ndarray:
    if len(activation) == 1:
        return (4 * rng.normal(size=activation[0])).astype(np.float32)
    return rng.integers(-128, 128, activation[0]).astype(np.int8)


def single(
    rng: np.random.Generator,
    name: str,
    inputs: Sequence[Activation],
    output: Activation,
    options: str | None = None,
    constants: Sequence[np.ndarray] = (),
    **fields: object,
) -> Case:
    """One operator on random inputs, its constants last."""
    model = TinyModel()
    fed = [model.activation(*activation) for activation in inputs]
    held = [model.constant(values) for values in constants]
    result = model.activation(*output)
    # LiteRT has RESHAPE and ROUND in version 1 only.
    version = 1 if name in ("RESHAPE", "ROUND") else 2
    model.operator(name, [*fed, *held], result, options, version, **fields)
    values = [random_input(rng, activation) for activation in inputs]
    return model.to_bytes(fed, [result]), values


def convolution(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    filters: int,
    kernel: int,
    output: tuple[float, int],
    *,
    depthwise: bool = False,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: int = SAME,
    activation: int = NONE,
    per_channel: bool = True,
    packed: bool = False,
    limit: int = 127,
) -> Case:
    """CONV_2D, or DEPTHWISE_CONV_2D with `filters` output channels, from zero point -5."""
    channels, scale_in = shape[-1], 0.03
    reach = (kernel - 1) * dilation + 1
    sides = [-(-n // stride) if padding == SAME else (n - reach) // stride + 1 for n in shape[:2]]
    dims = (filters, kernel, kernel, channels // groups)
    if depthwise:
        dims = (1, kernel, kernel, filters)
    weights = rng.integers(-limit, limit + 1, dims).astype(np.int8)
    # Output levels stay in view whatever the range of the weights.
    scales = rng.uniform(0.05, 1.0, filters if per_channel else 1) / limit
    model = TinyModel()
    source = model.activation((1, *shape), scale_in, -5)
    held = model.constant(weights, scales, axis=3 if depthwise else 0, packed=packed)
    bias = model.constant(
        rng.integers(-20 * limit, 20 * limit, filters).astype(np.int32),
        np.float32(scale_in) * scales.astype(np.float32),
    )
    result = model.activation((1, *sides, filters), *output)
    options = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    multiplier = {"depthMultiplier": filters // channels} if depthwise else {}
    model.operator(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [source, held, bias],
        result,
        options,
        # INT4 needs version 7; LiteRT also loads it from files that say 6.
        6 if packed else 3,
        padding=padding,
        strideH=stride,
        strideW=stride,
        dilationHFactor=dilation,
        dilationWFactor=dilation,
        fusedActivationFunction=activation,
        **multiplier,
    )
    return model.to_bytes([source], [result]), [random_input(rng, ((1, *shape), scale_in, -5))]


def dense(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    units: int,
    *,
    keep: bool = False,
    packed: bool = False,
    per_channel: bool = True,
    bias: bool = True,
    activation: int = NONE,
    output: tuple[float, int] = (0.3, 4),
) -> Case:
    """FULLY_CONNECTED; without `keep`, all but the batch is flattened."""
    limit = 7 if packed else 127
    inner = shape[-1] if keep else int(np.prod(shape[1:]))
    scales = rng.uniform(0.05, 1.0, units if per_channel else 1) / limit
    model = TinyModel()
    source = model.activation(shape, 0.03, -5)
    weights = rng.integers(-limit, limit + 1, (units, inner)).astype(np.int8)
    held = model.constant(weights, scales, packed=packed)
    offset = -1
    if bias:
        values = rng.integers(-300, 300, units).astype(np.int32)
        offset = model.constant(values, np.float32(0.03) * scales.astype(np.float32))
    result = model.activation((*shape[:-1], units) if keep else (shape[0], units), *output)
    model.operator(
        "FULLY_CONNECTED",
        [source, held, offset],
        result,
        "FullyConnectedOptions",
        10 if packed else 5,
        keepNumDims=keep,
        fusedActivationFunction=activation,
    )
    return model.to_bytes([source], [result]), [random_input(rng, (shape, 0.03, -5))]


def binary(
    rng: np.random.Generator,
    name: str,
    first: tuple[float, int],
    second: tuple[float, int],
    output: tuple[float, int],
    activation: int = NONE,
) -> Case:
    return single(
        rng,
        name,
        [(IMAGE, *first), (IMAGE, *second)],
        (IMAGE, *output),
        name.title() + "Options",
        fusedActivationFunction=activation,
    )


def unary(
    rng: np.random.Generator, name: str, source: tuple[float, int], output: tuple[float, int]
) -> Case:
    return single(rng, name, [(IMAGE, *source)], (IMAGE, *output))


def extremum(rng: np.random.Generator, name: str, *grid: float) -> Case:
    operand = (IMAGE, *grid)
    return single(rng, name, [operand, operand], operand, "MaximumMinimumOptions")


def folded_weights(rng: np.random.Generator) -> Case:
    """DEQUANTIZE of an INT8 per-channel constant into a float CONV_2D: weight-only storage."""
    model = TinyModel()
    stored = rng.integers(-7, 8, (7, 3, 3, 5)).astype(np.int8)
    held = model.constant(stored, rng.uniform(0.01, 0.2, 7))
    source, weights = model.activation(IMAGE), model.activation((7, 3, 3, 5))
    result = model.activation((*IMAGE[:3], 7))
    bias = model.constant(rng.normal(size=7).astype(np.float32))
    model.operator("DEQUANTIZE", [held], weights, version=2)
    model.operator(
        "CONV_2D",
        [source, weights, bias],
        result,
        "Conv2DOptions",
        padding=SAME,
        strideH=1,
        strideW=1,
    )
    return model.to_bytes([source], [result]), [random_input(rng, (IMAGE,))]


def pool(rng: np.random.Generator, name: str, padding: int, activation: int, *grid: float) -> Case:
    sides = (12, 11) if padding == SAME else (11, 10)
    return single(
        rng,
        name,
        [(IMAGE, *grid)],
        ((1, *sides, 5), *grid),
        "Pool2DOptions",
        padding=padding,
        strideH=2,
        strideW=2,
        filterHeight=3,
        filterWidth=3,
        fusedActivationFunction=activation,
    )


def mean(
    rng: np.random.Generator,
    side: int,
    source: Sequence[float] = (),
    output: Sequence[float] = (),
    *,
    keep: bool = False,
) -> Case:
    shape = (1, 1, 1, 601) if keep else (1, 601)
    return single(
        rng,
        "MEAN",
        [((1, side, side, 601), *source)],
        (shape, *output),
        "ReducerOptions",
        [np.array([1, 2], np.int32)],
        keepDims=keep,
    )


def softmax(rng: np.random.Generator, *grid: float) -> Case:
    output = (1 / 256, -128) if grid else ()
    shape = (200, 10)
    return single(rng, "SOFTMAX", [(shape, *grid)], (shape, *output), "SoftmaxOptions", beta=1.0)


def concatenation(rng: np.random.Generator, *grid: float, activation: int = NONE) -> Case:
    return single(
        rng,
        "CONCATENATION",
        [((1, 8, 8, 5), *grid), ((1, 8, 8, 3), *grid)],
        ((1, 8, 8, 8), *grid),
        "ConcatenationOptions",
        axis=-1,
        fusedActivationFunction=activation,
    )


def pad(rng: np.random.Generator, *grid: float) -> Case:
    widths = np.array([[0, 0], [1, 2], [0, 3], [0, 0]], np.int32)
    return single(
        rng, "PAD", [((1, 8, 8, 5), *grid)], ((1, 11, 11, 5), *grid), "PadOptions", [widths]
    )


def padv2(rng: np.random.Generator) -> Case:
    model = TinyModel()
    source = model.activation((1, 8, 8, 5), *SIXTEEN_LEVELS)
    widths = model.constant(np.array([[0, 0], [1, 2], [0, 3], [0, 0]], np.int32))
    fill = model.constant(np.array(-7, np.int8), *SIXTEEN_LEVELS)
    result = model.activation((1, 11, 11, 5), *SIXTEEN_LEVELS)
    model.operator("PADV2", [source, widths, fill], result, "PadV2Options", 2)
    return model.to_bytes([source], [result]), [random_input(rng, ((1, 8, 8, 5), 1.0, 0))]


def reshape(rng: np.random.Generator, *grid: float) -> Case:
    shape = np.array([1, 320], np.int32)
    return single(
        rng,
        "RESHAPE",
        [((1, 8, 8, 5), *grid)],
        ((1, 320), *grid),
        "ReshapeOptions",
        [shape],
        newShape=shape,
    )


def transpose(rng: np.random.Generator, *grid: float) -> Case:
    order = np.array([0, 3, 1, 2], np.int32)
    return single(
        rng,
        "TRANSPOSE",
        [((1, 8, 9, 5), *grid)],
        ((1, 5, 8, 9), *grid),
        "TransposeOptions",
        [order],
    )


def float_weighted(rng: np.random.Generator, name: str) -> Case:
    shape = {
        "CONV_2D": (7, 3, 3, 5),
        "DEPTHWISE_CONV_2D": (1, 3, 3, 5),
        "FULLY_CONNECTED": (7, 5),
    }[name]
    options = {
        "CONV_2D": "Conv2DOptions",
        "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
        "FULLY_CONNECTED": "FullyConnectedOptions",
    }[name]
    fields = {"padding": SAME, "strideH": 1, "strideW": 1}
    if name == "DEPTHWISE_CONV_2D":
        fields["depthMultiplier"] = 1
    if name == "FULLY_CONNECTED":
        fields = {"keepNumDims": True}
    units = 5 if name == "DEPTHWISE_CONV_2D" else 7
    constants = [rng.normal(size=s).astype(np.float32) for s in (shape, units)]
    return single(
        rng,
        name,
        [(IMAGE,)],
        ((*IMAGE[:3], units),),
        options,
        constants,
        fusedActivationFunction=RELU6,
        **fields,
    )


def block(rng: np.random.Generator, batch: int = 1) -> Case:
    """conv(zp 112) -> 1x1 as INT4 FULLY_CONNECTED -> -120 to 120 pair -> ADD -> MEAN -> FC."""
    model = TinyModel()

    def weights(shape: tuple[int, ...], scale_in: float, packed: bool = False) -> list[int]:
        scales = rng.uniform(0.01, 0.2, shape[0]).astype(np.float32)
        values = rng.integers(-7, 8, shape).astype(np.int8)
        bias = rng.integers(-50, 50, shape[0]).astype(np.int32)
        return [
            model.constant(values, scales, packed=packed),
            model.constant(bias, np.float32(scale_in) * scales),
        ]

    image = model.activation((batch, 12, 12, 3), 0.02, -3)
    stem = model.activation((batch, 12, 12, 8), *SIXTEEN_LEVELS)
    model.operator(
        "CONV_2D",
        [image, *weights((8, 3, 3, 3), 0.02)],
        stem,
        "Conv2DOptions",
        3,
        padding=SAME,
        strideH=1,
        strideW=1,
        fusedActivationFunction=RELU,
    )
    projected = model.activation((batch, 12, 12, 8), 0.3, -120)
    model.operator(
        "FULLY_CONNECTED",
        [stem, *weights((8, 8), SIXTEEN_LEVELS[0], packed=True)],
        projected,
        "FullyConnectedOptions",
        10,
        keepNumDims=True,
    )
    signed = model.activation((batch, 12, 12, 8), 0.3, 120)
    model.operator("QUANTIZE", [projected], signed)
    joined = model.activation((batch, 12, 12, 8), 0.35, 112)
    model.operator("ADD", [stem, signed], joined, "AddOptions", 2, fusedActivationFunction=RELU)
    pooled = model.activation((batch, 8), 0.1, 0)
    axes = model.constant(np.array([1, 2], np.int32))
    model.operator("MEAN", [joined, axes], pooled, "ReducerOptions", 2)
    logits = model.activation((batch, 5), 0.05, 3)
    model.operator(
        "FULLY_CONNECTED", [pooled, *weights((5, 8), 0.1)], logits, "FullyConnectedOptions"
    )
    inputs = [random_input(rng, ((batch, 12, 12, 3), 0.02, -3))]
    return model.to_bytes([image], [logits]), inputs


INTEGER_CASES: dict[str, Callable[[np.random.Generator], Case]] = {
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
    "dense": lambda r: dense(r, (16, 127), 31),
    "dense_int4": lambda r: dense(r, (16, 128), 31, packed=True),
    "dense_int4_per_tensor": lambda r: dense(r, (16, 128), 31, packed=True, per_channel=False),
    "dense_flattening": lambda r: dense(r, (1, 8, 8, 4), 31, bias=False, activation=RELU6),
    "pointwise_int4": lambda r: dense(
        r, (1, 9, 9, 32), 31, keep=True, packed=True, activation=RELU, output=(0.1, 112)
    ),
    "add": lambda r: binary(r, "ADD", (0.1, 3), (0.05, -20), (0.12, 5)),
    "add_16_levels": lambda r: binary(r, "ADD", (0.1, 112), (0.1, 120), (0.1, 112), RELU),
    "add_saturating": lambda r: binary(r, "ADD", (0.5, 0), (0.001, 4), (0.01, 0)),
    # All sums are multiples of half an output step: only ties.
    "add_ties": lambda r: binary(r, "ADD", (1.0, 0), (1.0, 0), (2.0, 0)),
    "add_relu6": lambda r: binary(r, "ADD", (0.4, 112), (0.37, -3), (0.9, 112), RELU6),
    "sub": lambda r: binary(r, "SUB", (0.1, 3), (0.05, -20), (0.12, 5)),
    "mul": lambda r: binary(r, "MUL", (0.1, 3), (0.05, -20), (0.4, 5), RELU),
    "quantize_to_signed_16_levels": lambda r: unary(r, "QUANTIZE", (0.1, -120), (0.1, 120)),
    "quantize_rescaling": lambda r: unary(r, "QUANTIZE", (0.1, 3), (0.07, -9)),
    "quantize_float": lambda r: single(r, "QUANTIZE", [(IMAGE,)], (IMAGE, *SIXTEEN_LEVELS)),
    "dequantize": lambda r: single(r, "DEQUANTIZE", [(IMAGE, 0.07, -9)], (IMAGE,)),
    "relu": lambda r: unary(r, "RELU", (0.1, 3), (0.07, -9)),
    "relu6": lambda r: unary(r, "RELU6", (0.11, 3), (0.37, 112)),
    "logistic": lambda r: unary(r, "LOGISTIC", (0.05, 3), (1 / 256, -128)),
    "tanh": lambda r: unary(r, "TANH", (0.05, 3), (1 / 128, 0)),
    "softmax": lambda r: softmax(r, 0.11, 3),
    "max_pool_same": lambda r: pool(r, "MAX_POOL_2D", SAME, NONE, *SIXTEEN_LEVELS),
    "max_pool_valid_relu6": lambda r: pool(r, "MAX_POOL_2D", VALID, RELU6, 0.3, 7),
    "average_pool_same": lambda r: pool(r, "AVERAGE_POOL_2D", SAME, NONE, 0.3, -5),
    # 6/4 = 1.5: the builtin kernel clamps at -3 + 2, XNNPACK would at round(-1.5) = -2.
    "average_pool_relu6_tie": lambda r: pool(r, "AVERAGE_POOL_2D", VALID, RELU6, 4.0, -3),
    "mean": lambda r: mean(r, 7, (0.1, 112), (0.3, 20)),
    # Steps of one 64th give exact ties, which round to even after the odd zero point is added.
    "mean_ties": lambda r: mean(r, 8, (0.1, 3), (0.1, 3), keep=True),
    # Ratios of 2/3 and 10, with 36 and 100 positions: the order of the float32 steps decides.
    "mean_near_ties_36": lambda r: mean(r, 6, (0.6, 112), (0.9, 20)),
    "mean_near_ties_100": lambda r: mean(r, 10, (1.0, 5), (0.1, -8)),
    "minimum": lambda r: extremum(r, "MINIMUM", *SIXTEEN_LEVELS),
    "maximum": lambda r: extremum(r, "MAXIMUM", *SIXTEEN_LEVELS),
    "concatenation": lambda r: concatenation(r, *SIXTEEN_LEVELS),
    "pad": lambda r: pad(r, *SIXTEEN_LEVELS),
    "padv2": padv2,
    "reshape": lambda r: reshape(r, *SIXTEEN_LEVELS),
    "transpose": lambda r: transpose(r, *SIXTEEN_LEVELS),
    "block": block,
}

FLOAT_CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    **{
        name.lower(): lambda r, name=name: float_weighted(r, name)
        for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    },
    **{
        name.lower(): lambda r, name=name: binary(r, name, (), (), (), RELU)
        for name in ("ADD", "SUB", "MUL")
    },
    **{name.lower(): lambda r, name=name: extremum(r, name) for name in ("MINIMUM", "MAXIMUM")},
    **{
        name.lower(): lambda r, name=name: unary(r, name, (), ())
        for name in ("ROUND", "RELU", "RELU6", "LOGISTIC", "TANH")
    },
    "folded_weights": folded_weights,
    "max_pool": lambda r: pool(r, "MAX_POOL_2D", SAME, NONE),
    "average_pool": lambda r: pool(r, "AVERAGE_POOL_2D", SAME, RELU6),
    "mean": lambda r: mean(r, 7),
    "softmax": softmax,
    "concatenation": concatenation,
    "pad": pad,
    "reshape": reshape,
    "transpose": transpose,
}


def assert_same_tensors(case: Case, tolerance: float = 0.0) -> None:
    model, inputs = case
    expected = run_litert(model, inputs)
    actual = run_reference(model, inputs)
    assert expected
    for index, value in expected.items():
        assert actual[index].dtype == value.dtype
        if tolerance:
            np.testing.assert_allclose(actual[index], value, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(actual[index], value, err_msg=f"tensor {index}")


@pytest.mark.parametrize("name", INTEGER_CASES)
def test_integer_operators_equal_litert_bit_for_bit(name: str, rng: np.random.Generator) -> None:
    assert_same_tensors(INTEGER_CASES[name](rng))


@pytest.mark.parametrize("name", FLOAT_CASES)
def test_float_operators_equal_litert_to_rounding(name: str, rng: np.random.Generator) -> None:
    assert_same_tensors(FLOAT_CASES[name](rng), tolerance=1e-5)


@pytest.mark.parametrize("depthwise", [False, True])
def test_packed_int4_convolutions_are_within_one_level(
    depthwise: bool, rng: np.random.Generator
) -> None:
    model, inputs = convolution(
        rng, (20, 20, 15), 15, 3, (0.05, -20), depthwise=depthwise, packed=True, limit=7
    )
    (expected,) = run_litert(model, inputs).values()
    gap = np.abs(run_reference(model, inputs)[3].astype(int) - expected)
    assert gap.max() <= 1
    assert np.mean(gap) < 0.05


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


def test_zero_point_112_after_relu_leaves_sixteen_levels(rng: np.random.Generator) -> None:
    values = run_reference(*INTEGER_CASES["conv_16_levels"](rng))[3]
    np.testing.assert_array_equal(np.unique(values), np.arange(112, 128))


def test_minus_120_to_120_leaves_the_sixteen_signed_levels(rng: np.random.Generator) -> None:
    """q - 120 covers -8..7: everything else saturates in one of the two steps."""
    values = run_reference(*INTEGER_CASES["quantize_to_signed_16_levels"](rng))[1]
    np.testing.assert_array_equal(np.unique(values.astype(int) - 120), np.arange(-8, 8))


def test_a_larger_batch_is_the_stack_of_its_images(rng: np.random.Generator) -> None:
    model, _ = block(rng)
    images = rng.integers(-128, 128, (3, 12, 12, 3)).astype(np.int8)
    together = run_reference(model, [images])
    for index in run_litert(model, [images[:1]]):
        alone = [run_reference(model, [image[None]])[index] for image in images]
        np.testing.assert_array_equal(together[index], np.concatenate(alone))


def test_reshape_carries_a_larger_batch(rng: np.random.Generator) -> None:
    model, _ = reshape(rng, *SIXTEEN_LEVELS)
    images = rng.integers(-128, 128, (3, 8, 8, 5)).astype(np.int8)
    (result,) = run_litert(model, [images[:1]])
    np.testing.assert_array_equal(run_reference(model, [images])[result], images.reshape(3, 320))


def test_exposing_tensors_keeps_the_outputs_first_and_unchanged(rng: np.random.Generator) -> None:
    model, inputs = block(rng)
    exposed = run_litert(model, inputs)
    graph = schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0]
    assert next(iter(exposed)) == graph.outputs[0]
    assert set(exposed) == {index for node in graph.operators for index in node.outputs}

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs[0])
    interpreter.invoke()
    (logits,) = interpreter.get_output_details()
    np.testing.assert_array_equal(interpreter.get_tensor(logits["index"]), exposed[logits["index"]])


def test_what_depends_on_constants_alone_stays_hidden(rng: np.random.Generator) -> None:
    model, inputs = folded_weights(rng)
    dequantize, convolve = schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0].operators
    assert list(run_litert(model, inputs)) == convolve.outputs.tolist()
    assert dequantize.outputs[0] in run_reference(model, inputs)


def test_exposing_tensors_twice_changes_nothing(rng: np.random.Generator) -> None:
    once = expose_all_tensors(block(rng)[0])
    graphs = [
        schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0]
        for model in (once, expose_all_tensors(once))
    ]
    assert graphs[0].outputs.tolist() == graphs[1].outputs.tolist()


UNSUPPORTED = {
    "unknown_operator": (lambda r: unary(r, "HARD_SWISH", (0.1, 0), (0.1, 0)), "HARD_SWISH"),
    "mixed_dtypes": (
        lambda r: single(r, "ADD", [(IMAGE,), (IMAGE, 0.1, 0)], (IMAGE,), "AddOptions"),
        "ADD .*mix float32, int8, float32",
    ),
    "unequal_grids": (
        lambda r: single(
            r,
            "MAXIMUM",
            [(IMAGE, 0.1, 0), (IMAGE, 0.2, 0)],
            (IMAGE, 0.1, 0),
            "MaximumMinimumOptions",
        ),
        "MAXIMUM .*another scale",
    ),
    "quantize_ratio": (lambda r: unary(r, "QUANTIZE", (0.1, 0), (50.0, 0)), "QUANTIZE .*ratio"),
    "add_ratio": (
        lambda r: binary(r, "ADD", (0.1, 0), (1e-5, 0), (0.1, 0)),
        "ADD .*ratio",
    ),
    "concatenation_activation": (
        lambda r: concatenation(r, *SIXTEEN_LEVELS, activation=RELU),
        "CONCATENATION .*ignores",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_has_no_reference_is_refused_by_name(name: str, rng: np.random.Generator) -> None:
    build, message = UNSUPPORTED[name]
    with pytest.raises(NotImplementedError, match=message):
        run_reference(*build(rng))


def test_inputs_of_another_dtype_are_refused(rng: np.random.Generator) -> None:
    model, _ = block(rng)
    with pytest.raises(TypeError, match="must be int8, got float32"):
        run_reference(model, [np.zeros((1, 12, 12, 3), np.float32)])


def test_the_reference_loads_neither_the_package_nor_tensorflow() -> None:
    import integer_reference

    program = (
        "import sys, integer_reference; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(integer_reference.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "integer_reference" in loaded
    assert not {"tflite_ptq4", "tensorflow", "keras"} & set(loaded)
