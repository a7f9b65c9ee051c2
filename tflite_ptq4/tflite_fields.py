"""Fields of a parsed `.tflite` file as plain values: names, lists of numbers, constants, scales."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

# How the generated schema names what it holds: number -> name.
OPERATOR_NAMES: dict[int, str] = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}
_TYPE_NAMES = {
    number: name for name, number in vars(schema.TensorType).items() if not name.startswith("_")
}


def operator_number(model: schema.ModelT, operator: schema.OperatorT) -> int:
    """Return the operator's number in the schema, a `BuiltinOperator`.

    Args:
        model: the file.
        operator: of one of its graphs.
    """
    code = model.operatorCodes[operator.opcodeIndex]
    # Files older than the 128th operator hold the number in the deprecated field.
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Return the operator's name in the schema, or the custom code of a custom operator.

    Args:
        model: the file.
        operator: of one of its graphs.
    """
    number = operator_number(model, operator)
    if number == schema.BuiltinOperator.CUSTOM:
        return f"CUSTOM {text(model.operatorCodes[operator.opcodeIndex].customCode)}"
    return OPERATOR_NAMES.get(number, f"OPERATOR_{number}")


def type_name(tensor: schema.TensorT) -> str:
    """Return the name of the tensor's type in the schema."""
    return _TYPE_NAMES.get(tensor.type, f"TYPE_{tensor.type}")


def text(value: bytes | str | None) -> str:
    """Return a string of the file; an absent one is empty, and damaged bytes are replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def indices(vector: Any) -> list[int]:
    """Return a vector of tensor indices or sides as plain integers; an absent one is empty."""
    return [] if vector is None else [int(i) for i in vector]


def constant(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """Return the bytes of a constant tensor, uint8 [n], or None for an activation.

    Args:
        model: the file.
        tensor: of one of its graphs.
    """
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)


def scale_and_zero_point(tensor: schema.TensorT) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (scale float64 [k], zero point int64 [k]) of a quantized tensor, None of another."""
    record = tensor.quantization
    if record is None or record.scale is None or len(record.scale) == 0:
        return None
    scale = np.asarray(record.scale, np.float64)
    if record.zeroPoint is None or len(record.zeroPoint) == 0:
        return scale, np.zeros(len(scale), np.int64)
    return scale, np.asarray(record.zeroPoint, np.int64)
