"""How far the answers of networks on images are from the labels, and from another network's.

The measures are pure functions of arrays; a model with several outputs is measured on its first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from tflite_ptq4.errors import DataError, ModelError
from tflite_ptq4.evaluation.runnable_models import RunnableModel
from tflite_ptq4.image_data import ImageSet
from tflite_ptq4.numerics.closeness import agreement, sqnr_db


def top_k(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of images whose label is among the k largest outputs.

    Of equal outputs the lower class comes first, as with argmax: int8 outputs often tie.

    Args:
        logits: number array [N, classes].
        labels: integer array [N], in [0, classes).
        k: at least 1.

    Raises:
        DataError: shapes do not fit, or a label is not a class of the network.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise DataError(
            "Accuracy needs outputs [N, classes] and N labels, N above zero. "
            f"Received: shapes {logits.shape} and {labels.shape}. Give each image one label, or "
            "none at all."
        )
    classes = logits.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"Labels must be classes of the network, 0 to {classes - 1}. Image {wrong[0]} has the "
            f"label {labels[wrong[0]]}: give the labels in a labels.csv, or take them away."
        )
    own = logits[np.arange(len(labels)), labels][:, np.newaxis]
    earlier = np.arange(classes) < labels[:, np.newaxis]
    rank = np.sum((logits > own) | ((logits == own) & earlier), axis=1)
    return float(np.mean(rank < k))


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose label has the largest output, see `top_k`."""
    return top_k(logits, labels, 1)


def top5(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose label is among the five largest outputs, see `top_k`."""
    return top_k(logits, labels, 5)


@dataclass(frozen=True)
class EvaluationRow:
    """One model's measures.

    Attributes:
        name: the model's name.
        bytes: length of its file.
        top1, top5: share of images in [0, 1], None without labels or classes.
        agreement: share of images with the same top class as the first model, 1 for the first.
        sqnr_db: SQNR of the outputs against the first model's, infinity for the first.
    """

    name: str
    bytes: int
    top1: float | None
    top5: float | None
    agreement: float
    sqnr_db: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; an infinite SQNR (no difference at all) is None, as JSON asks."""
        finite = np.isfinite(self.sqnr_db)
        return {**asdict(self), "sqnr_db": self.sqnr_db if finite else None}


def evaluate_models(
    models: Sequence[RunnableModel],
    images: ImageSet,
    *,
    progress: Callable[[str, Sequence[int]], Iterable[int]] | None = None,
) -> list[EvaluationRow]:
    """Measure models on one set of images, the first being the reference of the others.

    Args:
        models: at least one; those of several inputs have inputs of the same names.
        images: read for the inputs of the first model, with labels for the accuracies of models
            that answer [N, classes].
        progress: called per model with a description and the list of what is to do; wraps the list.

    Returns:
        One row per model, in their order.

    Raises:
        DataError: labels do not fit, or two models do not answer in one shape.
        ModelError: a model answers with NaN or infinity.
    """
    rows: list[EvaluationRow] = []
    reference = None
    named = images.named(models[0].input_shapes)
    for model in models:
        # The only input of a model may have any name.
        taken = [named[name] for name in model.input_shapes] if len(named) > 1 else images.images
        outputs = model.run(
            taken, None if progress is None else partial(progress, f"Running {model.name}")
        )
        broken = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
        if broken.size:
            raise ModelError(
                f"{model.name!r} must answer with finite numbers, but its output is NaN or "
                f"infinite for {images.names[broken[0]]!r} ({broken.size} of {len(images)} "
                "images). Check how the images are prepared, and the model's weights."
            )
        reference = outputs if reference is None else reference
        if outputs.shape != reference.shape:
            raise DataError(
                f"Models that are compared must answer in one shape: {models[0].name!r} gives "
                f"{reference.shape[1:]} per image, {model.name!r} gives {outputs.shape[1:]}. "
                "Choose models of the same task."
            )
        labels = images.labels if outputs.ndim == 2 else None
        rows.append(
            EvaluationRow(
                name=model.name,
                bytes=model.bytes,
                top1=None if labels is None else top1(outputs, labels),
                top5=None if labels is None else top5(outputs, labels),
                agreement=agreement(reference, outputs),
                sqnr_db=sqnr_db(reference, outputs),
            )
        )
    return rows
