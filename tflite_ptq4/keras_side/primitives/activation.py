"""Functions of one value: as layers, as operations, and as the `activation=` of other layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import keras
from keras import layers, ops

from tflite_ptq4.keras_side.cloning import clone_operation
from tflite_ptq4.keras_side.primitives.primitive import (
    Primitive,
    expands,
    in_float,
    operation_types,
    step,
    whole,
)
from tflite_ptq4.keras_side.trace import Call, Run

_A = keras.activations

_LEAKY_RELU_SLOPE = 0.2  # of the function; the layer has its own

# selu(x) = lambda x above zero, lambda alpha (e^x - 1) below.
_SELU_ALPHA = 1.6732632423543772
_SELU_LAMBDA = 1.0507009873554805

# Functions that are one TFLite operator with an int8 kernel.
_KINDS: dict[Callable, str] = {
    _A.linear: "identity",
    _A.relu: "relu",
    _A.relu6: "relu6",
    _A.elu: "elu",
    _A.gelu: "gelu",
    _A.sigmoid: "sigmoid",
    _A.softmax: "softmax",
    _A.tanh: "tanh",
    _A.hard_swish: "hard_swish",
    _A.leaky_relu: "leaky_relu",
}


def with_activation(
    call: Call, body: Callable[[str], Primitive], activation: Callable | None
) -> list[Primitive]:
    """`body` followed by an activation function, the last of the two under the call's name."""
    if activation is None or _KINDS.get(activation) == "identity":
        return [body(call.name)]
    inner = body(f"{call.name}/linear")
    return [inner, *_activation(call, activation, inner.outputs[0])]


def _activation(call: Call, activation: Callable, source: str) -> list[Primitive]:
    """An activation function on the tensor `source`, writing what the call writes."""
    if activation is _A.silu:
        return _silu(call, source)
    if activation is _A.hard_sigmoid:
        return _hard_sigmoid(call, source)
    if activation is _A.selu:
        return _selu(call, source)
    kind = _KINDS.get(activation, "float")
    if isinstance(activation, layers.ReLU):
        kind = _relu_kind(activation) or "float"
    title = getattr(activation, "__name__", type(activation).__name__)
    reason = f"no integer form for the activation {title!r}" if kind == "float" else ""
    slope = {"slope": _LEAKY_RELU_SLOPE} if kind == "leaky_relu" else {}
    last = step(call, "", kind, (source,), lambda v: activation(v[0]), reason, **slope)
    # Some of these functions take no symbolic tensor; as a layer each of them does.
    return [replace(last, run_on_clone=lambda name: _as_layer(activation, name))]


def _as_layer(activation: Callable, name: str) -> Run:
    if isinstance(activation, layers.Layer):
        layer = clone_operation(activation, name)
    else:
        layer = layers.Activation(activation, name=name)
    return lambda values: [layer(values[0])]


def _silu(call: Call, source: str) -> list[Primitive]:
    """x * sigmoid(x), which TFLite computes as two operators."""
    gate = step(call, "gate", "sigmoid", (source,), lambda v: ops.sigmoid(v[0]))
    product = step(call, "", "multiply", (source, gate.name), lambda v: ops.multiply(v[0], v[1]))
    return [gate, product]


def _hard_sigmoid(call: Call, source: str) -> list[Primitive]:
    """relu6(x + 3) / 6."""
    moved = step(call, "moved", "add", (source,), lambda v: ops.add(v[0], 3.0), constant=3.0)
    clipped = step(call, "clipped", "relu6", (moved.name,), lambda v: ops.relu6(v[0]))
    return [moved, clipped, _times(call, clipped, 1.0 / 6.0)]


def _selu(call: Call, source: str) -> list[Primitive]:
    """lambda leaky_relu(elu(x)), the slope below zero alpha."""
    bent = step(call, "elu", "elu", (source,), lambda v: ops.elu(v[0]))
    steeper = step(
        call,
        "leaky_relu",
        "leaky_relu",
        (bent.name,),
        lambda v: ops.leaky_relu(v[0], _SELU_ALPHA),
        slope=_SELU_ALPHA,
    )
    return [bent, steeper, _times(call, steeper, _SELU_LAMBDA)]


def _times(call: Call, before: Primitive, factor: float) -> Primitive:
    """The last step of a layer: the step before times a number."""
    return step(
        call,
        "",
        "multiply",
        (before.name,),
        lambda v: ops.multiply(v[0], factor),
        constant=factor,
    )


def _relu_kind(layer: layers.ReLU) -> str | None:
    if layer.negative_slope or layer.threshold:
        return None
    return {None: "relu", 6.0: "relu6"}.get(layer.max_value)


@expands(layers.ReLU)
def _relu(call: Call) -> list[Primitive]:
    layer = call.operation
    kind = _relu_kind(layer)
    if kind is None and layer.max_value is None and not layer.threshold:
        return [whole(call, "leaky_relu", {"slope": float(layer.negative_slope)})]
    if kind is None:
        return [
            in_float(
                call,
                f"ReLU(max_value={layer.max_value}, negative_slope={layer.negative_slope}, "
                f"threshold={layer.threshold}) has no integer form",
            )
        ]
    return [whole(call, kind)]


@expands(layers.Activation)
def _activation_layer(call: Call) -> list[Primitive]:
    return _activation(call, call.operation.activation, call.inputs[0])


@expands(layers.Softmax)
def _softmax(call: Call) -> list[Primitive]:
    axis = call.operation.axis
    if axis not in (-1, len(call.shapes[0]) - 1) or len(call.inputs) != 1:
        return [in_float(call, f"Softmax over axis {axis} has no integer form, only the last axis")]
    return [whole(call, "softmax")]


@expands(layers.LeakyReLU, *operation_types("LeakyRelu"))
def _leaky_relu(call: Call) -> list[Primitive]:
    return [whole(call, "leaky_relu", {"slope": float(call.operation.negative_slope)})]


@expands(layers.PReLU)
def _prelu(call: Call) -> list[Primitive]:
    if any(size != 1 for size in call.operation.alpha.shape[:-1]):
        return [in_float(call, "PReLU has an integer form with shared_axes=[1, 2] only")]
    slopes = ops.convert_to_numpy(call.operation.alpha).reshape(-1)
    return [whole(call, "prelu", {"slopes": tuple(slopes.tolist())})]


@expands(layers.ELU, *operation_types("Elu"))
def _elu(call: Call) -> list[Primitive]:
    if call.operation.alpha != 1.0:
        return [in_float(call, f"ELU(alpha={call.operation.alpha}) has no integer form, only 1.0")]
    return [whole(call, "elu")]


_OPERATIONS = {
    "Relu": _A.relu,
    "Relu6": _A.relu6,
    "Gelu": _A.gelu,
    "Sigmoid": _A.sigmoid,
    "Tanh": _A.tanh,
    "Silu": _A.silu,
    "HardSigmoid": _A.hard_sigmoid,
    "HardSilu": _A.hard_swish,
    "Selu": _A.selu,
}


@expands(*operation_types(*_OPERATIONS))
def _operation(call: Call) -> list[Primitive]:
    activation = _OPERATIONS[type(call.operation).__name__]
    if activation in (_A.silu, _A.hard_sigmoid, _A.selu):
        return _activation(call, activation, call.inputs[0])
    return [whole(call, _KINDS[activation])]
