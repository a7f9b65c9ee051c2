"""What a file says about itself: how it was quantized, how to feed it, which runtime it needs.

Two entries of the flatbuffer's metadata: `tflite_ptq4`, JSON for people and tools, and
`min_runtime_version`, which TFLiteConverter writes too and runtimes know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from tflite_ptq4.config.description import describe
from tflite_ptq4.converters.export_source import ExportSource
from tflite_ptq4.converters.schema import (
    BufferT,
    BuiltinOperator,
    MetadataT,
    ModelT,
    TensorType,
    generated,
)
from tflite_ptq4.targets import METADATA_NAME

_RUNTIME_NAME = b"min_runtime_version"
_RUNTIME_BYTES = 16  # the length that TFLiteConverter gives this entry

_FLOAT_RUNTIME = (1, 14, 0)  # ROUND, MINIMUM and MAXIMUM
# int8 operators at the versions of integer_operators.py are in every runtime since 2.3, but for:
_NEWER_OPERATORS = {BuiltinOperator.GELU: (2, 9, 0), BuiltinOperator.RSQRT: (2, 5, 0)}
_INT8_RUNTIME = (2, 3, 0)
# With INT4 weights and int8 activations: what was run. 2.14 is the oldest release that we have, and
# computes convolutions; FULLY_CONNECTED fails up to 2.18, although its version loads.
_INT4_RUNTIME = {
    BuiltinOperator.CONV_2D: (2, 14, 0),
    BuiltinOperator.DEPTHWISE_CONV_2D: (2, 14, 0),
    BuiltinOperator.FULLY_CONNECTED: (2, 19, 0),
}


def add_metadata(model: ModelT, source: ExportSource, settings: Mapping[str, str]) -> None:
    """Write both entries, and the description, into a finished model.

    Args:
        model: the model, changed in place.
        source: what it was written from.
        settings: target, io and layout that were asked for.
    """
    plan, file = source.plan, source.float_file
    facts = {
        "tflite_ptq4": source.package_version,
        "method": describe(plan.config),
        **settings,
        "inputs": _interface(file.input_names, source.graph.inputs, source),
        "outputs": _interface(file.output_names, source.graph.outputs, source),
        "config": plan.config.to_dict(),
    }
    model.description = f"tflite-ptq4 {source.package_version}: {describe(plan.config)}".encode()
    text = json.dumps(facts, separators=(",", ":"), allow_nan=False).encode()
    runtime = ".".join(map(str, _oldest_runtime(model, file.data))).encode()
    model.metadata, model.metadataBuffer = [], None
    for name, data in (
        (METADATA_NAME.encode(), text),
        (_RUNTIME_NAME, runtime.ljust(_RUNTIME_BYTES, b"\0")),
    ):
        model.buffers.append(BufferT(data=np.frombuffer(data, dtype=np.uint8)))
        entry = MetadataT()
        entry.name, entry.buffer = name, len(model.buffers) - 1
        model.metadata.append(entry)


def _interface(shown: tuple[str, ...], names: tuple[str, ...], source: ExportSource) -> list[dict]:
    """Name and int8 form of each input or output; without one where it stays float."""
    entries = []
    for label, name in zip(shown, names, strict=True):
        entry: dict = {"name": label}
        tensor = source.plan.tensors.get(name)
        if tensor is not None and not tensor.per_channel:
            scale = float(np.float32(tensor.scale[0]))
            entry |= {"scale": scale, "zero_point": int(tensor.stored_zero_point[0])}
        entries.append(entry)
    return entries


def _oldest_runtime(model: ModelT, float_data: bytes) -> tuple[int, ...]:
    """The oldest release that has every operator: of the float file, and of what replaced it."""
    found = [_FLOAT_RUNTIME, _runtime_of_float(float_data)]
    graph = model.subgraphs[0]
    for operator in graph.operators:
        types = {graph.tensors[int(i)].type for i in operator.inputs if i >= 0}
        builtin = model.operatorCodes[operator.opcodeIndex].builtinCode
        if TensorType.INT4 in types:
            found.append(_INT4_RUNTIME[builtin])
        elif TensorType.INT8 in types:
            found.append(_NEWER_OPERATORS.get(builtin, _INT8_RUNTIME))
    return max(found)


def _runtime_of_float(float_data: bytes) -> tuple[int, ...]:
    model = generated.Model.GetRootAs(float_data)
    for position in range(model.MetadataLength()):
        entry = model.Metadata(position)
        if entry.Name() == _RUNTIME_NAME:
            text = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes().rstrip(b"\0").decode()
            return tuple(int(part) for part in text.split("."))
    return _FLOAT_RUNTIME
