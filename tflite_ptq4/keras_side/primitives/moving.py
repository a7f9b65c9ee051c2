"""Operators that move, select, reduce or interpolate values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import tensorflow as tf
from keras import layers

from tflite_ptq4.keras_side.primitives.primitive import (
    CHANNELS_FIRST_REASON,
    Expansion,
    Primitive,
    expands,
    in_float,
    is_channels_first,
    operation_types,
    whole,
)
from tflite_ptq4.keras_side.trace import Call

# What they do in training they do not at inference; RandomCrop is the exception. Keras adds such
# layers from version to version.
AUGMENTING_LAYERS = tuple(
    getattr(layers, name)
    for name in dir(layers)
    if name in ("AugMix", "CutMix", "MixUp", "RandAugment", "Solarization")
    or (name.startswith("Random") and name != "RandomCrop")
)


def _of_kind(kind: str) -> Expansion:
    return lambda call: [whole(call, kind)]


def _on_images(kind: str) -> Expansion:
    """A layer that TFLite computes on channels_last images only."""

    def expansion(call: Call) -> list[Primitive]:
        if is_channels_first(call):
            return [in_float(call, CHANNELS_FIRST_REASON)]
        return [whole(call, kind)]

    return expansion


for _kind, _types in {
    "identity": (
        layers.ActivityRegularization,
        layers.AlphaDropout,
        layers.Dropout,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.Identity,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        *AUGMENTING_LAYERS,
    ),
    "crop": (layers.Cropping1D, layers.Cropping2D),
    "pad": (layers.ZeroPadding1D, layers.ZeroPadding2D),
    "reshape": (layers.Flatten, layers.Reshape, *operation_types("Reshape")),
    "transpose": (layers.Permute, *operation_types("Transpose")),
    "depth_to_space": tuple(operation_types("DepthToSpace")),
}.items():
    expands(*_types)(_of_kind(_kind))

for _kind, _types in {
    "max_pool": (layers.MaxPooling1D, layers.MaxPooling2D),
    "average_pool": (layers.AveragePooling1D, layers.AveragePooling2D),
    "mean": (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    "max": (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
}.items():
    expands(*_types)(_on_images(_kind))


@expands(*operation_types("ConvertToTensor", "Cast"))
def _conversion(call: Call) -> list[Primitive]:
    """Of the type that a tensor has already, as at the beginning of each functional model."""
    (given,), wanted = call.input_types, call.operation.dtype
    if wanted not in (None, given):
        return [in_float(call, f"a conversion from {given} to {wanted} has no integer form")]
    return [whole(call, "identity")]


@expands(*operation_types("GetItem"))
def _get_item(call: Call) -> list[Primitive]:
    """`x[:, 1:, ..., :8]`: the constants are the parts of the key."""
    first, *_ = call.constants
    plain = all(part is Ellipsis or isinstance(part, slice | int) for part in call.constants)
    of_every_image = first == slice(None) or (
        first is Ellipsis and len(call.constants) <= len(call.input_shapes[0])
    )
    if not (plain and of_every_image):
        return [in_float(call, f"x[{_key_text(call.constants)}] has no integer form")]
    return [whole(call, "crop", {"key": _key_text(call.constants)})]


def _key_text(key: tuple[object, ...]) -> str:
    parts = []
    for part in key:
        if isinstance(part, slice):
            bounds = [part.start, part.stop, *([] if part.step is None else [part.step])]
            parts.append(":".join("" if bound is None else str(bound) for bound in bounds))
        else:
            parts.append("..." if part is Ellipsis else str(part))
    return ", ".join(parts)


@expands(*operation_types("Split"))
def _split(call: Call) -> list[Primitive]:
    """One operator for each part."""
    axis = call.operation.axis % len(call.shapes[0])
    lengths = [shape[axis] for shape in call.shapes]
    if axis == 0 or None in lengths:
        return [in_float(call, "split has an integer form along axes of known length only")]
    ends = list(accumulate(lengths))
    return [
        Primitive(
            name=output,
            kind="crop",
            layer_type=type(call.operation).__name__,
            inputs=call.inputs,
            outputs=(output,),
            shapes=(shape,),
            run=_slice_of(axis, end - length, end),
            run_on_clone=_named_slice_of(axis, end - length, end),
            attributes={"axis": axis, "begin": end - length},
        )
        for output, shape, length, end in zip(call.outputs, call.shapes, lengths, ends, strict=True)
    ]


def _slice_of(axis: int, begin: int, end: int) -> Callable:
    key = (*[slice(None)] * axis, slice(begin, end))
    return lambda values: [values[0][key]]


def _named_slice_of(axis: int, begin: int, end: int) -> Callable[[str], Callable]:
    """The same on symbolic tensors, under a name: Keras' own may be that of another operation."""

    def named(name: str) -> Callable:
        def run(values: Sequence) -> list:
            outputs = _slice_of(axis, begin, end)(values)
            outputs[0]._keras_history.operation.name = name
            return outputs

        return run

    return named


@expands(*operation_types("Mean"))
def _mean(call: Call) -> list[Primitive]:
    if len(call.shapes[0]) < 2:
        return [in_float(call, "a mean that leaves no channel axis has no integer form")]
    return [whole(call, "mean")]


@expands(layers.UpSampling2D)
def _up_sampling(call: Call) -> list[Primitive]:
    layer = call.operation
    if is_channels_first(call):
        return [in_float(call, CHANNELS_FIRST_REASON)]
    if layer.interpolation == "bilinear":
        return [whole(call, "resize_bilinear")]
    if layer.interpolation != "nearest":
        return [in_float(call, f"interpolation={layer.interpolation!r} has no integer form")]
    rows, columns = layer.size
    return [whole(call, "resize_nearest", lowered_run=_repeat(rows, columns))]


def _repeat(rows: int, columns: int) -> Callable:
    """Repeat rows and columns through the one operator that TFLite has for it."""

    def run(values):
        size = tf.shape(values[0])[1:3] * [rows, columns]
        if None not in values[0].shape[1:3]:
            size = [values[0].shape[1] * rows, values[0].shape[2] * columns]
        return [tf.image.resize(values[0], size, method="nearest")]

    return run


@expands(layers.UpSampling1D)
def _up_sampling_of_steps(call: Call) -> list[Primitive]:
    repeated = _repeat(1, call.operation.size)

    def run(values):
        (rows,) = repeated([tf.expand_dims(values[0], 1)])
        return [tf.squeeze(rows, 1)]

    return [whole(call, "resize_nearest", lowered_run=run)]


@expands(layers.Resizing)
def _resizing(call: Call) -> list[Primitive]:
    layer = call.operation
    if is_channels_first(call):
        return [in_float(call, CHANNELS_FIRST_REASON)]
    plain = not (layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio or layer.antialias)
    kinds = {"bilinear": "resize_bilinear", "nearest": "resize_nearest"}
    if not plain or layer.interpolation not in kinds:
        return [
            in_float(
                call,
                f"Resizing with interpolation={layer.interpolation!r}, or to an aspect "
                "ratio, has no integer form",
            )
        ]
    return [whole(call, kinds[layer.interpolation])]
