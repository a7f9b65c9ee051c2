"""The weights of a `.tflite` file: which tensors they are, and the bits that they take and use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_ptq4.file_inspection.effective_bits import float_grid_bits, integer_bits
from tflite_ptq4.numerics.nibbles import unpack_int4
from tflite_ptq4.tflite_fields import (
    constant,
    indices,
    operator_name,
    scale_and_zero_point,
    text,
    type_name,
)

# Operator -> (input that holds the weights, input that holds the bias, axis of output channels).
_WEIGHT_OPERATORS = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 0),
    "CONV_3D": (1, 2, 4),
    "CONV_3D_TRANSPOSE": (1, 3, 3),
}
_NUMPY_TYPES = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
}
_STORED_BITS = {"INT2": 2, "INT4": 4, "UINT4": 4, "FLOAT16": 16, "FLOAT32": 32, "FLOAT64": 64}
_STORED_BITS |= {"INT8": 8, "UINT8": 8, "INT16": 16, "INT32": 32}


@dataclass(frozen=True)
class WeightTensor:
    """One weight tensor.

    Attributes:
        name: the tensor's name.
        operator: the first operator that uses it.
        shape: its shape.
        type: its type in the file.
        bytes: length of its buffer.
        stored_bits: bits per weight in the file; of a sparse tensor, those of the weights that are
            stored, spread over all of them.
        effective_bits: mean over the weights of the bits that the values of their channel need,
            see `effective_bits.py`; None for a type that is not read, and for a sparse tensor.
        lowest, highest: extreme stored values; None where they are not read.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    stored_bits: float
    effective_bits: float | None
    lowest: float | None
    highest: float | None

    @property
    def elements(self) -> int:
        """Return the number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class WeightUse:
    """One operator's constant weights.

    Attributes:
        operator: the operator's name.
        channel_axis: the axis of the output channels.
        weight: the tensor.
        data: its bytes, uint8 [n].
        bias: the tensor of the operator's bias, None without one.
    """

    operator: str
    channel_axis: int
    weight: schema.TensorT
    data: np.ndarray
    bias: schema.TensorT | None


def weight_uses(model: schema.ModelT, subgraph: schema.SubGraphT) -> Iterator[WeightUse]:
    """Yield each use of constant weights, also of those that a DEQUANTIZE or DENSIFY unpacks.

    Args:
        model: the whole file.
        subgraph: one of its graphs.
    """
    unpacked: dict[int, int] = {}
    for operator in subgraph.operators:
        if operator_name(model, operator) in ("DEQUANTIZE", "DENSIFY"):
            source = operator.inputs[0]
            unpacked[operator.outputs[0]] = unpacked.get(source, source)
    for operator in subgraph.operators:
        name = operator_name(model, operator)
        if name not in _WEIGHT_OPERATORS:
            continue
        weight_input, bias_input, axis = _WEIGHT_OPERATORS[name]
        inputs = [unpacked.get(i, i) for i in indices(operator.inputs)]
        weight = subgraph.tensors[inputs[weight_input]]
        data = constant(model, weight)
        if data is None:
            continue
        has_bias = len(inputs) > bias_input and inputs[bias_input] >= 0
        bias = subgraph.tensors[inputs[bias_input]] if has_bias else None
        yield WeightUse(name, axis, weight, data, bias)


def weight_tensor(use: WeightUse) -> WeightTensor:
    """Measure the weights of one use."""
    tensor, data = use.weight, use.data
    shape = tuple(indices(tensor.shape))
    elements = int(np.prod(shape, dtype=np.int64))
    stored_type = type_name(tensor)
    effective = lowest = highest = None
    stored_bits = _STORED_BITS.get(stored_type)
    values = None if tensor.sparsity is not None else _stored_values(data, stored_type, elements)
    if stored_bits is None or tensor.sparsity is not None:
        stored_bits = 8 * len(data) / max(elements, 1)
    if values is not None and elements:
        channels = shape[use.channel_axis]
        rows = np.moveaxis(values.reshape(shape), use.channel_axis, 0).reshape(channels, -1)
        lowest, highest = float(values.min()), float(values.max())
        if values.dtype.kind == "f":
            bits = np.minimum(float_grid_bits(rows), stored_bits)
        else:
            record = scale_and_zero_point(tensor)
            zero_point = 0 if record is None else record[1].reshape(-1, 1)
            bits = integer_bits(rows.astype(np.int64) - zero_point)
        effective = float(bits.mean())
    return WeightTensor(
        name=text(tensor.name),
        operator=use.operator,
        shape=shape,
        type=stored_type,
        bytes=len(data),
        stored_bits=float(stored_bits),
        effective_bits=effective,
        lowest=lowest,
        highest=highest,
    )


def _stored_values(data: np.ndarray, stored_type: str, elements: int) -> np.ndarray | None:
    """Return the stored numbers [elements], None for a type that is not read."""
    if stored_type == "INT4":
        return unpack_int4(data, elements)
    if stored_type in _NUMPY_TYPES:
        return data.view(_NUMPY_TYPES[stored_type])
    return None
