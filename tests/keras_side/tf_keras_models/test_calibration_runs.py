from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import two_kerases

from tflite_ptq4 import CalibrationCallback, CalibrationStatistics, calibrate
from tflite_ptq4.errors import ModelError, StatisticsError
from tflite_ptq4.keras_side.lowering import lower
from tflite_ptq4.keras_side.tf_keras_models.calibration_runs import TfKerasRuns

BATCH = 5  # 12 images: the last batch is smaller


def assert_same(found: CalibrationStatistics, expected: CalibrationStatistics) -> None:
    assert found.fingerprint == expected.fingerprint
    assert found.images == expected.images
    assert list(found) == list(expected)
    for name in expected:
        for field, values in vars(expected[name]).items():
            np.testing.assert_array_equal(getattr(found[name], field), values, str((name, field)))


def expected_of(network, images: object, *, runs: int = 1) -> CalibrationStatistics:
    model = network(keras)
    callback = CalibrationCallback(model)
    for _ in range(runs):
        model.predict(images, batch_size=BATCH, callbacks=[callback], verbose=0)
    return callback.statistics


def compiled(model: tf_keras.Model) -> tf_keras.Model:
    model.compile(tf_keras.optimizers.SGD(0.01), "mse")
    return model


@pytest.mark.parametrize("network", two_kerases.NETWORKS)
def test_predict_gives_the_statistics_of_keras_3_and_its_own_outputs(network) -> None:
    model = network(tf_keras)
    images = two_kerases.images_of(model)
    callback = CalibrationCallback(model)
    assert isinstance(callback, TfKerasRuns)
    assert isinstance(callback, CalibrationCallback)
    before = model.predict(images, batch_size=BATCH, verbose=0)
    outputs = model.predict(images, batch_size=BATCH, callbacks=[callback], verbose=0)
    tf.nest.map_structure(np.testing.assert_array_equal, outputs, before)
    assert_same(callback.statistics, expected_of(network, images))
    model.predict(images, batch_size=BATCH, verbose=0)
    assert callback.statistics.images == 12
    model.predict(images, batch_size=BATCH, callbacks=[callback], verbose=0)
    assert_same(callback.statistics, expected_of(network, images, runs=2))


def test_evaluate_gives_the_same_and_leaves_the_model_as_it_was() -> None:
    model = compiled(two_kerases.sequential(tf_keras))
    images = two_kerases.images_of(model)
    labels = np.zeros((12, 3), np.float32)
    loss = model.evaluate(images, labels, batch_size=BATCH, verbose=0)
    own = model.test_function
    callback = CalibrationCallback(model)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)
    assert model.evaluate(data, callbacks=[callback], verbose=0) == loss
    assert_same(callback.statistics, expected_of(two_kerases.sequential, images))
    assert model.test_function is own
    assert not {"call", "make_test_function", "make_predict_function"} & set(vars(model))
    assert model.evaluate(images, labels, batch_size=BATCH, verbose=0) == loss
    assert callback.statistics.images == 12


def test_fit_gives_the_statistics_of_its_last_epoch_with_the_trained_weights() -> None:
    model, alone = (compiled(two_kerases.classifier(tf_keras)) for _ in range(2))
    images = two_kerases.images_of(model)
    labels = np.random.default_rng(1).normal(size=(12, 5)).astype(np.float32)
    callback = CalibrationCallback(model)
    for trained, callbacks in ((model, [callback]), (alone, [])):
        tf_keras.utils.set_random_seed(0)
        trained.fit(
            images,
            labels,
            validation_data=(images[:4], labels[:4]),
            batch_size=BATCH,
            epochs=2,
            shuffle=False,
            callbacks=callbacks,
            verbose=0,
        )
    for weight, expected in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert callback.statistics.fingerprint == lower(model).graph.fingerprint
    assert_same(callback.statistics, calibrate(model, images, batch_size=BATCH))


def test_under_a_mixed_precision_policy_the_statistics_are_those_of_float32() -> None:
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = two_kerases.classifier(tf_keras)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    images = two_kerases.images_of(model)
    callback = CalibrationCallback(model)
    outputs = model.predict(images, batch_size=BATCH, callbacks=[callback], verbose=0)
    assert outputs.dtype == np.float16
    assert_same(callback.statistics, expected_of(two_kerases.classifier, images))


def test_calibrate_takes_models_of_tf_keras() -> None:
    models = [two_kerases.two_inputs(library) for library in two_kerases.BOTH]
    images = two_kerases.images_of(models[0])
    expected, found = (calibrate(model, images, batch_size=BATCH) for model in models)
    assert_same(found, expected)


def test_a_batch_with_nan_is_refused_and_the_model_runs_on() -> None:
    model = two_kerases.sequential(tf_keras)
    images = two_kerases.images_of(model)
    broken = images.copy()
    broken[7, 0, 0, 0] = np.nan
    callback = CalibrationCallback(model)
    with pytest.raises(StatisticsError, match=r"in batch 1 \(counted from 0\), the images hold"):
        model.predict(broken, batch_size=BATCH, callbacks=[callback], verbose=0)
    assert np.isfinite(model.predict(images, batch_size=BATCH, verbose=0)).all()
    assert not {"call", "make_test_function"} & set(vars(model))


def test_a_class_derived_from_the_callback_runs_in_tf_keras_too() -> None:
    class Counting(CalibrationCallback):
        batches = 0

        def on_predict_batch_end(self, batch: int, logs: object = None) -> None:
            super().on_predict_batch_end(batch, logs)
            self.batches += 1

    model = two_kerases.sequential(tf_keras)
    images = two_kerases.images_of(model)
    callback = Counting(model)
    model.predict(images, batch_size=BATCH, callbacks=[callback], verbose=0)
    assert callback.batches == 3
    assert_same(callback.statistics, expected_of(two_kerases.sequential, images))
    assert type(type(callback)(model)) is type(callback)


def test_another_model_is_refused() -> None:
    callback = CalibrationCallback(two_kerases.sequential(tf_keras))
    other = two_kerases.sequential(tf_keras)
    with pytest.raises(StatisticsError, match="must run with the model that it was made for"):
        other.predict(two_kerases.images_of(other), callbacks=[callback], verbose=0)


def test_fit_on_several_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = compiled(two_kerases.sequential(tf_keras))
    strategy = type("TwoDevices", (), {"num_replicas_in_sync": 2})()
    callback = CalibrationCallback(model)
    callback.set_model(model)
    monkeypatch.setattr(tf_keras.Model, "distribute_strategy", strategy)
    with pytest.raises(ModelError, match=r"must run on one device .*under TwoDevices"):
        callback.on_train_begin()
    assert "make_test_function" not in vars(model)
