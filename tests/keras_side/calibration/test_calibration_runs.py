"""The same statistics for the same images in `fit`, `evaluate` and `predict`, under any policy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tflite_ptq4 import (
    CalibrationCallback,
    CalibrationStatistics,
    QuantizationConfig,
    calibrate,
    quantize_model,
)
from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.keras_side.lowering import lower
from tflite_ptq4.numerics.closeness import sqnr_db

BATCH, IMAGES = 4, 22  # a smaller batch at the end


def trainable_network(policy: str = "float32") -> keras.Model:
    """Everything that draws random numbers or behaves differently in training."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.RandomFlip(dtype=policy)(image)
    x = layers.Conv2D(4, 3, padding="same", name="conv", dtype=policy)(x)
    x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    x = layers.GlobalAveragePooling2D(dtype=policy)(layers.Add(dtype=policy)([x, x]))
    x = layers.Dropout(0.5, dtype=policy)(x)
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="head")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(0.2, 1, (IMAGES, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.arange(IMAGES) % 3


def predicted(model: keras.Model, images: np.ndarray) -> CalibrationStatistics:
    calibration = CalibrationCallback(model)
    model.predict(images, batch_size=BATCH, callbacks=[calibration], verbose=0)
    return calibration.statistics


def state(model: keras.Model) -> list[np.ndarray]:
    """Weights, random streams of the layers, optimizer and metrics."""
    return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]


class Batches(keras.utils.PyDataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self.arrays = images, labels

    def __len__(self) -> int:
        return -(-IMAGES // BATCH)

    def __getitem__(self, index: int) -> tuple:
        return tuple(array[BATCH * index : BATCH * (index + 1)] for array in self.arrays)


def _endless(images: np.ndarray, labels: np.ndarray) -> Iterator:
    batches = Batches(images, labels)
    while True:
        yield from (batches[index] for index in range(len(batches)))


SOURCES: dict[str, Callable] = {
    "arrays": lambda x, y: {"x": x, "y": y, "batch_size": BATCH, "shuffle": False},
    "tf.data": lambda x, y: {
        "x": tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH),
        "shuffle": False,
    },
    "PyDataset": lambda x, y: {"x": Batches(x, y), "shuffle": False},
    "generator": lambda x, y: {"x": _endless(x, y), "steps_per_epoch": 6, "shuffle": False},
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_fit_gives_the_statistics_of_predict_after_it_to_the_bit(
    images: np.ndarray, labels: np.ndarray, source: Callable
) -> None:
    model = trainable_network()
    calibration = CalibrationCallback(model)
    model.fit(**source(images, labels), epochs=2, callbacks=[calibration], verbose=0)
    assert calibration.statistics.images == IMAGES
    assert calibration.statistics == predicted(model, images)


def test_evaluate_and_calibrate_give_the_statistics_of_predict_to_the_bit(
    images: np.ndarray, labels: np.ndarray
) -> None:
    model = trainable_network()
    calibration = CalibrationCallback(model)
    model.evaluate(images, labels, batch_size=BATCH, callbacks=[calibration], verbose=0)
    assert calibration.statistics == predicted(model, images)
    assert calibration.statistics == calibrate(model, images, batch_size=BATCH)


def test_shuffled_batches_give_the_same_up_to_the_order_of_float32_sums(
    images: np.ndarray, labels: np.ndarray
) -> None:
    model = trainable_network()
    calibration = CalibrationCallback(model)
    model.fit(images, labels, batch_size=BATCH, callbacks=[calibration], verbose=0)
    found, exact = calibration.statistics, predicted(model, images)
    assert found.images == IMAGES
    for name in exact:
        np.testing.assert_array_equal(found[name].count, exact[name].count)
        for field in ("minimum", "maximum", "mean", "std"):
            np.testing.assert_allclose(
                getattr(found[name], field), getattr(exact[name], field), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("compiled", [{}, {"steps_per_execution": 4}])
def test_fit_trains_as_it_would_without(
    images: np.ndarray, labels: np.ndarray, compiled: dict
) -> None:
    def trained(*, calibrates: bool) -> keras.Model:
        model = trainable_network()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **compiled)
        callbacks = [CalibrationCallback(model)] if calibrates else []
        keras.utils.set_random_seed(1)
        data = {"batch_size": BATCH, "validation_data": (images[:5], labels[:5])}
        model.fit(images, labels, epochs=2, callbacks=callbacks, verbose=0, **data)
        if calibrates:
            assert callbacks[0].statistics.images == IMAGES
        return model

    with_callback = trained(calibrates=True)
    for got, want in zip(state(with_callback), state(trained(calibrates=False)), strict=True):
        np.testing.assert_array_equal(got, want)
    assert not {"call", "make_train_function"} & set(vars(with_callback))


def test_the_train_function_is_not_compiled_anew(images: np.ndarray, labels: np.ndarray) -> None:
    model, traces = trainable_network(), []
    step = model.train_step
    model.train_step = lambda data: traces.append(0) or step(data)
    model.fit(images, labels, batch_size=BATCH, verbose=0)
    function, before = model.train_function, len(traces)
    model.fit(images, labels, batch_size=BATCH, verbose=0, callbacks=[CalibrationCallback(model)])
    assert (model.train_function, len(traces)) == (function, before)


def test_the_epoch_in_which_training_stops_early_is_the_one(
    images: np.ndarray, labels: np.ndarray
) -> None:
    """With the weights that a later callback restores when training ends."""
    model = trainable_network()
    calibration = CalibrationCallback(model)
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=2, restore_best_weights=True)
    data = {"batch_size": BATCH, "shuffle": False}
    history = model.fit(images, labels, epochs=9, callbacks=[calibration, stop], verbose=0, **data)
    assert len(history.epoch) < 9
    assert calibration.statistics == predicted(model, images)


def test_what_validation_runs_on_is_not_observed(images: np.ndarray, labels: np.ndarray) -> None:
    model = trainable_network()
    calibration = CalibrationCallback(model)
    model.fit(
        images[:8],
        labels[:8],
        validation_data=(100 * images, labels),
        callbacks=[calibration],
        verbose=0,
    )
    assert calibration.statistics.images == 8
    assert calibration.statistics["image"].maximum.max() == images[:8].max()
    # The next run is none of fit's any more.
    model.evaluate(images[8:], labels[8:], callbacks=[calibration], verbose=0)
    assert calibration.statistics.images == IMAGES


def test_memory_is_bounded_by_kept_bytes(images: np.ndarray, labels: np.ndarray) -> None:
    model = trainable_network()
    batch = images[:BATCH].nbytes
    calibration = CalibrationCallback(model, kept_bytes=2 * batch)
    model.fit(images, labels, batch_size=BATCH, shuffle=False, callbacks=[calibration], verbose=0)
    assert sum(kept.nbytes for kept in calibration._epoch.batches) == 2 * batch
    assert calibration.statistics == predicted(model, images[: 2 * BATCH])
    assert calibration._epoch.batches == []


def test_the_last_weights_are_those_that_count(images: np.ndarray, labels: np.ndarray) -> None:
    model = trainable_network()
    calibration = CalibrationCallback(model)
    model.predict(images, callbacks=[calibration], verbose=0)
    earlier = calibration.statistics
    model.fit(images[:8], labels[:8], batch_size=BATCH, verbose=0)
    model.predict(images, batch_size=BATCH, callbacks=[calibration], verbose=0)
    assert calibration.statistics == predicted(model, images)
    assert calibration.statistics.fingerprint != earlier.fingerprint


def test_images_of_fit_that_are_not_finite_are_refused_when_they_are_observed(
    images: np.ndarray, labels: np.ndarray
) -> None:
    model, broken = trainable_network(), images.copy()
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    model.layers[3].momentum = 1.0  # keep the NaN out of the weights
    broken[9, 1, 1, 1] = np.inf
    calibration = CalibrationCallback(model)
    weights = model.get_weights()
    model.fit(broken, labels, batch_size=BATCH, shuffle=False, callbacks=[calibration], verbose=0)
    model.set_weights(weights)
    with pytest.raises(StatisticsError, match=r"batch 2 .*the images hold NaN or Inf"):
        calibration.statistics  # noqa: B018


# --- mixed precision ---


def test_statistics_under_a_mixed_policy_are_those_of_the_float32_form(
    images: np.ndarray, labels: np.ndarray
) -> None:
    model, float32 = trainable_network("mixed_float16"), trainable_network()
    plain = model.predict(images, batch_size=BATCH, verbose=0)
    calibration = CalibrationCallback(model)
    outputs = model.predict(images, batch_size=BATCH, callbacks=[calibration], verbose=0)
    np.testing.assert_array_equal(outputs, plain)
    assert list(calibration.statistics) == list(lower(model).graph.tensors)
    for name, expected in zip(
        calibration.statistics, predicted(float32, images).values(), strict=True
    ):
        assert calibration.statistics[name] == expected
    model.fit(images, labels, batch_size=BATCH, shuffle=False, callbacks=[calibration], verbose=0)
    assert calibration.statistics == predicted(model, images)


def test_a_mixed_model_is_quantized_in_its_float32_form(
    images: np.ndarray, labels: np.ndarray
) -> None:
    """Trained, quantized, simulated and exported while the global policy is mixed_float16."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trainable_network("mixed_float16")
        calibration = CalibrationCallback(model)
        model.fit(images, labels, callbacks=[calibration], verbose=0)
        config = QuantizationConfig.preset("w8a8")
        quantized = quantize_model(model, calibration.statistics, config, images=images)
        simulated = quantized.simulated_model
        assert {layer.compute_dtype for layer in simulated.layers} == {"float32"}
        outputs = simulated.predict(images, verbose=0)
        assert sqnr_db(model.predict(images, verbose=0), outputs) > 30
        assert quantized.to_tflite()[4:8] == b"TFL3"
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy("float32")


# --- replicas ---

ON_TWO_DEVICES = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from keras import layers
from tflite_ptq4 import CalibrationCallback, ModelError, PostTrainingQuantizationMonitor, calibrate

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
images = np.random.default_rng(0).normal(size=(12, 6, 6, 2)).astype("float32")
labels = np.arange(12) % 3

def network():
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((6, 6, 2)), layers.Conv2D(3, 3, activation="relu", name="conv"),
            layers.Flatten(), layers.Dropout(0.5), layers.Dense(3, name="head"),
        ])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
    return model

def weights(*callbacks):
    model = network()
    history = model.fit(images, labels, batch_size=4, epochs=2, callbacks=callbacks, verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in variables], history.history

model = network()
with strategy.scope():
    try:
        CalibrationCallback(model)
    except ModelError as error:
        print(error)
calibration = CalibrationCallback(model)
model.fit(images, labels, batch_size=4, shuffle=False, epochs=2, callbacks=[calibration], verbose=0)
found = {"fit": calibration.statistics}
for name in ("predict", "evaluate"):
    calibration = CalibrationCallback(model)
    data = (images,) if name == "predict" else (images, labels)
    getattr(model, name)(*data, batch_size=4, callbacks=[calibration], verbose=0)
    found[name] = calibration.statistics
assert found["fit"] == found["predict"] == found["evaluate"]
alone = calibrate(model, images, batch_size=2)
assert found["fit"].images == alone.images == 12
for name, expected in alone.items():
    np.testing.assert_array_equal(found["fit"][name].count, expected.count)
    np.testing.assert_array_equal(found["fit"][name].maximum, expected.maximum)
    np.testing.assert_allclose(found["fit"][name].mean, expected.mean, rtol=1e-12, atol=1e-12)
print("equal statistics")

with_monitor, logs = weights(PostTrainingQuantizationMonitor(images, (images, labels)))
without, _ = weights()
np.testing.assert_equal(with_monitor, without)
assert len(logs["ptq_accuracy"]) == 2
print("equal weights")
"""


def test_two_replicas_give_the_statistics_of_one_and_train_beside_the_monitor() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    refusal, *results = done.stdout.splitlines()
    assert refusal.startswith("Statistics must be gathered in variables outside of the scope")
    assert results == ["equal statistics", "equal weights"]
