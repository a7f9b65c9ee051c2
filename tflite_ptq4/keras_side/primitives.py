"""Keras layers as primitive operators: one kernel, one activation, one join at a time.

A layer with `activation=` is two primitives, a SeparableConv2D three. Running the primitives of a
layer one after the other repeats the arithmetic of the layer itself, operation by operation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import ops

from tflite_ptq4.keras_side.trace import Call, Run

IDENTITY_LAYERS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
)

ACTIVATION_KINDS: dict[Callable, str] = {
    keras.activations.linear: "identity",
    keras.activations.relu: "relu",
    keras.activations.relu6: "relu6",
    keras.activations.softmax: "softmax",
}


@dataclass(frozen=True, eq=False)
class Primitive:
    """One primitive operator of the model as the user wrote it, nothing folded yet.

    Attributes:
        name: unique; the first output carries it.
        kind: a kind of `operator_rules.RULES`, or "identity" or "batch_norm", which lowering
            removes.
        layer_type: the class of the Keras layer.
        inputs: names of the tensors read.
        outputs: names of the tensors written.
        shapes: shape of each output.
        run: list of tensors in, list of tensors out, with the layer's own weights.
        run_on_clone: given a name, the same run on a copy of the layer, for symbolic tensors;
            None where `run` touches no layer.
        kernel: float32 kernel in the layout of `graph.Node`, for operators with weights; for
            "batch_norm" the factor per channel.
        bias: float32 bias; for "batch_norm" the offset per channel.
        attributes: strides, padding, dilation and the like.
        reason: why the operator stays in float, for the kind "float".
    """

    name: str
    kind: str
    layer_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    run: Run
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    attributes: dict = field(default_factory=dict)
    reason: str = ""
    run_on_clone: Callable[[str], Run] | None = None


def expand(call: Call) -> list[Primitive]:
    """The primitives of one call, in the order of execution.

    Args:
        call: a call of a traced model.

    Returns:
        One primitive or several; the last one writes the call's own output name. What has no
        integer form comes back as one primitive of the kind "float" with its reason.
    """
    rule = _EXPANSIONS.get(type(call.operation).__name__)
    # An exact type: a subclass may compute anything in its `call`.
    if rule is None or type(call.operation) is not rule[0]:
        return [_float(call, f"no integer form for {type(call.operation).__name__} yet")]
    return rule[1](call)


def _float(call: Call, reason: str) -> Primitive:
    return _same(call, "float", reason=reason)


def _same(call: Call, kind: str, **fields) -> Primitive:
    """The whole call as one primitive of the given kind."""
    return Primitive(
        name=call.name,
        kind=kind,
        layer_type=type(call.operation).__name__,
        inputs=call.inputs,
        outputs=call.outputs,
        shapes=call.shapes,
        run=call.run,
        run_on_clone=call.run_on_clone,
        **fields,
    )


def _of_kind(kind: str) -> Callable[[Call], list[Primitive]]:
    return lambda call: [_same(call, kind)]


def _with_activation(call: Call, body: Callable[..., Primitive], activation) -> list[Primitive]:
    """`body` followed by an activation function, the last of the two under the call's name."""
    kind = _activation_kind(activation)
    if kind == "identity":
        return [body(call.name)]
    inner = body(f"{call.name}/linear")
    return [inner, _activation(call, activation, inner.outputs)]


def _activation_kind(activation: Callable | None) -> str:
    if activation is None:
        return "identity"
    if isinstance(activation, keras.layers.ReLU):
        return _relu_kind(activation) or "float"
    return ACTIVATION_KINDS.get(activation, "float")


def _activation(call: Call, activation: Callable, inputs: tuple[str, ...]) -> Primitive:
    kind = _activation_kind(activation)
    title = getattr(activation, "__name__", type(activation).__name__)
    return Primitive(
        name=call.name,
        kind=kind,
        layer_type=type(call.operation).__name__,
        inputs=inputs,
        outputs=call.outputs,
        shapes=call.shapes,
        run=lambda values: [activation(values[0])],
        reason=f"no integer form for the activation {title!r} yet" if kind == "float" else "",
    )


def _relu_kind(layer: keras.layers.ReLU) -> str | None:
    if layer.negative_slope or layer.threshold:
        return None
    return {None: "relu", 6.0: "relu6"}.get(layer.max_value)


