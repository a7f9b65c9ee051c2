from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_networks import float_dense, int8_conv
from tiny_tflite import TinyModel

from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.evaluation.runnable_models import predict_tflite, tflite_model


def test_a_float_file_answers_like_its_matrix(rng: np.random.Generator) -> None:
    weights, images = rng.normal(size=(3, 4)), rng.normal(size=(5, 2, 2, 1)).astype(np.float32)
    got = predict_tflite(float_dense(weights), images)
    np.testing.assert_allclose(got, images.reshape(5, 4) @ weights.T, rtol=1e-5, atol=1e-6)


def test_an_int8_file_gets_quantized_images_and_gives_real_values() -> None:
    """Identity kernel 16 / 16: image -> rint(x / (1/8)) - 3 -> ReLU in steps of 1/4, up to 15/4."""
    kernel = np.full((1, 1, 1, 1), 16, np.int8)
    image = np.array([[-1.0, 0.0, 0.26, 1.0], [1.5, 2.0, 3.75, 99.0]], np.float32)
    got = predict_tflite(int8_conv(kernel, side=2), image.reshape(2, 2, 2, 1))
    expected = [[0.0, 0.0, 0.25, 1.0], [1.5, 2.0, 3.75, 3.75]]
    np.testing.assert_array_equal(got.reshape(2, 4), expected)


def test_a_path_is_as_good_as_bytes(tmp_path: Path) -> None:
    content, images = float_dense(np.eye(4)), np.ones((1, 2, 2, 1), np.float32)
    path = tmp_path / "dense.tflite"
    path.write_bytes(content)
    np.testing.assert_array_equal(predict_tflite(path, images), predict_tflite(content, images))
    with pytest.raises(FileFormatError, match="absent"):
        predict_tflite(tmp_path / "absent.tflite", images)


@pytest.mark.parametrize(
    "content", [b"", b"no model at all", float_dense(np.eye(4))[:200]], ids=["empty", "text", "cut"]
)
def test_what_litert_cannot_load_is_refused(content: bytes) -> None:
    with pytest.raises(FileFormatError, match="'broken'"):
        tflite_model(content, name="broken")


def test_a_file_without_a_signature_has_the_names_of_its_tensors() -> None:
    network = TinyModel()
    left, right = network.activation((1, 2)), network.activation((1, 3))
    both = network.activation((1, 5))
    network.operator("CONCATENATION", [left, right], both, "ConcatenationOptions", axis=1)
    model = tflite_model(network.to_bytes([right, left], [both]), name="m")
    assert model.input_shapes == {"tensor_1": (3,), "tensor_0": (2,)}
    images = np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([[7, 8], [9, 0]], np.float32)
    assert model.run(images, None).tolist() == [[7, 8, 1, 2, 3], [9, 0, 4, 5, 6]]
    network = TinyModel()
    constant = network.constant(np.ones((1, 1), np.float32))
    output = network.activation((1, 1))
    network.operator("ABS", [constant], output)
    with pytest.raises(FileFormatError, match="has 0 inputs"):
        tflite_model(network.to_bytes([], [output]), name="m")
