from __future__ import annotations

import json
from contextlib import suppress

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from small_networks import float_dense, int8_conv
from tiny_tflite import TinyModel

from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.file_inspection import inspect_file

# Two output channels of 1 x 1 x 3: magnitudes up to 7 need 4 bits, up to 1 need 2.
KERNEL = np.array([[-7, 3, 5], [1, 0, -1]], np.int8).reshape(2, 1, 1, 3)


def test_an_int8_convolution_is_measured_in_every_respect() -> None:
    content = int8_conv(KERNEL)
    report = inspect_file(content)
    assert report.file_bytes == len(content)
    assert report.operators == {"CONV_2D": 1}
    assert report.tensor_types == {"INT8": 3, "INT32": 1}
    kinds = dict(report.bytes_by_kind)
    graph = kinds.pop("graph and padding")
    assert kinds == {
        "weights": 6,
        "biases": 2 * 4,
        "metadata": 0,
        "other constants": 0,
        "quantization records": (1 + 2 + 2 + 1) * (4 + 8),
    }
    assert sum(kinds.values()) + graph == len(content)
    (weight,) = report.weights
    assert (weight.operator, weight.shape, weight.type) == ("CONV_2D", (2, 1, 1, 3), "INT8")
    assert (weight.lowest, weight.highest) == (-7, 5)
    assert weight.stored_bits == 8
    assert weight.effective_bits == (4 + 2) / 2
    image, output = report.activations
    assert (image.operator, image.scale, image.zero_point, image.levels) == (
        "input",
        0.125,
        -3,
        256,
    )
    assert (output.operator, output.scale, output.zero_point) == ("CONV_2D", 0.25, 112)
    assert output.levels == output.most_levels == 16


def test_metadata_is_read_as_text_and_as_json() -> None:
    model = schema.ModelT.InitFromPackedBuf(int8_conv(KERNEL), 0)
    contents = {
        "plain": b"2.3.0\0\0",
        "facts": b'{"a": 1}',
        "cut": b'{"a": ',
        "raw": b"\xff\1",
    }
    model.metadata = []
    for name, data in contents.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(data, np.uint8)
        entry.name, entry.buffer = name.encode(), len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    report = inspect_file(bytes(builder.Output()))
    assert report.metadata == {"plain": "2.3.0", "facts": {"a": 1}, "cut": '{"a": '}
    assert report.bytes_by_kind["metadata"] == sum(map(len, contents.values()))


def test_packed_weights_take_half_the_bytes_and_use_the_same_bits() -> None:
    int8, int4 = (inspect_file(int8_conv(KERNEL, packed=packed)) for packed in (False, True))
    assert int4.bytes_by_kind["weights"] == int8.bytes_by_kind["weights"] / 2
    assert (int4.weights[0].type, int4.stored_bits_per_weight) == ("INT4", 4)
    assert int4.effective_bits_per_weight == int8.effective_bits_per_weight == 3


def test_free_float_weights_use_all_their_bits(rng: np.random.Generator) -> None:
    report = inspect_file(float_dense(rng.normal(size=(4, 16)), side=4))
    assert (report.stored_bits_per_weight, report.effective_bits_per_weight) == (32, 32)
    assert report.activations[0].levels is None


def test_weights_that_two_operators_share_count_once() -> None:
    network = TinyModel()
    image = network.activation((1, 1, 1, 2))
    kernel = network.constant(np.eye(2, dtype=np.float32))
    outputs = [network.activation((1, 2)) for _ in range(2)]
    for output in outputs:
        network.operator("FULLY_CONNECTED", [image, kernel, -1], output, "FullyConnectedOptions")
    report = inspect_file(network.to_bytes([image], outputs))
    assert report.operators == {"FULLY_CONNECTED": 2}
    assert report.bytes_by_kind["weights"] == 4 * 4
    assert len(report.weights) == 1


def test_the_report_is_plain_values() -> None:
    values = json.loads(json.dumps(inspect_file(int8_conv(KERNEL)).to_dict(), allow_nan=False))
    assert values["effective_bits_per_weight"] == 3
    assert values["activations"][1]["levels"] == 16


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"TFL3",
        b"PK\x03\x04TFL3",
        b"\x00" * 100,
        b"\x00\x00\x00\x00TFL3",
        b"\xff" * 4 + b"TFL3",
    ],
    ids=["empty", "short", "misplaced identifier", "zeros", "identifier only", "wild offset"],
)
def test_what_is_no_tflite_file_is_refused(content: bytes) -> None:
    with pytest.raises(FileFormatError):
        inspect_file(content)


@given(st.integers(8, 10_000))
def test_a_file_cut_short_is_refused(length: int) -> None:
    content = int8_conv(KERNEL)
    with pytest.raises(FileFormatError):
        inspect_file(content[: length % (len(content) // 2)])


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_but_never_a_bug(position: int, value: int) -> None:
    content = bytearray(int8_conv(KERNEL))
    content[position % len(content)] = value
    with suppress(FileFormatError):
        assert inspect_file(bytes(content)).file_bytes == len(content)


def test_a_vector_that_two_records_share_counts_once() -> None:
    builder = flatbuffers.Builder(0)
    zeros = builder.CreateNumpyVector(np.zeros(5, np.int64))
    records = []
    for _ in range(2):
        scale = builder.CreateNumpyVector(np.ones(5, np.float32))
        schema.QuantizationParametersStart(builder)
        schema.QuantizationParametersAddScale(builder, scale)
        schema.QuantizationParametersAddZeroPoint(builder, zeros)
        records.append(schema.QuantizationParametersEnd(builder))
    shape = builder.CreateNumpyVector(np.array([5], np.int32))
    tensors = []
    for record in records:
        schema.TensorStart(builder)
        schema.TensorAddShape(builder, shape)
        schema.TensorAddQuantization(builder, record)
        tensors.append(schema.TensorEnd(builder))

    def vector_of(tables: list[int]) -> int:
        builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            builder.PrependUOffsetTRelative(table)
        return builder.EndVector()

    listed, none = vector_of(tensors), vector_of([])
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, listed)
    schema.SubGraphAddOperators(builder, none)
    subgraphs = vector_of([schema.SubGraphEnd(builder)])
    schema.BufferStart(builder)
    buffers = vector_of([schema.BufferEnd(builder)])
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    report = inspect_file(bytes(builder.Output()))
    assert report.bytes_by_kind["quantization records"] == 2 * 5 * 4 + 5 * 8
