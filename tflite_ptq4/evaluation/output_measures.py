"""How far a quantized network's answers are from the labels, and from those of the float network.

Batch by batch, on what a compiled Keras model measures itself by; `evaluation.py` has the measures
of whole arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from tflite_ptq4.keras_side.compiled_measures import metric_variables, update_measures
from tflite_ptq4.keras_side.labelled_batches import Batch
from tflite_ptq4.numerics.closeness import ratio_db

ACCURACY, LOSS = "accuracy", "loss"


def measure_outputs(
    model: keras.Model,
    float_outputs: Callable,
    quantized_outputs: Callable,
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Run the float and the quantized network on labelled images, and compare their outputs.

    Args:
        model: the float model, of Keras 3 or tf_keras, compiled. Its metrics and its loss are what
            is computed, in its own metric variables, which come back changed.
        float_outputs: from inputs to the float network's outputs.
        quantized_outputs: from inputs to the quantized network's, in the same structure.
        batches: inputs, labels or None, sample weights or None.

    Returns:
        By name, of the quantized network: each metric of the model, the loss, and "accuracy" of a
        classifier, compiled or not; of each accuracy "..._drop", what the float network's is above
        it; "float_agreement", how often both answer with the same class of the first output;
        "output_sqnr_db", over all outputs. What the labels or outputs do not allow is left out.
    """
    exact, coded, comparison = _AgainstLabels(model), _AgainstLabels(model), _Comparison()
    for inputs, labels, weights in batches:
        reference, outputs = float_outputs(inputs), quantized_outputs(inputs)
        comparison.add(_arrays(reference), _arrays(outputs))
        if labels is not None:
            exact.add(inputs, labels, weights, reference)
            coded.add(inputs, labels, weights, outputs)
    measures, of_float = coded.measures(), exact.measures()
    drops = {
        f"{name}_drop": of_float[name] - value
        for name, value in measures.items()
        if name.endswith(ACCURACY)
    }
    return {**measures, **drops, **comparison.measures()}


def _arrays(outputs: object) -> list[np.ndarray]:
    return [np.asarray(output, np.float64) for output in keras.tree.flatten(outputs)]


class _AgainstLabels:
    """The metrics of one network; both networks take turns in the model's metric variables."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._state: list[np.ndarray] | None = None
        self._results: dict = {}
        self._images = self._right = 0
        self._loss, self._classifies = 0.0, True

    def add(self, inputs: object, labels: object, weights: object, outputs: object) -> None:
        if self._state is None:
            self._model.reset_metrics()
        else:
            for variable, value in zip(metric_variables(self._model), self._state, strict=True):
                variable.assign(value)
        loss, self._results = update_measures(self._model, inputs, labels, outputs, weights)
        self._state = list(map(keras.ops.convert_to_numpy, metric_variables(self._model)))
        images = len(keras.tree.flatten(inputs)[0])
        self._images += images
        self._loss += images * loss
        right = _right_classes(keras.tree.flatten(labels), _arrays(outputs))
        self._classifies = self._classifies and right is not None
        self._right += right or 0

    def measures(self) -> dict[str, float]:
        if not self._images:
            return {}
        found = {
            name: float(value)
            for name, value in self._results.items()
            if name != LOSS and np.size(value) == 1
        }
        found[LOSS] = self._loss / self._images
        if self._classifies:
            found.setdefault(ACCURACY, self._right / self._images)
        return found


def _right_classes(labels: Sequence, outputs: Sequence[np.ndarray]) -> int | None:
    """How many images of a batch have their class as the largest output; None of no classifier."""
    if len(labels) != 1 or len(outputs) != 1 or outputs[0].ndim != 2 or outputs[0].shape[1] < 2:
        return None
    truth, (answers,) = np.asarray(labels[0]), outputs
    if truth.shape == answers.shape:
        truth = np.argmax(truth, axis=-1)  # one-hot
    if truth.size != len(answers) or truth.dtype.kind not in "iu":
        return None
    return int(np.sum(np.argmax(answers, axis=-1) == truth.reshape(-1)))


class _Comparison:
    """Sums over batches of what compares two networks' outputs."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0
        self._same = self._answers = 0

    def add(self, reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        for exact, coded in zip(reference, outputs, strict=True):
            self._signal += float(np.sum(exact**2))
            self._noise += float(np.sum((exact - coded) ** 2))
        if reference[0].ndim > 1 and reference[0].shape[-1] > 1:
            same = np.argmax(reference[0], axis=-1) == np.argmax(outputs[0], axis=-1)
            self._same += int(same.sum())
            self._answers += same.size

    def measures(self) -> dict[str, float]:
        found = {}
        if self._answers:
            found["float_agreement"] = self._same / self._answers
        found["output_sqnr_db"] = ratio_db(self._signal, self._noise)
        return found
