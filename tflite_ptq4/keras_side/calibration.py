"""Gathering calibration statistics while a Keras model predicts or evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.keras_side import image_batches
from tflite_ptq4.keras_side.execution import run_primitives
from tflite_ptq4.keras_side.lowering import LoweredModel, lower, require_quantizable
from tflite_ptq4.keras_side.observation import TensorAccumulator
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics


class CalibrationCallback(keras.callbacks.Callback):
    """Gathers statistics of every tensor to be quantized while the model runs.

        calibration = CalibrationCallback(model)
        model.predict(images, callbacks=[calibration])
        calibration.statistics

    Works with `predict` and `evaluate`, on arrays, `tf.data` and generators. The statistics are
    accumulated inside the model's own graph, batch by batch: what `predict` returns stays the same,
    no activation is kept, and memory does not grow with the number of images. Several runs with the
    same callback add up.

    Args:
        model: a built functional or Sequential Keras 3 model; it is not changed.

    Raises:
        ModelError: the model has no symbolic graph, or nothing in it can be quantized.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.lowered: LoweredModel = lower(model)
        graph = self.lowered.graph
        require_quantizable(graph, model.name)
        self._target = model
        self._tapped = observed_tensors(self.lowered)
        shapes = {name: graph.shapes[name] for name in self._tapped}
        self._accumulator = TensorAccumulator(shapes, graph.nonnegative)
        # For each function of Keras, the model's own and the one that observes, made of it.
        self._observing: dict[str, tuple[Callable, Callable]] = {}
        self._restore: Callable[[], None] | None = None

    @property
    def statistics(self) -> CalibrationStatistics:
        """What has been gathered so far.

        Raises:
            StatisticsError: no batch has been seen.
        """
        return CalibrationStatistics(
            tensors=self._accumulator.result(),
            images=self._accumulator.images,
            fingerprint=self.lowered.graph.fingerprint,
        )

    @tf.function(reduce_retracing=True, autograph=False)
    def observe(self, *inputs: tf.Tensor) -> None:
        """Add one batch given directly, without a run of Keras.

        Args:
            inputs: one tensor [batch, ...] for each input of the model.
        """
        self._forward(inputs)

    def raise_if_not_finite(self, batch: int) -> None:
        """Refuse NaN and Inf.

        Args:
            batch: the position of the last batch, for the message.

        Raises:
            StatisticsError: a tensor has held NaN or Inf.
        """
        name = self._accumulator.first_not_finite()
        if name is None:
            return
        self._stop()
        where = (
            f"the images hold NaN or Inf (model input {name!r})"
            if name in self.lowered.graph.inputs
            else f"the output of layer {name!r} holds NaN or Inf"
        )
        raise StatisticsError(
            f"Every activation must be finite. Received: in batch {batch} (counted from 0), "
            f"{where}. Check the images' preparation and the model's weights."
        )

    # Keras calls these. For each batch a function that observes stands in for the model's compiled
    # one. Where a run breaks off in between, the next run of the model puts the model's own back.

    def on_predict_begin(self, logs: object = None) -> None:
        """Refuse to run with another model."""
        self._require_own_model()

    def on_predict_batch_begin(self, batch: int, logs: object = None) -> None:
        """Let the model's predict function observe the batch that comes."""
        self._start("predict_function")

    def on_predict_batch_end(self, batch: int, logs: object = None) -> None:
        """Put the predict function back, and refuse the batch if it held NaN or Inf."""
        self._stop()
        self.raise_if_not_finite(batch)

    def on_predict_end(self, logs: object = None) -> None:
        """Put the model's predict function back: after the last batch one more was begun."""
        self._stop()

    def on_test_begin(self, logs: object = None) -> None:
        """Refuse to run with another model."""
        self._require_own_model()

    def on_test_batch_begin(self, batch: int, logs: object = None) -> None:
        """Let the model's test function observe the batch that comes."""
        self._start("test_function")

    def on_test_batch_end(self, batch: int, logs: object = None) -> None:
        """Put the test function back, and refuse the batch if it held NaN or Inf."""
        self._stop()
        self.raise_if_not_finite(batch)

    def on_test_end(self, logs: object = None) -> None:
        """Put the model's test function back: after the last batch one more was begun."""
        self._stop()

    def _require_own_model(self) -> None:
        if self.model is not self._target:
            raise StatisticsError(
                f"The callback must run with the model that it was made for, "
                f"{self._target.name!r}. Received: {self.model.name!r}. Make a "
                "CalibrationCallback of this model."
            )

    def _start(self, attribute: str) -> None:
        self._stop()
        model, maker = self._target, f"make_{attribute}"
        make, original = getattr(model, maker), getattr(model, attribute)
        # `compile` makes the model forget its function: what was made of it is out of date then.
        if self._observing.get(attribute, (None,))[0] is not original:
            make(force=True)
            self._observing[attribute] = (original, getattr(model, attribute))
        observing = self._observing[attribute][1]

        def function(data):
            with self._observing_call():
                return observing(data)

        def make_after_broken_run(force=False):
            self._stop()
            return make(force=force)

        def restore() -> None:
            del vars(model)[maker]
            if getattr(model, attribute) is function:
                setattr(model, attribute, original)

        setattr(model, attribute, function)
        vars(model)[maker] = make_after_broken_run
        self._restore = restore

    def _stop(self) -> None:
        if self._restore is not None:
            self._restore()
            self._restore = None

    @contextmanager
    def _observing_call(self) -> Iterator[None]:
        """While it lasts, the model's `call` repeats the model and observes."""
        attributes = vars(self._target)
        attributes["call"] = self._call
        try:
            yield
        finally:
            del attributes["call"]

    def _call(self, inputs, training=None, mask=None, **_):
        functional = getattr(self._target, "_functional", None) or self._target
        return self._forward(functional._standardize_inputs(inputs))

    def _forward(self, inputs) -> object:
        traced = self.lowered.trace
        named = dict(zip(traced.inputs, inputs, strict=True))
        values = run_primitives(self.lowered.primitives, named)
        # What a layer in float gives may be integers or of half precision.
        self._accumulator.update(
            {name: tf.cast(values[self.lowered.taps[name]], tf.float32) for name in self._tapped}
        )
        return traced.pack([values[name] for name in traced.outputs])


