"""Bytes of a .tflite file to an editable model, and back."""

from __future__ import annotations

import struct

import flatbuffers
import numpy as np

from tflite_ptq4.converters.schema import (
    BufferT,
    ModelT,
    QuantizationParametersT,
    generated,
)
from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.file_identifier import FILE_IDENTIFIER, require_identifier

BUFFER_ALIGNMENT = 16  # the schema's force_align, which the generated Python code leaves out


def parse(data: bytes) -> ModelT:
    """Read a .tflite file.

    Args:
        data: the whole file.

    Returns:
        The model, every part of it as a plain object.

    Raises:
        FileFormatError: the bytes are no TensorFlow Lite flatbuffer, or are cut off or corrupt.
    """
    require_identifier(data, "The file")
    try:
        model = ModelT.InitFromPackedBuf(data, 0)
    except (struct.error, IndexError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise FileFormatError(
            f"A .tflite file must be a whole flatbuffer. Received: one that is cut off or corrupt "
            f"({type(error).__name__}: {error}). Write it anew."
        ) from error
    if not model.subgraphs or not model.operatorCodes or not model.buffers:
        raise FileFormatError(
            "A .tflite file must hold a graph. Received: one without subgraph, operators or "
            "buffers. Write it anew."
        )
    return model


def serialize(model: ModelT) -> bytes:
    """Write a model as the bytes of a .tflite file, the same bytes for the same model.

    Args:
        model: the model; left as it is.

    Returns:
        The file, every buffer aligned to 16 bytes.
    """
    original = model.buffers
    shared: dict[bytes, int] = {}
    quantizations = [
        (tensor, tensor.quantization)
        for graph in model.subgraphs or ()
        for tensor in graph.tensors or ()
        if tensor.quantization is not None
    ]
    model.buffers = [_AlignedBuffer(data=buffer.data) for buffer in original]
    for tensor, quantization in quantizations:
        tensor.quantization = _SharedZeroPoints(shared, quantization)
    try:
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())
    finally:
        model.buffers = original
        for tensor, quantization in quantizations:
            tensor.quantization = quantization


class _AlignedBuffer(BufferT):
    """A buffer that packs its data at a multiple of 16 bytes."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        """Write the buffer; named as in the generated class."""
        if self.data is None or len(self.data) == 0:
            self.data = None
            return super().Pack(builder)
        data = np.ascontiguousarray(self.data, dtype=np.uint8).tobytes()
        builder.StartVector(1, len(data), BUFFER_ALIGNMENT)
        builder.head = builder.head - len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        vector = builder.EndVector()
        generated.BufferStart(builder)
        generated.BufferAddData(builder, vector)
        return generated.BufferEnd(builder)


class _SharedZeroPoints(QuantizationParametersT):
    """A quantization record that writes equal lists of zero points once in a file.

    They are int64 zeros for every channel of every kernel and bias, a tenth of a packed file.
    """

    def __init__(self, shared: dict[bytes, int], record: QuantizationParametersT) -> None:
        super().__init__(**vars(record))
        self._shared = shared

    def Pack(self, builder: flatbuffers.Builder) -> int:
        """Write the record; named as in the generated class."""
        if self.scale is None or len(self.scale) == 0 or self.details is not None:
            return super().Pack(builder)
        zero_points = np.asarray(self.zeroPoint, dtype=np.int64)
        key = zero_points.tobytes()
        if key not in self._shared:
            self._shared[key] = builder.CreateNumpyVector(zero_points)
        scales = builder.CreateNumpyVector(np.asarray(self.scale, dtype=np.float32))
        generated.QuantizationParametersStart(builder)
        generated.QuantizationParametersAddScale(builder, scales)
        generated.QuantizationParametersAddZeroPoint(builder, self._shared[key])
        generated.QuantizationParametersAddQuantizedDimension(builder, self.quantizedDimension)
        return generated.QuantizationParametersEnd(builder)
