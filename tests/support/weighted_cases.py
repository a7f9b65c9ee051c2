"""Small files of one operator with weights, and of a block of them."""

from __future__ import annotations

import numpy as np
from operator_cases import (
    IMAGE,
    NONE,
    RELU,
    RELU6,
    SAME,
    SIXTEEN_LEVELS,
    Case,
    Grid,
    random_input,
    single,
)
from tiny_tflite import TinyModel

SCALE_IN, ZERO_IN = 0.03, -5


def convolution(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    filters: int,
    kernel: int,
    output: Grid,
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
    """CONV_2D, or DEPTHWISE_CONV_2D with `filters` output channels."""
    channels = shape[-1]
    reach = (kernel - 1) * dilation + 1
    sides = [-(-n // stride) if padding == SAME else (n - reach) // stride + 1 for n in shape[:2]]
    dims = (filters, kernel, kernel, channels // groups)
    if depthwise:
        dims = (1, kernel, kernel, filters)
    model = TinyModel()
    source = model.activation((1, *shape), SCALE_IN, ZERO_IN)
    held, bias = _weights(
        rng,
        model,
        dims,
        filters,
        axis=3 if depthwise else 0,
        per_channel=per_channel,
        packed=packed,
        limit=limit,
    )
    result = model.activation((1, *sides, filters), *output)
    multiplier = {"depthMultiplier": filters // channels} if depthwise else {}
    model.operator(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [source, held, bias],
        result,
        "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions",
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
    return _on_random_images(rng, model, source, result, (1, *shape))


def transposed_convolution(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    filters: int,
    kernel: int,
    output: Grid,
    *,
    stride: int = 2,
    padding: int = SAME,
    activation: int = NONE,
    per_channel: bool = True,
    beyond: int = 0,
) -> Case:
    """TRANSPOSE_CONV; `beyond` rows and columns of the output that no kernel reaches."""
    if padding == SAME:
        sides = [n * stride for n in shape[:2]]
    else:
        sides = [(n - 1) * stride + kernel + beyond for n in shape[:2]]
    model = TinyModel()
    source = model.activation((1, *shape), SCALE_IN, ZERO_IN)
    dims = (filters, kernel, kernel, shape[-1])
    held, bias = _weights(rng, model, dims, filters, per_channel=per_channel)
    wanted = model.constant(np.array([1, *sides, filters], np.int32))
    result = model.activation((1, *sides, filters), *output)
    model.operator(
        "TRANSPOSE_CONV",
        [wanted, held, source, bias],
        result,
        "TransposeConvOptions",
        4,
        padding=padding,
        strideH=stride,
        strideW=stride,
        fusedActivationFunction=activation,
    )
    return _on_random_images(rng, model, source, result, (1, *shape))


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
    output: Grid = (0.3, 4),
) -> Case:
    """FULLY_CONNECTED; without `keep`, all but the batch is flattened."""
    inner = shape[-1] if keep else int(np.prod(shape[1:]))
    model = TinyModel()
    source = model.activation(shape, SCALE_IN, ZERO_IN)
    held, offset = _weights(
        rng,
        model,
        (units, inner),
        units,
        per_channel=per_channel,
        packed=packed,
        limit=7 if packed else 127,
    )
    result = model.activation((*shape[:-1], units) if keep else (shape[0], units), *output)
    model.operator(
        "FULLY_CONNECTED",
        [source, held, offset if bias else -1],
        result,
        "FullyConnectedOptions",
        10 if packed else 5,
        keepNumDims=keep,
        fusedActivationFunction=activation,
    )
    return _on_random_images(rng, model, source, result, shape)


def _weights(
    rng: np.random.Generator,
    model: TinyModel,
    dims: tuple[int, ...],
    filters: int,
    *,
    axis: int = 0,
    per_channel: bool = True,
    packed: bool = False,
    limit: int = 127,
) -> tuple[int, int]:
    """A kernel and a bias; output levels stay in view whatever the range of the weights."""
    values = rng.integers(-limit, limit + 1, dims).astype(np.int8)
    scales = rng.uniform(0.05, 1.0, filters if per_channel else 1) / limit
    bias = rng.integers(-20 * limit, 20 * limit, filters).astype(np.int32)
    return (
        model.constant(values, scales, axis=axis, packed=packed),
        model.constant(bias, np.float32(SCALE_IN) * scales.astype(np.float32)),
    )


def _on_random_images(
    rng: np.random.Generator, model: TinyModel, source: int, result: int, shape: tuple[int, ...]
) -> Case:
    images = random_input(rng, (shape, SCALE_IN, ZERO_IN))
    return model.to_bytes([source], [result]), [images]


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


_SAME_SIDE = {"padding": SAME, "strideH": 1, "strideW": 1}
_FLOAT_OPTIONS = {
    "CONV_2D": ((7, 3, 3, 5), "Conv2DOptions", _SAME_SIDE),
    "DEPTHWISE_CONV_2D": (
        (1, 3, 3, 5),
        "DepthwiseConv2DOptions",
        {**_SAME_SIDE, "depthMultiplier": 1},
    ),
    "FULLY_CONNECTED": ((7, 5), "FullyConnectedOptions", {"keepNumDims": True}),
}


def float_weighted(rng: np.random.Generator, name: str) -> Case:
    shape, options, fields = _FLOAT_OPTIONS[name]
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


def float_transposed(rng: np.random.Generator) -> Case:
    model = TinyModel()
    source, result = model.activation((1, 6, 5, 4)), model.activation((1, 12, 10, 7))
    wanted = model.constant(np.array([1, 12, 10, 7], np.int32))
    kernel = model.constant(rng.normal(size=(7, 3, 3, 4)).astype(np.float32))
    bias = model.constant(rng.normal(size=7).astype(np.float32))
    model.operator(
        "TRANSPOSE_CONV",
        [wanted, kernel, source, bias],
        result,
        "TransposeConvOptions",
        4,
        padding=SAME,
        strideH=2,
        strideW=2,
        fusedActivationFunction=RELU,
    )
    return model.to_bytes([source], [result]), [random_input(rng, ((1, 6, 5, 4),))]


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
        fusedActivationFunction=RELU,
        **_SAME_SIDE,
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
