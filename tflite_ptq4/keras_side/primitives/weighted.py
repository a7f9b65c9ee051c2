"""Layers with weights: convolutions of every kind, Dense, and per-channel affine layers."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from keras.src.applications.convnext import LayerScale  # of ConvNeXt; Keras does not export it

from tflite_ptq4.keras_side.primitives.activation import with_activation
from tflite_ptq4.keras_side.primitives.primitive import (
    CHANNELS_FIRST_REASON,
    Primitive,
    expands,
    in_float,
    is_channels_first,
    step,
    whole,
)
from tflite_ptq4.keras_side.trace import Call, Run

POINTWISE = {"strides": (1, 1), "padding": "valid", "dilation_rate": (1, 1)}


def _array(variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), dtype=np.float32)


def _add_bias(outputs, bias):
    # The reshape that Keras makes: the same arithmetic, so the same bits.
    return ops.add(outputs, ops.reshape(bias, (1,) * (len(outputs.shape) - 1) + (-1,)))


def _bias(layer, channels: int) -> np.ndarray:
    return _array(layer.bias) if layer.use_bias else np.zeros(channels, np.float32)


def _geometry(layer) -> dict:
    """Strides and the like for two spatial axes; a layer of one axis works on rows of height 1."""
    row = (1,) * (2 - layer.rank)
    return {
        "strides": row + tuple(layer.strides),
        "padding": layer.padding,
        "dilation_rate": row + tuple(layer.dilation_rate),
        **({"rank": 1} if layer.rank == 1 else {}),
    }


def _on_rows(kernel: np.ndarray, rank: int) -> np.ndarray:
    return kernel[None] if rank == 1 else kernel


def _refusal(call: Call) -> str | None:
    return CHANNELS_FIRST_REASON if is_channels_first(call) else None


def _with_weights(
    call: Call,
    kind: str,
    run: Run,
    kernel: np.ndarray,
    bias: np.ndarray,
    attributes: dict | None = None,
    inputs: tuple[str, ...] | None = None,
) -> list[Primitive]:
    """The linear part of a layer, followed by its activation."""

    def body(name: str) -> Primitive:
        return Primitive(
            name=name,
            kind=kind,
            layer_type=type(call.operation).__name__,
            inputs=inputs or call.inputs,
            outputs=(name,),
            shapes=call.shapes,
            run=run,
            kernel=kernel,
            bias=bias,
            attributes=attributes or {},
        )

    return with_activation(call, body, call.operation.activation)


@expands(layers.Conv1D, layers.Conv2D)
def _conv(call: Call) -> list[Primitive]:
    layer = call.operation
    reason = _refusal(call)
    if reason:
        return [in_float(call, reason)]
    before = [_zeros_of_the_past(call)] if layer.padding == "causal" else []
    padding = "valid" if before else layer.padding

    def run(values):
        outputs = ops.conv(
            values[0],
            layer.kernel,
            strides=list(layer.strides),
            padding=padding,
            dilation_rate=layer.dilation_rate,
        )
        return [_add_bias(outputs, layer.bias) if layer.use_bias else outputs]

    convolution = _with_weights(
        call,
        "conv2d",
        run,
        _on_rows(_array(layer.kernel), layer.rank),
        _bias(layer, layer.filters),
        {**_geometry(layer), "padding": padding, "groups": layer.groups},
        inputs=before[0].outputs if before else None,
    )
    return [*before, *convolution]


def _zeros_of_the_past(call: Call) -> Primitive:
    """What padding="causal" puts before the first step, so that no output sees a later one."""
    layer = call.operation
    (dilation,), (kernel,) = layer.dilation_rate, layer.kernel_size
    before = dilation * (kernel - 1)
    batch, length, channels = call.input_shapes[0]
    return step(
        call,
        "padded",
        "pad",
        call.inputs,
        lambda v: ops.pad(v[0], [[0, 0], [before, 0], [0, 0]]),
        shape=(batch, None if length is None else length + before, channels),
    )


@expands(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise_conv(call: Call) -> list[Primitive]:
    layer = call.operation
    reason = _refusal(call)
    if reason:
        return [in_float(call, reason)]
    kernel = _on_rows(_array(layer.kernel), layer.rank)

    def run(values):
        outputs = ops.depthwise_conv(
            values[0], layer.kernel, layer.strides, layer.padding, dilation_rate=layer.dilation_rate
        )
        return [_add_bias(outputs, layer.bias) if layer.use_bias else outputs]

    return _with_weights(
        call,
        "depthwise_conv2d",
        run,
        kernel,
        _bias(layer, kernel.shape[2] * kernel.shape[3]),
        _geometry(layer),
    )


@expands(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable_conv(call: Call) -> list[Primitive]:
    layer = call.operation
    reason = _refusal(call)
    if reason:
        return [in_float(call, reason)]
    depthwise_kernel = _on_rows(_array(layer.depthwise_kernel), layer.rank)
    channels = depthwise_kernel.shape[2] * depthwise_kernel.shape[3]
    # Keras itself gives both axes the first stride.
    strides = (layer.strides[0],) * layer.rank
    geometry = {**_geometry(layer), "strides": (1,) * (2 - layer.rank) + strides}

    def run_depthwise(values):
        return [
            ops.depthwise_conv(
                values[0],
                layer.depthwise_kernel,
                strides,
                layer.padding,
                dilation_rate=layer.dilation_rate,
            )
        ]

    def run_pointwise(values):
        outputs = ops.conv(values[0], layer.pointwise_kernel, strides=1, padding="valid")
        return [_add_bias(outputs, layer.bias) if layer.use_bias else outputs]

    depthwise = Primitive(
        name=f"{call.name}/depthwise",
        kind="depthwise_conv2d",
        layer_type=type(layer).__name__,
        inputs=call.inputs,
        outputs=(f"{call.name}/depthwise",),
        shapes=((*call.shapes[0][:-1], channels),),
        run=run_depthwise,
        kernel=depthwise_kernel,
        bias=np.zeros(channels, np.float32),
        attributes=geometry,
    )

    return [
        depthwise,
        *_with_weights(
            call,
            "conv2d",
            run_pointwise,
            _on_rows(_array(layer.pointwise_kernel), layer.rank),
            _bias(layer, layer.filters),
            {**POINTWISE, "groups": 1, **({"rank": 1} if layer.rank == 1 else {})},
            inputs=depthwise.outputs,
        ),
    ]


@expands(layers.Conv1DTranspose, layers.Conv2DTranspose)
def _conv_transpose(call: Call) -> list[Primitive]:
    layer = call.operation
    reason = _refusal(call)
    if reason is None and set(layer.dilation_rate) != {1}:
        reason = f"dilation_rate={layer.dilation_rate} of a transposed convolution"
    if reason is None and layer.output_padding is not None:
        reason = f"output_padding={layer.output_padding} of a transposed convolution"
    if reason:
        return [in_float(call, f"{reason} has no TFLite form")]

    def run(values):
        outputs = ops.conv_transpose(
            values[0], layer.kernel, strides=list(layer.strides), padding=layer.padding
        )
        return [_add_bias(outputs, layer.bias) if layer.use_bias else outputs]

    return _with_weights(
        call,
        "conv2d_transpose",
        run,
        _on_rows(_array(layer.kernel), layer.rank),
        _bias(layer, layer.filters),
        _geometry(layer),
    )


@expands(layers.Dense)
def _dense(call: Call) -> list[Primitive]:
    layer = call.operation

    def run(values):
        outputs = ops.matmul(values[0], layer.kernel)
        return [ops.add(outputs, layer.bias) if layer.use_bias else outputs]

    return _with_weights(call, "dense", run, _array(layer.kernel), _bias(layer, layer.units))


@expands(layers.BatchNormalization)
def _batch_norm(call: Call) -> list[Primitive]:
    layer = call.operation
    if layer.axis not in (-1, len(call.shapes[0]) - 1):
        return [in_float(call, f"BatchNormalization over axis {layer.axis}, not the last")]
    factor = 1.0 / np.sqrt(_array(layer.moving_variance).astype(np.float64) + layer.epsilon)
    if layer.scale:
        factor = factor * _array(layer.gamma)
    offset = -_array(layer.moving_mean) * factor
    if layer.center:
        offset = offset + _array(layer.beta)
    return [whole(call, "batch_norm", kernel=factor, bias=offset)]


@expands(layers.Rescaling)
def _rescaling(call: Call) -> list[Primitive]:
    layer = call.operation
    return _affine(call, np.asarray(layer.scale), np.asarray(layer.offset))


@expands(layers.Normalization)
def _normalization(call: Call) -> list[Primitive]:
    layer = call.operation
    if layer.invert:
        return [in_float(call, "Normalization(invert=True) has no integer form")]
    mean = np.asarray(ops.convert_to_numpy(layer.mean), np.float64).reshape(-1)
    deviation = np.sqrt(np.asarray(ops.convert_to_numpy(layer.variance), np.float64)).reshape(-1)
    factor = 1.0 / np.maximum(deviation, keras.backend.epsilon())
    return _affine(call, factor, -mean * factor)


@expands(LayerScale)
def _layer_scale(call: Call) -> list[Primitive]:
    gamma = _array(call.operation.gamma)
    return _affine(call, gamma, np.zeros_like(gamma))


def _affine(call: Call, factor: np.ndarray, offset: np.ndarray) -> list[Primitive]:
    """x * factor + offset per channel: what a BatchNormalization computes that is not trained."""
    channels = call.shapes[0][-1]
    if any(values.size not in (1, channels) for values in (factor, offset)):
        return [in_float(call, "a factor for every pixel has no integer form, only per channel")]
    factor = np.broadcast_to(factor.reshape(-1), (channels,)).astype(np.float64)
    offset = np.broadcast_to(offset.reshape(-1), (channels,)).astype(np.float64)
    return [whole(call, "batch_norm", kernel=factor, bias=offset)]
