from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tflite_ptq4.tflite_fields import (
    constant,
    indices,
    operator_name,
    scale_and_zero_point,
    text,
    type_name,
)


@pytest.mark.parametrize(
    ("code", "deprecated", "custom", "expected"),
    [
        (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.CONV_2D, None, "CONV_2D"),
        (0, schema.BuiltinOperator.CONV_2D, None, "CONV_2D"),  # a file of before 2020
        (schema.BuiltinOperator.GELU, 127, None, "GELU"),  # does not fit the deprecated field
        (schema.BuiltinOperator.CUSTOM, 32, b"Mine", "CUSTOM Mine"),
        (9999, 127, None, "OPERATOR_9999"),
    ],
)
def test_operators_are_named(
    code: int, deprecated: int, custom: bytes | None, expected: str
) -> None:
    model, operator, entry = schema.ModelT(), schema.OperatorT(), schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.customCode = code, deprecated, custom
    model.operatorCodes, operator.opcodeIndex = [entry], 0
    assert operator_name(model, operator) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(schema.TensorType.INT4, "INT4"), (99, "TYPE_99")]
)
def test_types_are_named(number: int, expected: str) -> None:
    tensor = schema.TensorT()
    tensor.type = number
    assert type_name(tensor) == expected


def test_what_is_absent_is_empty() -> None:
    model, tensor, buffer = schema.ModelT(), schema.TensorT(), schema.BufferT()
    model.buffers, tensor.buffer = [buffer], 0
    assert (text(None), indices(None)) == ("", [])
    assert scale_and_zero_point(tensor) is None
    assert constant(model, tensor) is None
    buffer.data = np.array([1, 255], np.uint8)
    assert constant(model, tensor).tolist() == [1, 255]


def test_damaged_bytes_of_a_name_are_replaced() -> None:
    assert text(b"a\xff") == "a\N{REPLACEMENT CHARACTER}"


def test_a_scale_without_zero_points_has_zeros() -> None:
    tensor = schema.TensorT()
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = [0.5, 0.25]
    scale, zero_point = scale_and_zero_point(tensor)
    assert (scale.tolist(), zero_point.tolist()) == ([0.5, 0.25], [0, 0])
    tensor.quantization.zeroPoint = [3, -4]
    assert scale_and_zero_point(tensor)[1].tolist() == [3, -4]
