from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from small_networks import float_dense, int8_conv
from tiny_tflite import TinyModel

from tflite_ptq4.errors import DataError, FileFormatError, ModelError
from tflite_ptq4.evaluation import (
    RunnableModel,
    agreement,
    evaluate_models,
    predict_tflite,
    sqnr_db,
    tflite_model,
    top1,
    top5,
    top_k,
)
from tflite_ptq4.image_data import ImageSet

# Three images, six classes; the ranks of the labels 5, 0, 2 are 0, 5 and 1.
LOGITS = np.array(
    [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [9, 0, 5, 1, 1, 1]],
    np.float32,
)
LABELS = np.array([5, 0, 2])


def test_accuracies_count_the_rank_of_the_label() -> None:
    assert top1(LOGITS, LABELS) == 1 / 3
    assert top5(LOGITS, LABELS) == 2 / 3
    assert top_k(LOGITS, LABELS, 6) == 1


def test_of_equal_outputs_the_lower_class_comes_first() -> None:
    tied = np.zeros((6, 6))
    labels = np.arange(6)
    assert top1(tied, labels) == np.mean(np.argmax(tied, axis=1) == labels) == 1 / 6
    assert top5(tied, labels) == 5 / 6


@pytest.mark.parametrize("label", [-1, 6])
def test_a_label_that_is_no_class_is_named(label: int) -> None:
    with pytest.raises(DataError, match=rf"0 to 5\. Image 1 has the label {label}"):
        top1(LOGITS, np.array([0, label, 0]))


def test_agreement_compares_the_top_class() -> None:
    other = np.array([[0, 0, 0, 0, 0, 1], [9, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    assert agreement(LOGITS, LOGITS) == 1
    assert agreement(LOGITS, other) == 2 / 3


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([3, 4], [3, 4], math.inf),
        ([0, 0], [0, 0], math.inf),
        ([0, 0], [1, 0], -math.inf),
        ([3, 4], [3, 3], 10 * math.log10(25)),  # (9 + 16) / 1
        ([10, 0], [9, 0], 20.0),  # 100 / 1
    ],
)
def test_sqnr_named_cases(reference: list, other: list, expected: float) -> None:
    assert sqnr_db(np.array(reference), np.array(other)) == pytest.approx(expected, rel=1e-12)


def test_measures_refuse_shapes_that_do_not_fit() -> None:
    for measure in (agreement, sqnr_db):
        with pytest.raises(DataError, match=r"\(3, 6\) and \(3, 5\)"):
            measure(LOGITS, LOGITS[:, :5])
        with pytest.raises(DataError):
            measure(LOGITS[:0], LOGITS[:0])
    with pytest.raises(DataError):
        top1(LOGITS, LABELS[:2])


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


def answering(name: str, outputs: np.ndarray) -> RunnableModel:
    return RunnableModel(name, 10, {"image": (2, 2, 1)}, 1, lambda images, progress: outputs)


def three_images(labels: np.ndarray | None = LABELS) -> ImageSet:
    return ImageSet((np.zeros((3, 2, 2, 1), np.float32),), labels, ("a", "b", "c"))


def test_models_are_measured_against_the_first() -> None:
    worse = LOGITS.copy()
    worse[0] = worse[0, ::-1]
    first, second = evaluate_models(
        [answering("float", LOGITS), answering("quantized", worse)], three_images()
    )
    assert (first.agreement, first.sqnr_db, first.to_dict()["sqnr_db"]) == (1, math.inf, None)
    assert (second.name, second.top1, second.agreement) == ("quantized", 0, 2 / 3)
    assert second.sqnr_db == sqnr_db(LOGITS, worse)


def test_each_model_gets_its_inputs_by_name() -> None:
    """Where a model has one input, that input may have another name."""
    left, right = np.zeros((3, 2), np.float32), np.ones((3, 4), np.float32)
    seen = []

    def model(shapes: dict) -> RunnableModel:
        return RunnableModel("m", 1, shapes, 1, lambda images, _: seen.append(images) or LOGITS)

    several = [{"a": (2,), "b": (4,)}, {"b": (4,), "a": (2,)}]
    evaluate_models([*map(model, several)], ImageSet((left, right), LABELS, ("0", "1", "2")))
    evaluate_models([model({"a": (2,)}), model({"z": (2,)})], ImageSet((left,), None, ("0",)))
    expected = [(left, right), (right, left), (left,), (left,)]
    assert [[id(array) for array in images] for images in seen] == [
        [id(array) for array in images] for images in expected
    ]


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


def test_images_without_labels_give_no_accuracy() -> None:
    (row,) = evaluate_models([answering("float", LOGITS)], three_images(None))
    assert (row.top1, row.top5, row.agreement) == (None, None, 1)


def test_answers_that_cannot_be_compared_are_refused() -> None:
    broken = LOGITS.copy()
    broken[1, 0] = np.nan
    with pytest.raises(ModelError, match=r"'bad'.*'b' \(1 of 3 images\)"):
        evaluate_models([answering("bad", broken)], three_images())
    with pytest.raises(DataError, match=r"'a' gives \(6,\).*'b' gives \(5,\)"):
        evaluate_models([answering("a", LOGITS), answering("b", LOGITS[:, :5])], three_images())


def test_progress_is_told_what_runs() -> None:
    seen = []

    def progress(description: str, items: range) -> range:
        seen.append((description, len(items)))
        return items

    model = tflite_model(float_dense(np.eye(4)), name="m.tflite")
    evaluate_models([model], three_images(None), progress=progress)
    assert seen == [("Running m.tflite", 3)]
