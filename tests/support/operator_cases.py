"""Small files of one operator, and random inputs for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from tiny_tflite import TinyModel

NONE = schema.ActivationFunctionType.NONE
RELU = schema.ActivationFunctionType.RELU
RELU_N1_TO_1 = schema.ActivationFunctionType.RELU_N1_TO_1
RELU6 = schema.ActivationFunctionType.RELU6
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID

# A model and its inputs; an activation is (shape, scale, zero point), or (shape,) for float32.
Case = tuple[bytes, list[np.ndarray]]
Activation = tuple
Grid = tuple[float, int]

IMAGE = (1, 24, 22, 5)
SIXTEEN_LEVELS = (0.21, 112)
# LiteRT has these in version 1 only.
_FIRST_VERSIONS = {"RESHAPE", "ROUND", "NEG", "ELU", "PRELU", "HARD_SWISH", "DEPTH_TO_SPACE"}


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
    version = 1 if name in _FIRST_VERSIONS else 2
    model.operator(name, [*fed, *held], result, options, version, **fields)
    values = [random_input(rng, activation) for activation in inputs]
    return model.to_bytes(fed, [result]), values


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


_FUNCTION_OPTIONS = {
    "LEAKY_RELU": "LeakyReluOptions",
    "GELU": "GeluOptions",
    "HARD_SWISH": "HardSwishOptions",
}


def unary(
    rng: np.random.Generator, name: str, source: Sequence[float], output: Sequence[float], **fields
) -> Case:
    options = _FUNCTION_OPTIONS.get(name)
    return single(rng, name, [(IMAGE, *source)], (IMAGE, *output), options, **fields)


def prelu(
    rng: np.random.Generator,
    source: Sequence[float],
    output: Sequence[float],
    slope: float = 0.01,
) -> Case:
    """One slope per channel, within 127 steps of `slope`."""
    model = TinyModel()
    image, result = model.activation(IMAGE, *source), model.activation(IMAGE, *output)
    if source:
        held = model.constant(rng.integers(-127, 128, (1, 1, 5)).astype(np.int8), slope)
    else:
        held = model.constant(rng.normal(size=(1, 1, 5)).astype(np.float32))
    model.operator("PRELU", [image, held], result)
    return model.to_bytes([image], [result]), [random_input(rng, (IMAGE, *source))]


def extremum(rng: np.random.Generator, name: str, *grid: float) -> Case:
    operand = (IMAGE, *grid)
    return single(rng, name, [operand, operand], operand, "MaximumMinimumOptions")


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


def reduction(
    rng: np.random.Generator,
    name: str,
    side: int,
    source: Sequence[float] = (),
    output: Sequence[float] = (),
    *,
    keep: bool = False,
) -> Case:
    shape = (1, 1, 1, 601) if keep else (1, 601)
    return single(
        rng,
        name,
        [((1, side, side, 601), *source)],
        (shape, *output),
        "ReducerOptions",
        [np.array([1, 2], np.int32)],
        keepDims=keep,
    )


def resize(
    rng: np.random.Generator,
    name: str,
    before: tuple[int, int],
    after: tuple[int, int],
    grid: Sequence[float],
    *,
    align: bool = False,
    centres: bool = False,
) -> Case:
    options = "Bilinear" if name == "RESIZE_BILINEAR" else "NearestNeighbor"
    return single(
        rng,
        name,
        [((1, *before, 5), *grid)],
        ((1, *after, 5), *grid),
        f"Resize{options}Options",
        [np.array(after, np.int32)],
        alignCorners=align,
        halfPixelCenters=centres,
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


def strided_slice(rng: np.random.Generator, *grid: float, stride: int = 1) -> Case:
    """[:, 1:-2, 3::stride] by one mask of the begin and several of the end."""
    bounds = [[0, 1, 3, 0], [1, -2, 0, 0], [1, 1, stride, 1]]
    return single(
        rng,
        "STRIDED_SLICE",
        [((1, 8, 9, 5), *grid)],
        ((1, 5, -(-6 // stride), 5), *grid),
        "StridedSliceOptions",
        [np.array(values, np.int32) for values in bounds],
        beginMask=0b0001,
        endMask=0b1100,
    )


def depth_to_space(rng: np.random.Generator, *grid: float) -> Case:
    shapes = ((1, 4, 5, 12), (1, 8, 10, 3))
    return single(
        rng,
        "DEPTH_TO_SPACE",
        [(shapes[0], *grid)],
        (shapes[1], *grid),
        "DepthToSpaceOptions",
        blockSize=2,
    )
