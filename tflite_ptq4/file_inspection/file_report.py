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

from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.file_identifier import require_identifier
from tflite_ptq4.file_inspection.activation_levels import activation_levels
from tflite_ptq4.file_inspection.weight_tensors import WeightTensor, weight_tensor, weight_uses
from tflite_ptq4.tflite_fields import indices, operator_name, scale_and_zero_point, text, type_name


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
class Signature:
    """A way to call the file: names that users know -> names of tensors."""

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]


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
        signatures: the ways to call it; a file may have none.
        subgraphs: how many graphs it has: one, and more for control flow and further signatures.
        operators: operator name -> how many there are.
        tensor_types: type name -> how many tensors have it.
        weights: the weight tensors in the order of their use.
        activations: the computed tensors in the order of their computation, inputs first.
    """

    file_bytes: int
    bytes_by_kind: dict[str, int]
    metadata: dict[str, Any]
    signatures: tuple[Signature, ...]
    subgraphs: int
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
    require_identifier(content, "The file")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _report(model, len(content), _record_bytes(content))
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


def _report(model: schema.ModelT, file_bytes: int, record_bytes: int) -> FileReport:
    operators: Counter[str] = Counter()
    types: Counter[str] = Counter()
    weights: list[WeightTensor] = []
    activations: list[ActivationTensor] = []
    weight_buffers: set[int] = set()
    bias_buffers: set[int] = set()
    for subgraph in model.subgraphs:
        types.update(type_name(tensor) for tensor in subgraph.tensors)
        operators.update(operator_name(model, operator) for operator in subgraph.operators)
        for use in weight_uses(model, subgraph):
            if use.bias is not None:
                bias_buffers.add(use.bias.buffer)
            if use.weight.buffer not in weight_buffers:
                weight_buffers.add(use.weight.buffer)
                weights.append(weight_tensor(use))
        activations += _activations(model, subgraph)
    kinds = {
        "weights": _buffer_bytes(model, weight_buffers),
        "biases": _buffer_bytes(model, bias_buffers - weight_buffers),
    }
    constants = _buffer_bytes(model, set(range(len(model.buffers))))
    kinds["metadata"] = _buffer_bytes(model, {entry.buffer for entry in model.metadata or ()})
    kinds["other constants"] = constants - sum(kinds.values())
    kinds["quantization records"] = record_bytes
    kinds["graph and padding"] = file_bytes - sum(kinds.values())
    return FileReport(
        file_bytes=file_bytes,
        bytes_by_kind=kinds,
        metadata=_metadata(model),
        signatures=tuple(_signature(model, entry) for entry in model.signatureDefs or ()),
        subgraphs=len(model.subgraphs),
        operators=dict(operators.most_common()),
        tensor_types=dict(types.most_common()),
        weights=tuple(weights),
        activations=tuple(activations),
    )


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
            name=text(tensor.name),
            operator=operator,
            type=type_name(tensor),
            shape=tuple(indices(tensor.shape)),
            scale=float(record[0][0]) if record is not None and per_tensor else None,
            zero_point=int(record[1][0]) if record is not None and per_tensor else None,
            levels=None if count is None else float(count.mean()),
            most_levels=None if count is None else int(count.max()),
        )


def _signature(model: schema.ModelT, entry: schema.SignatureDefT) -> Signature:
    tensors = model.subgraphs[entry.subgraphIndex].tensors
    inputs, outputs = (
        {text(place.name): text(tensors[place.tensorIndex].name) for place in places or ()}
        for places in (entry.inputs, entry.outputs)
    )
    return Signature(text(entry.signatureKey), inputs, outputs)


def _metadata(model: schema.ModelT) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in model.metadata or ():
        data = model.buffers[entry.buffer].data
        try:
            value = bytes([] if data is None else data).rstrip(b"\0").decode()
        except UnicodeDecodeError:
            continue
        if not value.isprintable():
            continue
        try:
            found[text(entry.name)] = json.loads(value) if value.startswith("{") else value
        except json.JSONDecodeError:
            found[text(entry.name)] = value
    return found


def _record_bytes(content: bytes) -> int:
    """The bytes of scales, zero points and ranges; what several tensors share counts once."""
    found: dict[int, int] = {}
    model = schema.Model.GetRootAs(content, 0)
    for subgraph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(subgraph.Tensors, range(subgraph.TensorsLength())):
            record = tensor.Quantization()
            if record is None:
                continue
            for name in ("Scale", "ZeroPoint", "Min", "Max"):
                vector = getattr(record, f"{name}AsNumpy")()
                if isinstance(vector, np.ndarray):  # 0 where there is none
                    found[vector.__array_interface__["data"][0]] = vector.nbytes
    return sum(found.values())


def _buffer_bytes(model: schema.ModelT, buffers: set[int]) -> int:
    contents = (model.buffers[index].data for index in buffers)
    return sum(len(data) for data in contents if data is not None)


def _weighted_mean(pairs: list[tuple[float, int]]) -> float | None:
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None
