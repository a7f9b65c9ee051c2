from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffer_compare import assert_same_flatbuffer, unequal_fields
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_reference import run_litert
from runtimes import buffer_offsets
from small_networks import float_dense, int8_conv

from tflite_ptq4.converters.flatbuffer_model import parse, serialize
from tflite_ptq4.errors import FileFormatError

FILE = int8_conv(np.arange(-40, 41).reshape(3, 3, 3, 3).astype(np.int8))
IMAGE = np.arange(48).reshape(1, 4, 4, 3).astype(np.int8)


@pytest.mark.parametrize(
    "data", [FILE, float_dense(np.arange(12).reshape(3, 4))], ids=["int8", "float"]
)
def test_a_file_keeps_every_field_through_parse_and_serialize(data: bytes) -> None:
    assert_same_flatbuffer(serialize(parse(data)), data)


def test_a_file_computes_the_same_after_parse_and_serialize() -> None:
    before, after = run_litert(FILE, [IMAGE]), run_litert(serialize(parse(FILE)), [IMAGE])
    assert before.keys() == after.keys()
    for index, values in before.items():
        np.testing.assert_array_equal(after[index], values)


def test_serialize_gives_the_same_bytes_and_leaves_the_model_as_it_is() -> None:
    model = parse(FILE)
    first = serialize(model)
    assert unequal_fields(model, parse(FILE)) == []
    assert serialize(model) == first
    assert serialize(parse(first)) == first


def test_every_buffer_begins_at_a_multiple_of_16_bytes() -> None:
    model = parse(FILE)
    for length in (1, 15, 16, 17, 33):
        model.buffers.append(schema.BufferT(data=np.arange(length, dtype=np.uint8)))
    data = serialize(model)
    offsets = buffer_offsets(data)
    assert len(offsets) == 7
    assert [offset % 16 for offset in offsets] == [0] * 7
    assert bytes(data[offsets[-1] : offsets[-1] + 33]) == bytes(range(33)) or any(
        bytes(data[offset : offset + 33]) == bytes(range(33)) for offset in offsets
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"TFL3", "identifier TFL3"),
        (b"PK\x03\x04 a zip file, a .keras", "identifier TFL3"),
        (FILE[:4] + b"TFL2" + FILE[8:], "identifier TFL3"),
        (FILE[:8], "cut off or corrupt"),
        (FILE[: len(FILE) // 2], "cut off or corrupt"),
        (b"\xff" * 4 + FILE[4:], "cut off or corrupt"),
        (serialize(schema.ModelT(version=3, buffers=[])), "hold a graph"),
    ],
)
def test_what_is_no_whole_file_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        parse(data)


@settings(max_examples=50)
@given(st.integers(0, len(FILE) - 1))
def test_a_file_cut_anywhere_is_refused_or_whole(length: int) -> None:
    """The tail of a file may be padding or a default; where it is not, the error is ours."""
    try:
        model = parse(FILE[:length])
    except FileFormatError:
        return
    assert model.subgraphs


@settings(max_examples=50)
@given(st.integers(8, len(FILE) - 1), st.integers(1, 255))
def test_a_changed_byte_never_raises_another_error(position: int, change: int) -> None:
    data = bytearray(FILE)
    data[position] ^= change
    try:
        model = parse(bytes(data))
    except FileFormatError:
        return
    assert model.buffers


@settings(max_examples=30)
@given(st.binary(max_size=200))
def test_bytes_at_random_are_refused(noise: bytes) -> None:
    with pytest.raises(FileFormatError):
        parse(noise[:4] + b"TFL3" + noise[4:])
