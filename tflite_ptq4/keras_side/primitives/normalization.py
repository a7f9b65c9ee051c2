"""Layers that normalize each image by itself: LayerNormalization, as 8-bit operators compute it.

    c = x - mean(x)
    z = c / (mean(relu(c)) + sqrt(epsilon))                     the size of c, roughly
    y = z / sqrt(mean(z^2) + epsilon (z / c)^2)                 (x - mean) / sqrt(var + epsilon)

y does not depend on what z was divided by. Squares of c itself would not do: of positions whose
values are a tenth of the largest ones, 8 bits hold no square, while mean(relu(c)), half the mean
absolute deviation, is a mean of integers that are there. Divided by it, all positions are of one
size, and so are their squares.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, sqrt

import numpy as np
from keras import layers, ops

from tflite_ptq4.keras_side.primitives.primitive import Primitive, expands, in_float, step
from tflite_ptq4.keras_side.trace import Call

# The position of the largest deviation keeps 4 of the 256 levels that 1 / deviation has, so that
# positions with a 64th of that are still brought to its size.
_DEVIATIONS = 64.0

_Steps = list[Primitive]


@expands(layers.LayerNormalization)
def _layer_normalization(call: Call) -> list[Primitive]:
    layer, rank = call.operation, len(call.shapes[0])
    axes = _axes(layer, rank)
    factor, offset = (_per_channel(values, call.shapes[0], axes) for values in _weights(layer))
    reason = None
    if getattr(layer, "rms_scaling", False):
        reason = "LayerNormalization(rms_scaling=True) has no integer form"
    elif axes[0] == 0:
        reason = "a mean over the batch has no integer form"
    elif layer.epsilon <= 0:
        reason = f"LayerNormalization(epsilon={layer.epsilon}) has no integer form, only above 0"
    elif factor is None or offset is None:
        reason = "a factor for every pixel has no integer form, only per channel"
    elif (layer.scale or layer.center) and rank > 4:
        reason = f"a factor per channel of a tensor of {rank} axes has no integer form"
    if reason:
        return [in_float(call, reason)]
    if not layer.scale and not layer.center:
        return _normalized(call, axes, "")
    steps = _normalized(call, axes, "normalized")
    return [*steps, *_affine(call, axes, steps[-1].name, factor, offset)]


def _axes(layer: layers.LayerNormalization, rank: int) -> tuple[int, ...]:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return tuple(sorted(axis % rank for axis in axes))


def _weights(layer: layers.LayerNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset, in the shape of the normalized axes, where the layer has them."""
    factor = ops.convert_to_numpy(layer.gamma) if layer.scale else np.ones(())
    offset = ops.convert_to_numpy(layer.beta) if layer.center else np.zeros(())
    return factor, offset


def _per_channel(
    values: np.ndarray, shape: tuple[int | None, ...], axes: tuple[int, ...]
) -> np.ndarray | None:
    """Weights as one for each channel, None where they differ from pixel to pixel."""
    over_channels = values.ndim > 0 and axes[-1] == len(shape) - 1
    pixels = values.reshape(-1, shape[-1] if over_channels else 1)
    if np.any(pixels != pixels[0]):
        return None
    return np.broadcast_to(pixels[0], (shape[-1] or 1,)).astype(np.float64)


def _normalized(call: Call, axes: tuple[int, ...], last: str) -> _Steps:
    """(x - mean) / sqrt(variance + epsilon); its part of the layer is called `last`."""
    reduced = tuple(1 if axis in axes else size for axis, size in enumerate(call.shapes[0]))
    floor = sqrt(call.operation.epsilon)
    steps: _Steps = []

    def add(part: str, kind: str, *inputs: str, compute, **options) -> str:
        sources = tuple(inputs)
        steps.append(step(call, part, kind, sources, compute, **options))
        return steps[-1].name

    def mean(part: str, source: str, **options) -> str:
        return add(
            part,
            "mean",
            source,
            compute=lambda v: ops.mean(v[0], axis=axes, keepdims=True),
            shape=reduced,
            axes=axes,
            **options,
        )

    def product(part: str, first: str, second: str, **options) -> str:
        return add(part, "multiply", first, second, compute=lambda v: v[0] * v[1], **options)

    def rsqrt(part: str, source: str, **options) -> str:
        return add(
            part, "rsqrt", source, compute=lambda v: ops.rsqrt(v[0]), shape=reduced, **options
        )

    small = {"shape": reduced}
    centred = add(
        "centred",
        "subtract",
        call.inputs[0],
        mean("mean", call.inputs[0]),
        compute=lambda v: v[0] - v[1],
    )
    above = add("above", "relu", centred, compute=lambda v: ops.relu(v[0]))
    deviation = add(
        "deviation",
        "add",
        mean("half_deviation", above, times_least=inf),
        compute=lambda v: v[0] + floor,
        constant=floor,
        times_least=inf,
        **small,
    )
    root = rsqrt("root_inverse", deviation, times_least=sqrt(_DEVIATIONS))
    inverse = product("inverse", root, root, times_least=_DEVIATIONS, **small)
    sized = product("sized", centred, inverse)
    floor_of_sized = add(
        "floor",
        "multiply",
        inverse,
        compute=lambda v: v[0] * floor,
        constant=floor,
        bounds=(0.0, 1.0),
        **small,
    )
    epsilon = product("epsilon", floor_of_sized, floor_of_sized, bounds=(0.0, 1.0), **small)
    squares = product("squares", sized, sized)
    variance = add(
        "variance",
        "add",
        mean("mean_square", squares, times_least=inf),
        epsilon,
        compute=lambda v: v[0] + v[1],
        times_least=inf,
        **small,
    )
    product(last, sized, rsqrt("size_inverse", variance, times_least=inf))
    return steps


def _affine(
    call: Call, axes: tuple[int, ...], source: str, factor: np.ndarray, offset: np.ndarray
) -> _Steps:
    """Factor and offset per channel; a tensor without pixels is made one of a single pixel."""
    layer, shape = call.operation, call.shapes[0]
    one_row = len(shape) == 2
    places = [size if axis in axes else 1 for axis, size in enumerate(shape)][1:]

    def compute(values):
        value = values[0]
        if layer.scale:
            value = value * ops.reshape(layer.gamma, places)
        return value + ops.reshape(layer.beta, places) if layer.center else value

    def affine(part: str, source: str, **options) -> Primitive:
        made = step(call, part, "batch_norm", (source,), compute, **options)
        # The layer's output, though it may be moved afterwards.
        return replace(made, kernel=factor, bias=offset, inner=False)

    if not one_row:
        return [affine("", source)]
    channels = shape[-1]
    row = (shape[0], 1, channels)
    to_row = step(
        call,
        "row",
        "reshape",
        (source,),
        lambda v: ops.reshape(v[0], (-1, 1, channels)),
        shape=row,
    )
    scaled = affine("scaled", to_row.name, shape=row)
    back = step(call, "", "reshape", (scaled.name,), lambda v: ops.reshape(v[0], (-1, channels)))
    return [to_row, scaled, back]
