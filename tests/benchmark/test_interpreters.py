from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_networks import float_dense, int8_conv
from tiny_tflite import TinyModel, pack

from tflite_ptq4.benchmark.comparison import Delegation
from tflite_ptq4.benchmark.interpreters import delegation, made_up_inputs, open_file
from tflite_ptq4.errors import FileFormatError

KERNEL = np.ones((4, 3, 3, 2), np.int8)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file.tflite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "delegate", "expected"),
    [
        (float_dense(np.eye(4)), "xnnpack", Delegation(1, {})),
        (float_dense(np.eye(4)), "none", Delegation(0, {"FULLY_CONNECTED": 1})),
        (int8_conv(KERNEL), "xnnpack", Delegation(1, {})),
        (int8_conv(KERNEL, packed=True), "xnnpack", Delegation(0, {"CONV_2D": 1})),
    ],
    ids=["float", "float without", "int8", "packed"],
)
def test_who_computes_the_operators(
    content: bytes, delegate: str, expected: Delegation, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    assert delegation(open_file(path, threads=1, delegate=delegate)) == expected


def test_inputs_are_made_up_and_never_change(tmp_path: Path) -> None:
    model = TinyModel()
    inputs = [model.activation((1, 50)), model.activation((1, 50), 1 / 8)]
    outputs = [model.operator("RELU", [one], model.activation((1, 50))) for one in inputs[:1]]
    path = written(tmp_path, model.to_bytes(inputs, outputs))
    details = open_file(path, threads=1, delegate="none").get_input_details()
    reals, integers = made_up_inputs(details)
    assert (reals.dtype, integers.dtype) == (np.float32, np.int8)
    assert -1 <= reals.min() < -0.5 < 0.5 < reals.max() < 1
    assert integers.min() < -64 < 64 < integers.max()
    for value, again, other in zip(
        (reals, integers), made_up_inputs(details), made_up_inputs(details, 1), strict=True
    ):
        np.testing.assert_array_equal(value, again)
        assert (value != other).any()


def test_a_file_of_any_size_is_refused(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(int8_conv(KERNEL), 0)
    image = model.subgraphs[0].tensors[0]
    image.shapeSignature = np.array([-1, 4, 4, 2], np.int32)
    open_file(written(tmp_path, pack(model)), threads=1, delegate="none")  # any number of images
    image.shapeSignature = np.array([1, -1, -1, 2], np.int32)
    with pytest.raises(FileFormatError, match=r"shape \[1, -1, -1, 2\]. Write it with --input-si"):
        open_file(written(tmp_path, pack(model)), threads=1, delegate="none")
