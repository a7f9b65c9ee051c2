"""Operators that join tensors: sums, differences, products, averages, extrema, concatenation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from keras import layers, ops

from tflite_ptq4.keras_side.primitives.primitive import (
    Primitive,
    expands,
    in_float,
    operation_types,
    step,
    whole,
)
from tflite_ptq4.keras_side.trace import Call

_FUNCTIONS: dict[str, Callable] = {
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "maximum": ops.maximum,
    "minimum": ops.minimum,
}


@expands(layers.Add, layers.Subtract, layers.Multiply, layers.Maximum, layers.Minimum)
def _join(call: Call) -> list[Primitive]:
    return _chain(call, type(call.operation).__name__.lower())


def _chain(call: Call, kind: str) -> list[Primitive]:
    """A join of n tensors as n - 1 joins of two, from the left, as Keras joins them."""
    if len(call.inputs) == 1:
        return [whole(call, "identity")]
    if len({len(shape) for shape in call.input_shapes}) > 1:
        return [in_float(call, "a join of tensors of different ranks has no integer form")]
    function = _FUNCTIONS[kind]
    primitives: list[Primitive] = []
    total = call.inputs[0]
    for position, term in enumerate(call.inputs[1:], start=2):
        last = position == len(call.inputs)
        name = call.name if last else f"{call.name}/{kind}{position}"
        primitives.append(
            Primitive(
                name=name,
                kind=kind,
                layer_type=type(call.operation).__name__,
                inputs=(total, term),
                outputs=(name,),
                shapes=call.shapes,
                run=lambda values: [function(values[0], values[1])],
            )
        )
        total = name
    return primitives


@expands(layers.Average)
def _average(call: Call) -> list[Primitive]:
    """The sum times 1 / n. The sum is a step inside the layer, with 8 bits."""
    terms = _chain(call, "add")
    if terms[-1].kind != "add":
        return terms
    *before, last = terms
    total = replace(last, name=f"{call.name}/sum", outputs=(f"{call.name}/sum",))
    share = 1.0 / len(call.inputs)
    mean = step(
        call, "", "multiply", total.outputs, lambda v: ops.multiply(v[0], share), constant=share
    )
    return [*(replace(term, inner=True) for term in (*before, total)), mean]


@expands(*operation_types("Add", "Subtract", "Multiply"))
def _operation(call: Call) -> list[Primitive]:
    """`x + y` of two tensors, or of a tensor and one number."""
    kind = type(call.operation).__name__.lower()
    if len(call.inputs) == 2:
        return [whole(call, kind)]
    constants = [value for value in call.constants if value is not None]
    if len(constants) != 1 or np.size(constants[0]) != 1:
        return [in_float(call, f"{kind} with a constant array has no integer form, only a number")]
    return [whole(call, kind, attributes={"constant": float(np.reshape(constants[0], ()))})]


@expands(*operation_types("Maximum", "Minimum"))
def _extremum(call: Call) -> list[Primitive]:
    kind = type(call.operation).__name__.lower()
    if len(call.inputs) == 2:
        return [whole(call, kind)]
    return [in_float(call, f"{kind} with a constant has no integer form, only of two tensors")]


@expands(layers.Concatenate)
def _concatenate(call: Call) -> list[Primitive]:
    return [whole(call, "concatenate", attributes={"axis": call.operation.axis})]


@expands(*operation_types("Concatenate"))
def _concatenate_operation(call: Call) -> list[Primitive]:
    return [whole(call, "concatenate", attributes={"axis": call.operation.axis})]