def observed_tensors(lowered: LoweredModel) -> tuple[str, ...]:
    """The tensors whose statistics are gathered: inputs, and what operators write in channels."""
    graph = lowered.graph
    computed = (
        tensor for node in graph.nodes for tensor in node.outputs if len(graph.shapes[tensor]) > 1
    )
    return (*graph.inputs, *computed)


def calibrate(
    model: keras.Model,
    images: object,
    *,
    batch_size: int | None = None,
    progress: Callable | None = None,
) -> CalibrationStatistics:
    """Gather calibration statistics from arrays of images, keeping no output.

    Args:
        model: a built functional or Sequential Keras 3 model; it is not changed.
        images: [n, ...], prepared as the model expects them; of a model of several inputs a list of
            such arrays, or a dict by name, as for `model.predict`.
        batch_size: images at a time; where None, few enough that a batch takes little memory.
        progress: wraps the list of batches and shows how far it is; None shows nothing.

    Returns:
        The statistics of every tensor to be quantized.

    Raises:
        ModelError: the model has no symbolic graph, or nothing in it can be quantized.
        DataError: there is no image, or the images do not fit the model's inputs.
        StatisticsError: an image or an activation holds NaN or Inf.
    """
    callback = CalibrationCallback(model)
    arrays = callback.lowered.trace.unpack(images)
    if batch_size is None:
        shapes = callback.lowered.graph.shapes.values()
        batch_size = image_batches.batch_size([*(array.shape for array in arrays), *shapes])
    starts = list(range(0, len(arrays[0]), batch_size))
    for batch, start in enumerate(progress(starts) if progress else starts):
        parts = [np.asarray(array[start : start + batch_size], np.float32) for array in arrays]
        callback.observe(*map(tf.constant, parts))
        callback.raise_if_not_finite(batch)
    return callback.statistics
