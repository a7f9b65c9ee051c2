"""The generated flatbuffer classes that files are written with, named in one place."""

from __future__ import annotations

from ai_edge_litert import schema_py_generated as generated
from ai_edge_litert.schema_py_generated import (
    ActivationFunctionType,
    AddOptionsT,
    BufferT,
    BuiltinOperator,
    BuiltinOptions,
    DequantizeOptionsT,
    FullyConnectedOptionsT,
    MaximumMinimumOptionsT,
    MetadataT,
    ModelT,
    MulOptionsT,
    OperatorCodeT,
    OperatorT,
    QuantizationParametersT,
    QuantizeOptionsT,
    SignatureDefT,
    SubGraphT,
    TensorMapT,
    TensorT,
    TensorType,
)

FIRST_LONG_OPCODE = 127  # codes from here on do not fit the deprecated one-byte field

__all__ = [
    "FIRST_LONG_OPCODE",
    "ActivationFunctionType",
    "AddOptionsT",
    "BufferT",
    "BuiltinOperator",
    "BuiltinOptions",
    "DequantizeOptionsT",
    "FullyConnectedOptionsT",
    "MaximumMinimumOptionsT",
    "MetadataT",
    "ModelT",
    "MulOptionsT",
    "OperatorCodeT",
    "OperatorT",
    "QuantizationParametersT",
    "QuantizeOptionsT",
    "SignatureDefT",
    "SubGraphT",
    "TensorMapT",
    "TensorT",
    "TensorType",
    "generated",
]
