"""Write small .tflite files by hand, one operator at a time, without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {
    "float16": schema.TensorType.FLOAT16,
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int4": schema.TensorType.INT4,
}


class TinyModel:
    """A one-subgraph .tflite file under construction; tensors are named by their index."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.name = "main"
        self._graph.tensors, self._graph.operators = [], []
        self._codes: list[Any] = []
        self._buffers = [schema.BufferT()]

    def activation(
        self,
        shape: Sequence[int],
        scale: float | None = None,
        zero_point: int = 0,
    ) -> int:
        """Add an int8 tensor (float32 when `scale` is None) that the graph computes or is fed."""
        if scale is None:
            return self._tensor(shape, "float32", 0, [], [], 0)
        return self._tensor(shape, "int8", 0, [scale], [zero_point], 0)

    def constant(
        self,
        values: np.ndarray,
        scale: float | Sequence[float] = (),
        zero_point: int = 0,
        *,
        axis: int = 0,
        packed: bool = False,
    ) -> int:
        """Add a constant; `packed` stores int8 values as INT4, the low nibble first."""
        scales = np.atleast_1d(np.asarray(scale, np.float32))
        data = np.ascontiguousarray(values)
        kind = data.dtype.name
        if packed:
            kind, nibbles = "int4", data.ravel().astype(np.uint8) & 15
            nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
            data = nibbles[0::2] | nibbles[1::2] << 4
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        self._buffers.append(buffer)
        points = [zero_point] * scales.size
        return self._tensor(values.shape, kind, len(self._buffers) - 1, scales, points, axis)

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        output: int,
        options: str | None = None,
        version: int = 1,
        **fields: Any,
    ) -> int:
        """Append builtin `name`, with `options` such as "Pool2DOptions", and return `output`."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        self._codes.append(code)
        node = schema.OperatorT()
        node.opcodeIndex = len(self._codes) - 1
        node.inputs = np.asarray(inputs, np.int32)
        node.outputs = np.asarray([output], np.int32)
        if options is not None:
            node.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            node.builtinOptions = getattr(schema, options + "T")()
            for field, value in fields.items():
                if not hasattr(node.builtinOptions, field):
                    raise TypeError(f"{options} has no field {field!r}")
                setattr(node.builtinOptions, field, value)
        self._graph.operators.append(node)
        return output

    def to_bytes(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Serialize with the given graph inputs and outputs."""
        self._graph.inputs = np.asarray(inputs, np.int32)
        self._graph.outputs = np.asarray(outputs, np.int32)
        model = schema.ModelT()
        model.version = 3
        model.operatorCodes, model.buffers = self._codes, self._buffers
        model.subgraphs = [self._graph]
        return pack(model)

    def _tensor(
        self,
        shape: Sequence[int],
        kind: str,
        buffer: int,
        scales: Sequence[float],
        zero_points: Sequence[int],
        axis: int,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = f"tensor_{len(self._graph.tensors)}"
        tensor.shape = np.asarray(shape, np.int32)
        tensor.type = _TYPES[kind]
        tensor.buffer = buffer
        if len(scales):
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scales, np.float32)
            tensor.quantization.zeroPoint = np.asarray(zero_points, np.int64)
            tensor.quantization.quantizedDimension = axis
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


def pack(model: schema.ModelT) -> bytes:
    """The .tflite bytes of an object-API model."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
