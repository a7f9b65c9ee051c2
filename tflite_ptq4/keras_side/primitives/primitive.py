"""Keras layers as primitive operators: one kernel, one activation, one join at a time.

A layer with `activation=` is two primitives, a SeparableConv2D three. Running the primitives of a
layer one after the other repeats the arithmetic of the layer itself. The expansions of the single
layer types register themselves: see the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

import keras
import numpy as np

from tflite_ptq4.keras_side.opened_layers import is_of_the_user
from tflite_ptq4.keras_side.trace import Call, Run

Expansion = Callable[[Call], list["Primitive"]]
Shape = tuple[int | None, ...]

_EXPANSIONS: dict[type, Expansion] = {}
_REGISTERING_MODULES = ("weighted", "activation", "joining", "moving", "normalization")


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
        kernel: float32 kernel in the layout of `graph.Node`, for operators with weights; for
            "batch_norm" the factor per channel.
        bias: float32 bias; for "batch_norm" the offset per channel.
        attributes: strides, padding, dilation and the like.
        reason: why the operator stays in float, for the kind "float".
        run_on_clone: given a name, the same run on a copy of the layer, for symbolic tensors;
            None where `run` touches no layer.
        lowered_run: the same values by operations that TFLite has; None where `run` does so.
        layer: the name of the call, of which the primitive may be a part.
        inner: whether its output is a step on the way to a layer's output, no activation.
    """

    name: str
    kind: str
    layer_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    run: Run
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    attributes: dict = field(default_factory=dict)
    reason: str = ""
    run_on_clone: Callable[[str], Run] | None = None
    lowered_run: Run | None = None
    layer: str = ""
    inner: bool = False


def expand(call: Call) -> list[Primitive]:
    """The primitives of one call, in the order of execution.

    Args:
        call: a call of a traced model.

    Returns:
        One primitive or several; the last one writes the call's own output name. What has no
        integer form comes back as one primitive of the kind "float" with its reason.
    """
    _register_all()
    # The exact type: a subclass may compute anything in its `call`.
    expansion = _EXPANSIONS.get(type(call.operation))
    if expansion is None:
        reason = f"no integer form for {type(call.operation).__name__}"
        if is_of_the_user(call.operation):
            reason += ", a class with weights or computations that are not those of Keras layers"
        return [in_float(call, reason)]
    return expansion(call)


@cache
def _register_all() -> None:
    for module in _REGISTERING_MODULES:
        import_module(f"tflite_ptq4.keras_side.primitives.{module}")


def expands(*types: type) -> Callable[[Expansion], Expansion]:
    """Register the expansion of layer or operation types."""

    def register(expansion: Expansion) -> Expansion:
        _EXPANSIONS.update(dict.fromkeys(types, expansion))
        return expansion

    return register


def whole(call: Call, kind: str, attributes: dict | None = None, **fields) -> Primitive:
    """The whole call as one primitive of the given kind.

    Args:
        call: of a traced model.
        kind: a kind of `operator_rules.RULES`, or "identity".
        attributes: as in `Primitive`, beside the settings of the layer.
        **fields: other fields of the primitive.
    """
    attributes = {"settings": _settings(call.operation), **(attributes or {})}
    return Primitive(
        name=call.name,
        kind=kind,
        layer_type=type(call.operation).__name__,
        inputs=call.inputs,
        outputs=call.outputs,
        shapes=call.shapes,
        run=call.run,
        run_on_clone=call.run_on_clone,
        attributes=attributes,
        **fields,
    )


def _settings(operation: keras.Operation) -> tuple[tuple[str, object], ...]:
    """The plain values that a layer was made with, to tell one pooling from another."""
    if not isinstance(operation, keras.layers.Layer):
        return ()
    try:
        config = operation.get_config()
    except NotImplementedError:
        return ()
    plain = (int, float, str, bool, type(None))
    return tuple(
        (key, tuple(value) if isinstance(value, list) else value)
        for key, value in sorted(config.items())
        if key != "name"
        and (
            isinstance(value, plain)
            or (isinstance(value, (tuple, list)) and all(isinstance(v, plain) for v in value))
        )
    )


def step(
    call: Call,
    part: str,
    kind: str,
    inputs: tuple[str, ...],
    compute: Callable,
    reason: str = "",
    *,
    shape: Shape | None = None,
    **attributes: object,
) -> Primitive:
    """One of the operators that a layer becomes.

    Args:
        call: the layer's call.
        part: what the operator is called inside the layer; the part "" is the last and carries the
            call's name, any other one is inner.
        kind: of the operator.
        inputs: names of the tensors read.
        compute: list of tensors in, one tensor out.
        reason: why it stays in float.
        shape: of the output; the call's own where None.
        **attributes: of the primitive.
    """
    name = f"{call.name}/{part}" if part else call.name
    return Primitive(
        name=name,
        kind=kind,
        layer_type=type(call.operation).__name__,
        inputs=inputs,
        outputs=(name,),
        shapes=call.shapes if shape is None else (shape,),
        run=lambda values: [compute(values)],
        reason=reason,
        attributes=attributes,
        inner=bool(part),
    )


def in_float(call: Call, reason: str) -> Primitive:
    """The whole call as an operator that stays in float.

    Args:
        call: of a traced model.
        reason: why TFLite has no integer form of it.
    """
    return whole(call, "float", reason=reason)


def is_channels_first(call: Call) -> bool:
    """Whether a layer on images has the layout that TFLite does not compute."""
    return getattr(call.operation, "data_format", "channels_last") == "channels_first"


CHANNELS_FIRST_REASON = "data_format='channels_first'; TFLite computes channels_last only"


def operation_types(*names: str) -> list[type]:
    """The classes behind functions of `keras.ops`, which Keras does not export.

    Args:
        names: class names, e.g. "Add". A Keras version that has no such class is passed over.
    """
    modules = [import_module(f"keras.src.ops.{name}") for name in ("numpy", "nn", "core", "image")]
    return [
        getattr(module, name)
        for name in names
        for module in modules
        if isinstance(getattr(module, name, None), type)
        and issubclass(getattr(module, name), keras.Operation)
    ]