def _relu(call: Call) -> list[Primitive]:
    layer = call.operation
    kind = _relu_kind(layer)
    if kind is None:
        return [
            _float(
                call,
                f"ReLU(max_value={layer.max_value}, negative_slope={layer.negative_slope}, "
                f"threshold={layer.threshold}) has no integer form yet",
            )
        ]
    return [_same(call, kind)]


def _activation_layer(call: Call) -> list[Primitive]:
    return [_activation(call, call.operation.activation, call.inputs)]


def _softmax(call: Call) -> list[Primitive]:
    axis = call.operation.axis
    if axis not in (-1, len(call.shapes[0]) - 1):
        return [_float(call, f"Softmax over axis {axis} has no integer form, only the last axis")]
    return [_same(call, "softmax")]


def _add_bias(outputs, bias):
    # The reshape that Keras makes: the same arithmetic, so the same bits.
    return ops.add(outputs, ops.reshape(bias, (1,) * (len(outputs.shape) - 1) + (-1,)))


def _array(variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), dtype=np.float32)


def _convolution_attributes(layer) -> dict:
    return {
        "strides": tuple(layer.strides),
        "padding": layer.padding,
        "dilation_rate": tuple(layer.dilation_rate),
    }


def _channels_first(call: Call) -> list[Primitive] | None:
    if getattr(call.operation, "data_format", "channels_last") == "channels_first":
        return [_float(call, "data_format='channels_first'; TFLite computes channels_last only")]
    return None


def _conv2d(call: Call) -> list[Primitive]:
    layer = call.operation
    refused = _channels_first(call)
    if refused:
        return refused
    if layer.padding not in ("same", "valid"):
        return [_float(call, f"padding={layer.padding!r} has no TFLite form")]

    def run(values):
        outputs = layer.convolution_op(values[0], layer.kernel)
        return [_add_bias(outputs, layer.bias) if layer.use_bias else outputs]

    def body(name: str) -> Primitive:
        return Primitive(
            name=name,
            kind="conv2d",
            layer_type="Conv2D",
            inputs=call.inputs,
            outputs=(name,),
            shapes=call.shapes,
            run=run,
            kernel=_array(layer.kernel),
            bias=_array(layer.bias) if layer.use_bias else np.zeros(layer.filters, np.float32),
            attributes={**_convolution_attributes(layer), "groups": layer.groups},
        )

    return _with_activation(call, body, layer.activation)


def _depthwise_conv2d(call: Call) -> list[Primitive]:
    layer = call.operation
    refused = _channels_first(call)
    if refused:
        return refused
    kernel = _array(layer.kernel)

    def run(values):
        outputs = ops.depthwise_conv(values[0], layer.kernel, **_convolution_attributes(layer))
        return [_add_bias(outputs, layer.bias) if layer.use_bias else outputs]

    def body(name: str) -> Primitive:
        channels = kernel.shape[2] * kernel.shape[3]
        return Primitive(
            name=name,
            kind="depthwise_conv2d",
            layer_type="DepthwiseConv2D",
            inputs=call.inputs,
            outputs=(name,),
            shapes=call.shapes,
            run=run,
            kernel=kernel,
            bias=_array(layer.bias) if layer.use_bias else np.zeros(channels, np.float32),
            attributes=_convolution_attributes(layer),
        )

    return _with_activation(call, body, layer.activation)


def _separable_conv2d(call: Call) -> list[Primitive]:
    layer = call.operation
    refused = _channels_first(call)
    if refused:
        return refused
    depthwise_kernel = _array(layer.depthwise_kernel)
    channels = depthwise_kernel.shape[2] * depthwise_kernel.shape[3]
    attributes = _convolution_attributes(layer)
    depthwise = Primitive(
        name=f"{call.name}/depthwise",
        kind="depthwise_conv2d",
        layer_type="SeparableConv2D",
        inputs=call.inputs,
        outputs=(f"{call.name}/depthwise",),
        shapes=((*call.shapes[0][:-1], channels),),
        run=lambda values: [ops.depthwise_conv(values[0], layer.depthwise_kernel, **attributes)],
        kernel=depthwise_kernel,
        bias=np.zeros(channels, np.float32),
        attributes=attributes,
    )

    def run(values):
        outputs = ops.conv(values[0], layer.pointwise_kernel, strides=1, padding="valid")
        return [_add_bias(outputs, layer.bias) if layer.use_bias else outputs]

    def body(name: str) -> Primitive:
        return Primitive(
            name=name,
            kind="conv2d",
            layer_type="SeparableConv2D",
            inputs=depthwise.outputs,
            outputs=(name,),
            shapes=call.shapes,
            run=run,
            kernel=_array(layer.pointwise_kernel),
            bias=_array(layer.bias) if layer.use_bias else np.zeros(layer.filters, np.float32),
            attributes={
                "strides": (1, 1), "padding": "valid", "dilation_rate": (1, 1), "groups": 1,
            },
        )

    return [depthwise, *_with_activation(call, body, layer.activation)]


