"""What lies in a `.tflite` file: operators, types, bytes, and the bits and levels really used.

Measuring only; the command line draws the tables. Works on any TFLite file, not only on ours.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_ptq4.activation_levels import (
    TYPE_NAMES,
    activation_levels,
    constant,
    indices,
    operator_name,
    scale_and_zero_point,
)
from tflite_ptq4.effective_bits import float_grid_bits, integer_bits
from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.numerics.nibbles import unpack_int4

_IDENTIFIER = b"TFL3"
# Operator -> (input that holds the weights, input that holds the bias, axis of output channels).
_WEIGHT_OPERATORS = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 0),
    "CONV_3D": (1, 2, 4),
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
        stored_bits: bits per weight in the file.
        effective_bits: mean over the weights of the bits that the values of their channel need,
            see `effective_bits.py`; None for a type that is not read.
        lowest, highest: extreme stored values.
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
class ActivationTensor:
    """One tensor that is computed: `levels` is how many values it takes at most, per channel.

    `scale` and `zero_point` are None for a tensor without them, `levels` is None where the graph
    sets no bound. Where channels differ, `levels` is the mean and `most_levels` the largest.
    """

    name: str
    operator: str
    type: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None
    levels: float | None
    most_levels: int | None


@dataclass(frozen=True)
class FileReport:
    """Everything that `inspect_file` measures.

    Attributes:
        file_bytes: length of the file.
        bytes_by_kind: bytes of weights, biases, other constants, quantization records (scales,
            zero points, ranges), metadata and the rest (the graph itself); they add up to
            `file_bytes`.
        metadata: the entries of the file's metadata that are text: what was read from JSON where
            they hold that, and their text otherwise.
        operators: operator name -> how many there are.
        tensor_types: type name -> how many tensors have it.
        weights: the weight tensors in the order of their use.
        activations: the computed tensors in the order of their computation, inputs first.
    """

    file_bytes: int
    bytes_by_kind: dict[str, int]
    metadata: dict[str, Any]
    operators: dict[str, int]
    tensor_types: dict[str, int]
    weights: tuple[WeightTensor, ...]
    activations: tuple[ActivationTensor, ...]

    @property
    def stored_bits_per_weight(self) -> float | None:
        """Return the mean over all weights of the bits that a weight takes in the file."""
        return _weighted_mean([(w.stored_bits, w.elements) for w in self.weights])

    @property
    def effective_bits_per_weight(self) -> float | None:
        """Return the mean over all weights of the bits that the values need."""
        return _weighted_mean(
            [(w.effective_bits, w.elements) for w in self.weights if w.effective_bits is not None]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **asdict(self),
            "stored_bits_per_weight": self.stored_bits_per_weight,
            "effective_bits_per_weight": self.effective_bits_per_weight,
        }


def inspect_file(content: bytes) -> FileReport:
    """Measure the content of a `.tflite` file.

    Raises:
        FileFormatError: it is not a TFLite file, or is corrupt.
    """
    if content[4:8] != _IDENTIFIER:
        raise FileFormatError(
            f"A TFLite file must have the identifier {_IDENTIFIER.decode()} at byte 4. Received "
            f"{len(content)} bytes that start with {content[:8]!r}: name a .tflite file."
        )
    try:
        return _report(schema.ModelT.InitFromPackedBuf(content, 0), len(content))
    # Offsets of a damaged file lead anywhere; each way of going astray has its own exception.
    except (
        struct.error,
        IndexError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise FileFormatError(
            f"The TFLite file must be whole, but cannot be followed to its end ({error}). It is "
            "corrupt or cut short: write or download it again."
        ) from error


def _report(model: schema.ModelT, file_bytes: int) -> FileReport:
    operators: Counter[str] = Counter()
    types: Counter[str] = Counter()
    weights: list[WeightTensor] = []
    activations: list[ActivationTensor] = []
    weight_buffers: set[int] = set()
    bias_buffers: set[int] = set()
    records = 0
    for subgraph in model.subgraphs:
        types.update(_type_name(tensor) for tensor in subgraph.tensors)
        records += sum(_record_bytes(tensor) for tensor in subgraph.tensors)
        operators.update(operator_name(model, operator) for operator in subgraph.operators)
        for use in _weight_uses(model, subgraph):
            if use.bias is not None:
                bias_buffers.add(use.bias.buffer)
            if use.weight.buffer not in weight_buffers:
                weight_buffers.add(use.weight.buffer)
                weights.append(_weight_tensor(use))
        activations += _activations(model, subgraph)
    kinds = {
        "weights": _buffer_bytes(model, weight_buffers),
        "biases": _buffer_bytes(model, bias_buffers - weight_buffers),
    }
    constants = _buffer_bytes(model, set(range(len(model.buffers))))
    kinds["metadata"] = _buffer_bytes(model, {entry.buffer for entry in model.metadata or ()})
    kinds["other constants"] = constants - sum(kinds.values())
    kinds["quantization records"] = records
    kinds["graph and padding"] = file_bytes - sum(kinds.values())
    return FileReport(
        file_bytes=file_bytes,
        bytes_by_kind=kinds,
        metadata=_metadata(model),
        operators=dict(operators.most_common()),
        tensor_types=dict(types.most_common()),
        weights=tuple(weights),
        activations=tuple(activations),
    )


@dataclass(frozen=True)
class _WeightUse:
    operator: str
    channel_axis: int
    weight: schema.TensorT
    data: np.ndarray
    bias: schema.TensorT | None


def _weight_uses(model: schema.ModelT, subgraph: schema.SubGraphT) -> Iterator[_WeightUse]:
    """Yield each use of constant weights, also of those that a DEQUANTIZE unpacks."""
    dequantized = {
        operator.outputs[0]: operator.inputs[0]
        for operator in subgraph.operators
        if operator_name(model, operator) == "DEQUANTIZE"
    }
    for operator in subgraph.operators:
        name = operator_name(model, operator)
        if name not in _WEIGHT_OPERATORS:
            continue
        weight_input, bias_input, axis = _WEIGHT_OPERATORS[name]
        inputs = [dequantized.get(i, i) for i in indices(operator.inputs)]
        weight = subgraph.tensors[inputs[weight_input]]
        data = constant(model, weight)
        if data is None:
            continue
        has_bias = len(inputs) > bias_input and inputs[bias_input] >= 0
        bias = subgraph.tensors[inputs[bias_input]] if has_bias else None
        yield _WeightUse(name, axis, weight, data, bias)


def _weight_tensor(use: _WeightUse) -> WeightTensor:
    tensor, data = use.weight, use.data
    shape = tuple(indices(tensor.shape))
    elements = int(np.prod(shape, dtype=np.int64))
    type_name = _type_name(tensor)
    effective = lowest = highest = None
    values = _stored_values(data, type_name, elements)
    if values is not None and elements:
        channels = shape[use.channel_axis]
        rows = np.moveaxis(values.reshape(shape), use.channel_axis, 0).reshape(channels, -1)
        lowest, highest = float(values.min()), float(values.max())
        if values.dtype.kind == "f":
            bits = float_grid_bits(rows)
        else:
            record = scale_and_zero_point(tensor)
            zero_point = 0 if record is None else record[1].reshape(-1, 1)
            bits = integer_bits(rows.astype(np.int64) - zero_point)
        effective = float(bits.mean())
    return WeightTensor(
        name=_text(tensor.name),
        operator=use.operator,
        shape=shape,
        type=type_name,
        bytes=len(data),
        stored_bits=float(_STORED_BITS.get(type_name, 8 * len(data) / max(elements, 1))),
        effective_bits=effective,
        lowest=lowest,
        highest=highest,
    )


def _stored_values(data: np.ndarray, type_name: str, elements: int) -> np.ndarray | None:
    """Return the stored numbers [elements], None for a type that is not read."""
    if type_name == "INT4":
        return unpack_int4(data, elements)
    if type_name in _NUMPY_TYPES:
        return data.view(_NUMPY_TYPES[type_name])
    return None


def _activations(model: schema.ModelT, subgraph: schema.SubGraphT) -> Iterator[ActivationTensor]:
    levels = activation_levels(model, subgraph)
    computed = [(index, "input") for index in indices(subgraph.inputs)]
    for operator in subgraph.operators:
        name = operator_name(model, operator)
        computed += [(index, name) for index in indices(operator.outputs)]
    for index, operator in computed:
        tensor = subgraph.tensors[index]
        record = scale_and_zero_point(tensor)
        per_tensor = record is not None and len(record[0]) == 1
        count = levels.get(index)
        yield ActivationTensor(
            name=_text(tensor.name),
            operator=operator,
            type=_type_name(tensor),
            shape=tuple(indices(tensor.shape)),
            scale=float(record[0][0]) if record is not None and per_tensor else None,
            zero_point=int(record[1][0]) if record is not None and per_tensor else None,
            levels=None if count is None else float(count.mean()),
            most_levels=None if count is None else int(count.max()),
        )


def _metadata(model: schema.ModelT) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in model.metadata or ():
        data = model.buffers[entry.buffer].data
        try:
            text = bytes([] if data is None else data).rstrip(b"\0").decode()
        except UnicodeDecodeError:
            continue
        if not text.isprintable():
            continue
        try:
            found[_text(entry.name)] = json.loads(text) if text.startswith("{") else text
        except json.JSONDecodeError:
            found[_text(entry.name)] = text
    return found


def _record_bytes(tensor: schema.TensorT) -> int:
    record = tensor.quantization
    if record is None:
        return 0
    sizes = ((record.scale, 4), (record.min, 4), (record.max, 4), (record.zeroPoint, 8))
    return sum(size * len(vector) for vector, size in sizes if vector is not None)


def _buffer_bytes(model: schema.ModelT, buffers: set[int]) -> int:
    contents = (model.buffers[index].data for index in buffers)
    return sum(len(data) for data in contents if data is not None)


def _weighted_mean(pairs: list[tuple[float, int]]) -> float | None:
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def _type_name(tensor: schema.TensorT) -> str:
    return TYPE_NAMES.get(tensor.type, f"TYPE_{tensor.type}")


def _text(name: bytes | str | None) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""
