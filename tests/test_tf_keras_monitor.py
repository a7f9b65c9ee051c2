"""The monitor in `fit` of tf_keras: what it logs, and that the training goes on untouched."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import two_kerases

from tflite_ptq4 import PostTrainingQuantizationMonitor, QuantizationConfig

FAST = QuantizationConfig(weight_bits=4)
LABELS = np.arange(12) % 5


def network(library, **compiled: object):
    model = two_kerases.classifier(library)
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **compiled}
    model.compile(library.optimizers.SGD(0.05), **options)
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return two_kerases.images_of(network(keras))


def test_it_logs_what_it_logs_in_keras_3(images: np.ndarray) -> None:
    def logged(library) -> dict[str, float]:
        # An epoch without a step, so that both have the weights that they began with.
        monitor = PostTrainingQuantizationMonitor(images, (images, LABELS), FAST, batch_size=5)
        monitor.set_model(network(library))
        monitor.set_params({"epochs": 1})
        monitor.model.stop_training = False
        monitor.on_train_begin()
        logs: dict[str, float] = {}
        monitor.on_epoch_end(0, logs)
        return logs

    found = logged(tf_keras)
    assert len(found) == 5
    assert found == pytest.approx(logged(keras), rel=1e-5)


def test_a_run_with_and_one_without_end_with_the_same_bits(images: np.ndarray) -> None:
    """With shuffling, dropout, BatchNormalization, a penalty on activations, two epochs."""

    def trained(callbacks: list) -> tuple[list[np.ndarray], dict]:
        tf_keras.utils.set_random_seed(0)
        model = network(tf_keras)
        model.get_layer("classes").activity_regularizer = tf_keras.regularizers.L2(0.1)
        history = model.fit(
            images,
            LABELS,
            batch_size=4,
            epochs=2,
            verbose=0,
            validation_data=(images, LABELS),
            callbacks=callbacks,
        ).history
        state = [*model.weights, *model.optimizer.variables]
        state += [variable for metric in model.metrics for variable in metric.variables]
        drawn = [float(tf.random.uniform(())), float(np.random.random())]
        return [*map(np.array, state), np.array(drawn)], history

    monitor = PostTrainingQuantizationMonitor(images, (images, LABELS), FAST)
    (state, history), (plain, expected) = trained([monitor]), trained([])
    for got, want in zip(state, plain, strict=True):
        np.testing.assert_array_equal(got, want)
    assert {name: history[name] for name in expected} == expected
    assert len(history["ptq_accuracy"]) == 2 and "ptq_loss" in history


def test_batches_of_a_sequence_give_what_arrays_give(images: np.ndarray) -> None:
    class Batches(tf_keras.utils.Sequence):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple:
            part = slice(4 * index, 4 * (index + 1))
            return images[part], LABELS[part]

    logged = []
    for source in (Batches(), (images, LABELS)):
        model = network(tf_keras)
        calibration = source if isinstance(source, Batches) else images
        monitor = PostTrainingQuantizationMonitor(calibration, source, FAST)
        model.fit(images, LABELS, batch_size=12, verbose=0, callbacks=[monitor], shuffle=False)
        logged.append(monitor._values)
    assert logged[0] == pytest.approx(logged[1], rel=1e-4)


def test_the_callbacks_of_tf_keras_read_its_names(images: np.ndarray, tmp_path) -> None:
    model = network(tf_keras, metrics=[])
    monitor = PostTrainingQuantizationMonitor(images, (images, LABELS), FAST)
    best = tf_keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.h5"),
        monitor="ptq_accuracy",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    table = tf_keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    model.fit(images, LABELS, verbose=0, callbacks=[monitor, best, table])
    assert (tmp_path / "best.h5").exists()
    assert "ptq_accuracy_drop" in (tmp_path / "log.csv").read_text()
