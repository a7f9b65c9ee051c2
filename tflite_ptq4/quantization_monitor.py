"""A Keras callback that tells, while a network is trained, what quantization would make of it."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection
from numbers import Integral

import keras

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.errors import ConfigError
from tflite_ptq4.evaluation.output_measures import measure_outputs
from tflite_ptq4.keras_side.calibration.array_calibration import observe_images
from tflite_ptq4.keras_side.calibration.model_observer import ModelObserver
from tflite_ptq4.keras_side.compiled_measures import output_function
from tflite_ptq4.keras_side.labelled_batches import batches_of, images_in_memory
from tflite_ptq4.keras_side.random_streams import unchanged_random_streams
from tflite_ptq4.pipeline import quantize_model
from tflite_ptq4.tensorboard_summaries import write_summaries

PREFIX = "ptq_"


class PostTrainingQuantizationMonitor(keras.callbacks.Callback):
    """Quantizes the weights as they are at the end of epochs, and logs how good the result is.

        monitor = PostTrainingQuantizationMonitor(images, (test_images, test_labels), every=5)
        best = keras.callbacks.ModelCheckpoint(
            "best.keras", monitor="ptq_accuracy", mode="max", save_best_only=True
        )
        model.fit(..., callbacks=[monitor, best, keras.callbacks.CSVLogger("log.csv")])

    What it logs, with the prefix `ptq_`: of the quantized network (the simulated model), each
    metric that the model was compiled with, e.g. `ptq_accuracy`, and `ptq_loss`; of its distance
    to the float network, `ptq_accuracy_drop`, `ptq_float_agreement` (how often both answer with one
    class) and `ptq_output_sqnr_db`. `ptq_accuracy` is there for every classifier. Without labels,
    the last two alone.

    List it before the callbacks that read the logs: ModelCheckpoint, EarlyStopping, TensorBoard,
    CSVLogger. The first two need `mode="max"` or "min" for these names. It runs after the first
    epoch, after the chosen ones and after the last; in between, the last values are logged again,
    so that CSVLogger, which takes its columns from the first epoch, has a value in each row, and
    ModelCheckpoint saves nothing then. EarlyStopping counts its patience in epochs all the same.

    It takes part in `fit` of Keras 3 and of tf_keras. The training goes on as it would without:
    weights, optimizer, metrics, random streams and the model's compiled functions stay what they
    are. A shuffled `tf.data` pipeline draws anew each time that it is read, so labelled images
    should not come from the pipeline that training reads.

    Args:
        images: for calibration, as for `quantize_model`, or a `tf.data.Dataset`, `PyDataset` or
            `Sequence` of tf_keras, which is read once; they are kept in memory.
        validation_data: `(images, labels)` or `(images, labels, sample_weights)` as for `evaluate`,
            or such batches, in one of these classes; None compares the networks on
            the calibration images.
        config: how to quantize, or the name of a preset.
        every: run after each so-many epochs.
        epochs: run after these epochs instead, counted from 0 as callbacks do.
        batch_size: of the runs on arrays.
        log_dir: where `write_summaries` writes for TensorBoard at each of these epochs; None writes
            nothing.

    Raises:
        ConfigError: `every` is no whole number above zero, or there is no such preset.
        DataError: `validation_data` is of no such form.
        ModelError: the model cannot be quantized. This, and images that do not fit it, are refused
            when training begins.
    """

    def __init__(
        self,
        images: object,
        validation_data: object = None,
        config: QuantizationConfig | str = "w4a8",
        *,
        every: int = 1,
        epochs: Collection[int] | None = None,
        batch_size: int = 32,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(every, Integral) or isinstance(every, bool) or every < 1:
            raise ConfigError(
                f"`every` must be a whole number above zero. Received: {every!r}. Use every=1 to "
                "quantize after each epoch."
            )
        self.config = QuantizationConfig.preset(config) if isinstance(config, str) else config
        self._images = images_in_memory(images)
        self._labelled = (self._images, None) if validation_data is None else validation_data
        self._batch_size = batch_size
        batches_of(self._labelled, batch_size)  # refuses what it cannot read
        self._every, self._epochs = int(every), epochs
        self._log_dir = log_dir
        self._observer: ModelObserver | None = None
        self._values: dict[str, float] = {}

    def _implements_no_batch_hooks(self) -> bool:
        return False

    # What tf_keras asks of a callback.
    _implements_train_batch_hooks = _implements_no_batch_hooks
    _implements_test_batch_hooks = _implements_no_batch_hooks
    _implements_predict_batch_hooks = _implements_no_batch_hooks

    def on_train_begin(self, logs: object = None) -> None:
        """Refuse a model that cannot be quantized, before it is trained."""
        model = self.model
        with unchanged_random_streams(model):
            self._observer = ModelObserver(model)
            self._observer.lowered.trace.unpack(self._images)
        self._float_outputs = output_function(model)
        self._values = {}

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Quantize if it is time to, and add what was measured last to the logs."""
        if self._is_due(epoch):
            with unchanged_random_streams(self.model):
                self._values = self._measured(epoch)
            # A Keras model is held by cycles: without this, epochs would pile up.
            gc.collect()
        if logs is not None:
            logs.update(self._values)

    def on_train_end(self, logs: object = None) -> None:
        """Let go of what was made for this training."""
        self._observer = self._float_outputs = None

    def _is_due(self, epoch: int) -> bool:
        if not self._values or self.model.stop_training or epoch + 1 == self.params.get("epochs"):
            return True
        return (epoch + 1) % self._every == 0 if self._epochs is None else epoch in self._epochs

    def _measured(self, epoch: int) -> dict[str, float]:
        observer = self._observer
        observer.follow_weights()
        observer.reset()
        observe_images(observer, self._images)
        statistics = observer.statistics
        quantized = quantize_model(self.model, statistics, self.config, images=self._images)
        if self._log_dir is not None:
            write_summaries(quantized, statistics, self._log_dir, step=epoch)
        measures = measure_outputs(
            self.model,
            self._float_outputs,
            output_function(quantized.simulated_model),
            batches_of(self._labelled, self._batch_size),
        )
        return {f"{PREFIX}{name}": value for name, value in measures.items()}
