from __future__ import annotations

import math

import numpy as np
import pytest
from small_networks import float_dense

from tflite_ptq4.errors import DataError, ModelError
from tflite_ptq4.evaluation.model_evaluation import evaluate_models, top1, top5, top_k
from tflite_ptq4.evaluation.runnable_models import RunnableModel, tflite_model
from tflite_ptq4.image_data import ImageSet
from tflite_ptq4.numerics.closeness import sqnr_db

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


def test_accuracy_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(DataError):
        top1(LOGITS, LABELS[:2])


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
