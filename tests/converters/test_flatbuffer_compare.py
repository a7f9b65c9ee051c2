"""The comparison that other tests rely on sees what it must see."""

from __future__ import annotations

import numpy as np
import pytest
from flatbuffer_compare import assert_same_flatbuffer, unequal_fields
from small_networks import int8_conv

from tflite_ptq4.converters.flatbuffer_model import parse, serialize

KERNEL = np.arange(-4, 5).reshape(1, 3, 3, 1).astype(np.int8)
FILE = int8_conv(KERNEL)


def test_a_file_equals_itself_whatever_its_layout() -> None:
    assert unequal_fields(parse(FILE), parse(FILE)) == []
    assert_same_flatbuffer(FILE, serialize(parse(FILE)))


def test_each_changed_field_is_named_by_its_path() -> None:
    model = parse(FILE)
    model.version = 4
    model.subgraphs[0].tensors[1].quantization.scale = np.array([0.5], np.float32)
    model.subgraphs[0].operators[0].builtinOptions.strideW = 2
    model.operatorCodes.append(model.operatorCodes[0])
    assert unequal_fields(model, parse(FILE)) == [
        "version: 4, expected 3",
        "operatorCodes: 2 entries, expected 1",
        "subgraphs[0].tensors[1].quantization.scale: array([0.5], dtype=float32), "
        "expected array([0.0625], dtype=float32)",
        "subgraphs[0].operators[0].builtinOptions.strideW: 2, expected 1",
    ]


def test_files_that_differ_in_one_weight_are_told_apart() -> None:
    other = KERNEL.copy()
    other[0, 1, 1, 0] += 1
    with pytest.raises(AssertionError, match=r"1 fields differ:\nbuffers\[1\].data: "):
        assert_same_flatbuffer(int8_conv(other), FILE)


def test_an_absent_part_differs_from_one_that_is_there() -> None:
    model = parse(FILE)
    model.subgraphs[0].tensors[0].quantization = None
    (line,) = unequal_fields(model, parse(FILE))
    assert line == ("subgraphs[0].tensors[0].quantization: None, expected QuantizationParametersT")
