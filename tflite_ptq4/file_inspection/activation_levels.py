"""How many levels an activation of a TFLite graph can take, read off the graph without running it.

Each tensor gets the interval of values that can occur in it: stored integers for an integer tensor,
real values for a float one. A fused ReLU cuts an int8 tensor with zero point 112 to [112, 127], 16
levels; a QUANTIZE from zero point -120 to 120 saturates at 127 and leaves [112, 127] again; in a
float graph ROUND makes the values whole, and MINIMUM and RELU bound them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_ptq4.tflite_fields import (
    constant,
    indices,
    operator_name,
    scale_and_zero_point,
    type_name,
)

_INTEGER_LIMITS = {
    "INT2": (-2, 1),
    "INT4": (-8, 7),
    "UINT4": (0, 15),
    "INT8": (-128, 127),
    "UINT8": (0, 255),
    "INT16": (-32768, 32767),
}
_CLAMPS = {
    "RELU": (0.0, np.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU_0_TO_1": (0.0, 1.0),
}
_FUSED = {
    schema.ActivationFunctionType.RELU: "RELU",
    schema.ActivationFunctionType.RELU6: "RELU6",
    schema.ActivationFunctionType.RELU_N1_TO_1: "RELU_N1_TO_1",
}
# Operators that only move, choose or, in an integer tensor, average values of their input.
_SELECTING = {"MAX_POOL_2D", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "STRIDED_SLICE"}
_SELECTING |= {"SLICE", "GATHER", "SPLIT", "SPLIT_V", "UNPACK", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"}
_SELECTING |= {"RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "TILE", "QUANTIZE", "DEQUANTIZE"}
_PADDING = {"PAD", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"}
_AVERAGING = {"AVERAGE_POOL_2D", "MEAN", "RESIZE_BILINEAR"}


@dataclass(frozen=True)
class _Values:
    """What a tensor can hold, in real values: float64 arrays, per channel or of size 1.

    `whole` says that only whole numbers occur, `levels` bounds how many different values do.
    """

    low: np.ndarray
    high: np.ndarray
    levels: np.ndarray
    whole: bool = False

    @classmethod
    def anything(cls) -> _Values:
        infinite = np.array([np.inf])
        return cls(-infinite, infinite, infinite)

    def bounded(self, low: Any, high: Any) -> _Values:
        return replace(self, low=np.maximum(self.low, low), high=np.minimum(self.high, high))

    def counted(self) -> _Values:
        """Bring `levels` down to the number of whole values in the interval."""
        if not self.whole:
            return self
        levels = np.maximum(np.floor(self.high) - np.ceil(self.low) + 1, 1)
        return replace(self, levels=np.minimum(self.levels, levels))

    def merged_channels(self) -> _Values:
        """Forget which channel is which: the hull, and the most levels of any channel."""
        return replace(
            self,
            low=self.low.min(keepdims=True),
            high=self.high.max(keepdims=True),
            levels=self.levels.max(keepdims=True),
        )


def activation_levels(model: schema.ModelT, subgraph: schema.SubGraphT) -> dict[int, np.ndarray]:
    """Return how many different values each activation can take at most.

    Args:
        model: the whole model.
        subgraph: one of its subgraphs, operators in the order of execution.

    Returns:
        Tensor index -> number of levels, float64 [channels], or [1] for one number for the whole
        tensor. Float tensors without a bound, constants and other types are left out.
    """
    values = {
        index: _stored(_Values.anything(), subgraph.tensors[index])
        for index in indices(subgraph.inputs)
    }
    for operator in subgraph.operators:
        name = operator_name(model, operator)
        sources = [int(i) for i in indices(operator.inputs) if i >= 0]
        result = _result(model, subgraph, operator, name, sources, values)
        for output in indices(operator.outputs):
            values[output] = _stored(result, subgraph.tensors[output])
    return {
        index: value.levels for index, value in values.items() if np.isfinite(value.levels).all()
    }


def _result(
    model: schema.ModelT,
    subgraph: schema.SubGraphT,
    operator: schema.OperatorT,
    name: str,
    sources: list[int],
    values: dict[int, _Values],
) -> _Values:
    """Return what the operator computes, in real values, before it is stored."""
    inputs = [values.get(source, _Values.anything()) for source in sources]
    first = inputs[0] if inputs else _Values.anything()
    if name in _SELECTING:
        data = next((v for i, v in zip(sources, inputs, strict=True) if i in values), first)
        result = (
            data if name in ("MAX_POOL_2D", "QUANTIZE", "DEQUANTIZE") else data.merged_channels()
        )
    elif name in _PADDING:
        merged = first.merged_channels()
        result = replace(
            merged, low=np.minimum(merged.low, 0), high=np.maximum(merged.high, 0)
        ).counted()
    elif name in _AVERAGING:
        hull = first.merged_channels()
        result = replace(_Values.anything(), low=hull.low, high=hull.high)
    elif name == "CONCATENATION" and inputs:
        parts = [part.merged_channels() for part in inputs]
        result = _Values(
            low=np.min([part.low for part in parts], axis=0),
            high=np.max([part.high for part in parts], axis=0),
            levels=np.max([part.levels for part in parts], axis=0),
            whole=all(part.whole for part in parts),
        ).counted()
    elif name in ("ROUND", "FLOOR", "CEIL"):
        rounding = {"ROUND": np.rint, "FLOOR": np.floor, "CEIL": np.ceil}[name]
        result = replace(first, low=rounding(first.low), high=rounding(first.high), whole=True)
    elif name in _CLAMPS:
        result = first.bounded(*_CLAMPS[name])
    elif name in ("MINIMUM", "MAXIMUM") and all(source in values for source in sources):
        extremum = {"MINIMUM": np.minimum, "MAXIMUM": np.maximum}[name]
        one, other = (part.merged_channels() for part in inputs)
        result = _Values(
            low=extremum(one.low, other.low),
            high=extremum(one.high, other.high),
            levels=one.levels + other.levels,
            whole=one.whole and other.whole,
        ).counted()
    elif name in ("MINIMUM", "MAXIMUM", "MUL", "ADD", "SUB") and len(sources) == 2:
        result = _with_constant(model, subgraph, name, sources, inputs)
    else:
        result = _Values.anything()
    fused = _FUSED.get(getattr(operator.builtinOptions, "fusedActivationFunction", 0))
    return result.bounded(*_CLAMPS[fused]) if fused else result


def _with_constant(
    model: schema.ModelT,
    subgraph: schema.SubGraphT,
    name: str,
    sources: list[int],
    inputs: list[_Values],
) -> _Values:
    """Combine an activation with a constant, element by element."""
    constants = [_real_constant(model, subgraph.tensors[source]) for source in sources]
    if (constants[0] is None) == (constants[1] is None):
        return _Values.anything()
    side = 0 if constants[1] is None else 1
    number, value = constants[side], inputs[1 - side]
    if number is None:
        return _Values.anything()
    sizes = {array.size for array in (number, value.low, value.high, value.levels)}
    if len(sizes - {1}) > 1:
        return _Values.anything()
    if name in ("MINIMUM", "MAXIMUM"):
        whole = value.whole and bool((number == np.rint(number)).all())
        bounded = (
            value.bounded(-np.inf, number) if name == "MINIMUM" else value.bounded(number, np.inf)
        )
        return replace(bounded, whole=whole)
    value = value.counted()
    if name == "MUL" and (number > 0).all():
        return replace(value, low=value.low * number, high=value.high * number, whole=False)
    # A shift or a mirror image has as many levels; where they lie matters to nobody downstream.
    return replace(_Values.anything(), levels=value.levels)


def _stored(value: _Values, tensor: schema.TensorT) -> _Values:
    """Return what is left of real values in the type of the tensor that holds them."""
    stored_type = type_name(tensor)
    record = scale_and_zero_point(tensor)
    if stored_type not in _INTEGER_LIMITS:
        return value.counted() if stored_type.startswith("FLOAT") else _Values.anything()
    lowest, highest = _INTEGER_LIMITS[stored_type]
    full = np.array([float(highest - lowest + 1)])
    if record is None or len(record[0]) != 1 or record[0][0] <= 0:
        return replace(_Values.anything(), levels=full)
    scale, zero_point = record
    low = np.clip(np.rint(value.low / scale) + zero_point, lowest, highest)
    high = np.clip(np.rint(value.high / scale) + zero_point, lowest, highest)
    return _Values(
        low=(low - zero_point) * scale,
        high=(high - zero_point) * scale,
        levels=np.minimum(high - low + 1, value.levels),
    )


def _real_constant(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """Return a float or int8 constant of one number or one per channel: float64 [k]."""
    data = constant(model, tensor)
    shape = [int(side) for side in indices(tensor.shape)]
    if data is None or any(side != 1 for side in shape[:-1]):
        return None
    stored_type = type_name(tensor)
    if stored_type == "FLOAT32":
        return data.view(np.float32).astype(np.float64)
    record = scale_and_zero_point(tensor)
    if stored_type == "INT8" and record is not None:
        return (data.view(np.int8).astype(np.float64) - record[1]) * record[0]
    return None