def _dense(call: Call) -> list[Primitive]:
    layer = call.operation

    def run(values):
        outputs = ops.matmul(values[0], layer.kernel)
        return [ops.add(outputs, layer.bias) if layer.use_bias else outputs]

    def body(name: str) -> Primitive:
        return Primitive(
            name=name,
            kind="dense",
            layer_type="Dense",
            inputs=call.inputs,
            outputs=(name,),
            shapes=call.shapes,
            run=run,
            kernel=_array(layer.kernel),
            bias=_array(layer.bias) if layer.use_bias else np.zeros(layer.units, np.float32),
        )

    return _with_activation(call, body, layer.activation)


def _batch_norm(call: Call) -> list[Primitive]:
    layer = call.operation
    rank = len(call.shapes[0])
    if layer.axis not in (-1, rank - 1):
        return [_float(call, f"BatchNormalization over axis {layer.axis}, not the last")]
    variance = _array(layer.moving_variance).astype(np.float64)
    factor = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        factor = factor * _array(layer.gamma)
    offset = -_array(layer.moving_mean) * factor
    if layer.center:
        offset = offset + _array(layer.beta)
    return [_same(call, "batch_norm", kernel=factor, bias=offset)]


def _add(call: Call) -> list[Primitive]:
    """A sum of n tensors as n - 1 sums of two, from the left, as Keras adds them."""
    title = type(call.operation).__name__
    if len(call.inputs) < 2 or not isinstance(call.operation, keras.layers.Layer):
        return [_float(call, "an addition of a constant has no integer form yet")]
    primitives: list[Primitive] = []
    total = call.inputs[0]
    for position, term in enumerate(call.inputs[1:], start=2):
        last = position == len(call.inputs)
        name = call.name if last else f"{call.name}/sum{position}"
        primitives.append(
            Primitive(
                name=name,
                kind="add",
                layer_type=title,
                inputs=(total, term),
                outputs=(name,),
                shapes=call.shapes,
                run=lambda values: [ops.add(values[0], values[1])],
            )
        )
        total = name
    return primitives


def _concatenate(call: Call) -> list[Primitive]:
    return [_same(call, "concatenate", attributes={"axis": call.operation.axis})]


def _spatial(kind: str) -> Callable[[Call], list[Primitive]]:
    """A call on images in the layout that TFLite computes."""
    return lambda call: _channels_first(call) or [_same(call, kind)]


_EXPANSIONS: dict[str, tuple[type, Callable[[Call], list[Primitive]]]] = {
    layer.__name__: (layer, expansion)
    for layer, expansion in (
        (keras.layers.Conv2D, _conv2d),
        (keras.layers.DepthwiseConv2D, _depthwise_conv2d),
        (keras.layers.SeparableConv2D, _separable_conv2d),
        (keras.layers.Dense, _dense),
        (keras.layers.BatchNormalization, _batch_norm),
        (keras.layers.ReLU, _relu),
        (keras.layers.Activation, _activation_layer),
        (keras.layers.Softmax, _softmax),
        (keras.layers.Add, _add),
        (keras.layers.Concatenate, _concatenate),
        (keras.layers.MaxPooling2D, _spatial("max_pool")),
        (keras.layers.AveragePooling2D, _spatial("average_pool")),
        (keras.layers.GlobalAveragePooling2D, _spatial("mean")),
        (keras.layers.ZeroPadding2D, _of_kind("pad")),
        (keras.layers.Flatten, _of_kind("reshape")),
        (keras.layers.Reshape, _of_kind("reshape")),
        *((layer, _of_kind("identity")) for layer in IDENTITY_LAYERS),
    )
}
