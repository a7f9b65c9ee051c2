"""Operators that move, select, reduce or interpolate values."""

from __future__ import annotations

from collections.abc import Callable

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
