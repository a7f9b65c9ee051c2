"""Gathering calibration statistics while a Keras model predicts, evaluates or is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import keras
import tensorflow as tf

from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.keras_side.calibration.epoch_images import EpochImages, KeptBatches
from tflite_ptq4.keras_side.calibration.model_observer import ModelObserver
from tflite_ptq4.keras_side.calibration.stand_in import StandIn
from tflite_ptq4.keras_side.mixed_precision import no_autocast
from tflite_ptq4.keras_side.tf_keras_models.twin import is_tf_keras
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics

KEPT_BYTES = 1 << 29


class CalibrationCallback(keras.callbacks.Callback):
    """Gathers statistics of every tensor to be quantized while the model runs.

        calibration = CalibrationCallback(model)
        model.predict(images, callbacks=[calibration])
        calibration.statistics

    Works with `predict`, `evaluate` and `fit`, on arrays, `tf.data`, `PyDataset` and generators,
    and under `tf.distribute.MirroredStrategy`. The statistics are accumulated inside the model's
    own graph, batch by batch: what `predict` returns stays the same, no activation is kept, and
    memory does not grow with the number of images. Several runs with the same callback add up, as
    long as the weights are the same; otherwise the last weights' statistics are those that count.

    During `fit` the weights change from batch to batch, so the images of its last epoch are kept
    as they pass, and observed with the weights as they are when `statistics` is read: the same that
    `predict` on these batches gives. `fit` trains as it would without; its validation data are not
    observed.

    Of a model under a mixed precision policy, the statistics are those of the same weights in
    float32, for which the model runs twice.

    Args:
        model: a built functional or Sequential model of Keras 3 or tf_keras; it is not changed.
        kept_bytes: how much of the images of an epoch `fit` keeps; those that come later in the
            epoch are left out, and `statistics.images` says how many there were.

    Raises:
        ModelError: the model has no symbolic graph, nothing in it can be quantized, or it is
            distributed otherwise than by MirroredStrategy.
    """

    def __new__(cls, model: keras.Model, **options: object) -> CalibrationCallback:
        """Make the callback that the model's framework takes, Keras 3 or tf_keras."""
        return super().__new__(_of_tf_keras(cls) if is_tf_keras(model) else cls)

    def __init__(self, model: keras.Model, *, kept_bytes: int = KEPT_BYTES) -> None:
        super().__init__()
        self._observer = ModelObserver(model)
        self._target = model
        self._is_lowered = self._observer.lowered.model is model
        # For each function of Keras, the model's own and the one that observes, made of it.
        self._observing: dict[str, tuple[Callable, Callable]] = {}
        self._stand_in = StandIn(model)
        self._epoch = EpochImages(kept_bytes)
        self._in_fit = self._repeats_epoch = False

    @property
    def statistics(self) -> CalibrationStatistics:
        """What has been gathered so far; after `fit`, its last epoch is observed now.

        Raises:
            StatisticsError: no batch has been seen, or one of `fit` gives NaN or Inf.
        """
        self._observe_epoch()
        return self._observer.statistics

    def observe(self, *inputs: tf.Tensor) -> None:
        """Add one batch given directly, without a run of Keras.

        Args:
            inputs: one tensor [batch, ...] for each input of the model.
        """
        self._observer.observe(*inputs)

    def reset(self) -> None:
        """Forget what was gathered."""
        self._epoch.forget()
        self._observer.reset()

    # Keras calls these. For each batch a function that observes stands in for the model's compiled
    # one.

    def set_model(self, model: keras.Model) -> None:
        """Begin a run: Keras calls it once for `fit` with its validation, and for other runs."""
        super().set_model(model)
        self._in_fit = False

    def on_predict_begin(self, logs: object = None) -> None:
        """Refuse to run with another model."""
        self._begin()

    def on_predict_batch_begin(self, batch: int, logs: object = None) -> None:
        """Let the model's predict function observe the batch that comes."""
        self._stand_in.start("predict_function", self._observing_predict)

    def on_predict_batch_end(self, batch: int, logs: object = None) -> None:
        """Put the predict function back, and refuse the batch if it held NaN or Inf."""
        self._end_batch(batch)

    def on_predict_end(self, logs: object = None) -> None:
        """Put the model's predict function back: after the last batch one more was begun."""
        self._stand_in.stop()

    def on_test_begin(self, logs: object = None) -> None:
        """Refuse to run with another model."""
        if not self._in_fit:
            self._begin()

    def on_test_batch_begin(self, batch: int, logs: object = None) -> None:
        """Let the model's test function observe the batch that comes, unless it validates."""
        if not self._in_fit:
            self._stand_in.start("test_function", self._observing_test)

    def on_test_batch_end(self, batch: int, logs: object = None) -> None:
        """Put the test function back, and refuse the batch if it held NaN or Inf."""
        if not self._in_fit:
            self._end_batch(batch)

    def on_test_end(self, logs: object = None) -> None:
        """Put the model's test function back: after the last batch one more was begun."""
        self._stand_in.stop()

    def on_train_begin(self, logs: object = None) -> None:
        """Refuse to run with another model."""
        self._require_own_model()
        self._in_fit = True

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Forget the epoch before: its weights are no longer the model's."""
        self.reset()

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Let the images of the batch that comes be kept."""
        self._stand_in.start("train_function", self._epoch.keeping)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Put the model's train function back."""
        self._stand_in.stop()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Put the model's train function back: after the last batch one more was begun."""
        self._stand_in.stop()
        self._epoch.end()

    def _begin(self) -> None:
        self._require_own_model()
        if not self._repeats_epoch:
            self._observe_epoch()
            self._observer.follow_weights()

    def _end_batch(self, batch: int) -> None:
        self._stand_in.stop()
        self._observer.raise_if_not_finite(batch)

    def _require_own_model(self) -> None:
        if self.model is not self._target:
            raise StatisticsError(
                f"The callback must run with the model that it was made for, "
                f"{self._target.name!r}. Received: {self.model.name!r}. Make a "
                "CalibrationCallback of this model."
            )

    def _observe_epoch(self) -> None:
        """Observe what `fit` kept, if that was not done yet, with the weights as they are."""
        batches = self._epoch.batches
        self._epoch.forget()
        if not batches:
            return
        in_fit, self._repeats_epoch = self._in_fit, True
        try:
            self._observer.follow_weights()
            self._observer.reset()
            self._repeat(batches)
        finally:
            self._in_fit, self._repeats_epoch = in_fit, False

    def _repeat(self, batches: Sequence) -> None:
        self._target.predict(KeptBatches(batches), callbacks=[self], verbose=0)

    def _observing_predict(self, original: Callable) -> Callable:
        observing = self._observing_function("predict_function", original)

        def function(data):
            outputs = observing(data)
            # Of a repeated epoch no one wants the outputs, which Keras would gather.
            return (
                keras.tree.map_structure(_nothing_of, outputs) if self._repeats_epoch else outputs
            )

        return function

    def _observing_test(self, original: Callable) -> Callable:
        return self._observing_function("test_function", original)

    def _observing_function(self, attribute: str, original: Callable) -> Callable:
        # `compile` makes the model forget its function: what was made of it is out of date then.
        if self._observing.get(attribute, (None,))[0] is not original:
            getattr(self._target, f"make_{attribute}")(force=True)
            self._observing[attribute] = (original, getattr(self._target, attribute))
            setattr(self._target, attribute, original)
        observing = self._observing[attribute][1]

        def function(data):
            with self._observing_call():
                return observing(data)

        return function

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
        in_order = self._inputs_in_order(inputs)
        if self._is_lowered:
            return self._forward(in_order)
        with no_autocast():
            self._forward(in_order)
        return type(self._target).call(self._target, inputs, training=training, mask=mask)

    def _inputs_in_order(self, inputs) -> Sequence[tf.Tensor]:
        functional = getattr(self._target, "_functional", None) or self._target
        return functional._standardize_inputs(inputs)

    def _forward(self, inputs: Sequence[tf.Tensor]) -> object:
        return self._observer.forward(inputs)


@cache
def _of_tf_keras(kind: type[CalibrationCallback]) -> type[CalibrationCallback]:
    """The class of such callbacks that tf_keras takes."""
    import tf_keras

    from tflite_ptq4.keras_side.tf_keras_models.calibration_runs import TfKerasRuns

    if issubclass(kind, TfKerasRuns):
        return kind
    return type(kind.__name__, (TfKerasRuns, kind, tf_keras.callbacks.Callback), {})


def _nothing_of(tensor: tf.Tensor) -> tf.Tensor:
    return tensor[:0] if len(tensor.shape) else tensor
