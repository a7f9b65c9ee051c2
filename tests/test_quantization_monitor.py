"""The monitor beside a training run: what it logs, and what it leaves untouched."""

from __future__ import annotations

import csv
import gc
import random
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from tflite_ptq4 import (
    ConfigError,
    DataError,
    ModelError,
    PostTrainingQuantizationMonitor,
    QuantizationConfig,
    calibrate,
    quantize_model,
)
from tflite_ptq4.evaluation.model_evaluation import top1
from tflite_ptq4.keras_side.random_streams import unchanged_random_streams
from tflite_ptq4.numerics.closeness import agreement, sqnr_db

# Statistics alone: the least work that quantizes.
FAST = QuantizationConfig(weight_bits=4)
NAMES = {"ptq_accuracy", "ptq_loss", "ptq_accuracy_drop", "ptq_float_agreement"}
NAMES |= {"ptq_output_sqnr_db"}


def network(**compiled: object) -> keras.Model:
    """Whatever draws random numbers in training, and an operation of `keras.ops`."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, name="conv")(layers.RandomFlip()(image))
    x = keras.ops.relu(layers.BatchNormalization()(x))
    x = layers.Dropout(0.5)(layers.GaussianNoise(0.1)(layers.GlobalAveragePooling2D()(x)))
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="head")(x))
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **compiled}
    model.compile("adam", **options)
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(24, 6, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.arange(24) % 3


def state(model: keras.Model) -> list[np.ndarray]:
    """Weights, seeds of the layers, metrics and optimizer."""
    return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]


def seed_every_stream() -> None:
    # Keras 3.10 goes on with the generator that it has.
    global_state.set_global_attribute("global_seed_generator", None)
    keras.utils.set_random_seed(1)
    tf.random.get_global_generator().reset_from_seed(2)


def streams() -> list:
    """The next numbers of every global stream."""
    return [
        random.random(),
        float(np.random.random()),
        float(keras.random.uniform(())),
        float(tf.random.uniform(())),
        float(tf.random.get_global_generator().uniform(())),
    ]


class Batches(keras.utils.PyDataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self.arrays = images, labels

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple:
        return tuple(array[8 * index : 8 * (index + 1)] for array in self.arrays)


# --- what stays ---


def test_a_run_with_and_one_without_end_with_the_same_bits(
    images: np.ndarray, labels: np.ndarray
) -> None:
    """With shuffling, augmentation, dropout, BatchNormalization; and what is drawn afterwards."""

    def trained(callbacks: list) -> tuple[keras.Model, list]:
        model = network()
        seed_every_stream()
        history = model.fit(
            images,
            labels,
            batch_size=8,
            epochs=3,
            verbose=0,
            validation_data=(images, labels),
            callbacks=callbacks,
        ).history
        return model, [*streams(), history["loss"], history["val_accuracy"]]

    monitor = PostTrainingQuantizationMonitor(images, (images, labels), "w4a8")
    (model, drawn), (plain, expected) = trained([monitor]), trained([])
    for got, want in zip(state(model), state(plain), strict=True):
        np.testing.assert_array_equal(got, want)
    assert drawn == expected


def test_the_models_functions_and_attributes_stay(images: np.ndarray, labels: np.ndarray) -> None:
    model, traces = network(), []
    step = model.train_step
    model.train_step = lambda data: traces.append(0) or step(data)
    model.fit(images, labels, verbose=0)
    nodes = [len(operation._inbound_nodes) for operation in model.operations]
    before = (len(traces), model.train_function, model.test_function, model.predict_function)
    attributes = set(vars(model))
    monitor = PostTrainingQuantizationMonitor(images, (images, labels), FAST)
    model.fit(images, labels, epochs=2, verbose=0, callbacks=[monitor])
    after = (len(traces), model.train_function, model.test_function, model.predict_function)
    assert after == before
    assert set(vars(model)) == attributes
    assert [len(operation._inbound_nodes) for operation in model.operations] == nodes


def test_nothing_piles_up_with_the_epochs(images: np.ndarray, labels: np.ndarray) -> None:
    class Count(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.held: list[dict[str, int]] = []

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            kinds = (keras.Layer, tf.Variable, tf.Graph)
            objects = gc.get_objects()
            self.held.append(
                {kind.__name__: sum(isinstance(o, kind) for o in objects) for kind in kinds}
            )

    model, count = network(), Count()
    monitor = PostTrainingQuantizationMonitor(images, (images, labels), FAST)
    model.fit(images, labels, epochs=4, verbose=0, callbacks=[monitor, count])
    assert count.held[3] == count.held[2]


def test_every_stream_goes_on_where_it_stood() -> None:
    model = network()
    seed_every_stream()
    expected, before = streams(), state(model)
    seed_every_stream()
    with unchanged_random_streams(model):
        streams()
        model.layers[-2](np.zeros((1, 4)), training=True)
        model.metrics[0].update_state(5.0)
        assert any(np.any(a != b) for a, b in zip(state(model), before, strict=True))
    np.testing.assert_equal(state(model), before)
    assert streams() == expected
    with pytest.raises(InterruptedError), unchanged_random_streams(model):
        random.random()
        raise InterruptedError


def test_streams_need_not_be_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, eager = network(), context.context()
    monkeypatch.setattr(eager, "_seed", None)
    monkeypatch.delattr(eager, "_rng")
    monkeypatch.setattr(stateful_random_ops, "global_generator", None)
    global_state.set_global_attribute("global_seed_generator", None)
    with unchanged_random_streams(model):
        streams()
    assert stateful_random_ops.global_generator is None
    assert global_state.get_global_attribute("global_seed_generator") is None


# --- what is logged ---


def test_what_is_logged_is_what_quantization_gives(images: np.ndarray, labels: np.ndarray) -> None:
    model = network()
    monitor = PostTrainingQuantizationMonitor(images, (images, labels), "w4a4", batch_size=10)
    history = model.fit(images, labels, epochs=1, verbose=0, callbacks=[monitor]).history
    logged = {name: values[0] for name, values in history.items() if name.startswith("ptq_")}
    assert set(logged) == NAMES
    config = QuantizationConfig.preset("w4a4")
    quantized = quantize_model(model, calibrate(model, images), config, images=images)
    outputs = quantized.simulated_model.predict(images, verbose=0)
    exact = model.predict(images, verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(labels, outputs).numpy().mean()
    assert logged == pytest.approx(
        {
            "ptq_accuracy": top1(outputs, labels),
            "ptq_loss": loss,
            "ptq_accuracy_drop": top1(exact, labels) - top1(outputs, labels),
            "ptq_float_agreement": agreement(exact, outputs),
            "ptq_output_sqnr_db": sqnr_db(exact, outputs),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize(
    ("chosen", "epochs", "runs"),
    [
        ({}, 4, [0, 1, 2, 3]),
        ({"every": 3}, 7, [0, 2, 5, 6]),
        ({"epochs": (2, 3)}, 6, [0, 2, 3, 5]),
        ({"every": 9}, 1, [0]),
    ],
)
def test_it_runs_after_the_first_the_chosen_and_the_last_epoch_and_repeats_in_between(
    monkeypatch: pytest.MonkeyPatch, chosen: dict, epochs: int, runs: list[int]
) -> None:
    monitor = PostTrainingQuantizationMonitor(np.zeros((1, 6, 6, 2)), None, FAST, **chosen)
    monitor._model = SimpleNamespace(stop_training=False)
    monitor.set_params({"epochs": epochs})
    monkeypatch.setattr(
        "tflite_ptq4.quantization_monitor.unchanged_random_streams", lambda model: nullcontext()
    )
    current: list[int] = []
    monkeypatch.setattr(monitor, "_measured", lambda epoch: {"ptq_accuracy": float(current[-1])})
    logged = []
    for epoch in range(epochs):
        current.append(epoch)
        logs: dict = {}
        monitor.on_epoch_end(epoch, logs)
        logged.append(int(logs["ptq_accuracy"]))
    assert logged == [max(run for run in runs if run <= epoch) for epoch in range(epochs)]


def test_the_callbacks_of_keras_read_its_names(
    images: np.ndarray, labels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A better checkpoint at epoch 2 alone; then no gain for two epochs ends the training."""
    accuracies = iter([0.5, 0.7, 0.6])
    monitor = PostTrainingQuantizationMonitor(images, (images, labels), FAST, every=2)
    measured = monitor._measured
    monkeypatch.setattr(
        monitor, "_measured", lambda epoch: {**measured(epoch), "ptq_accuracy": next(accuracies)}
    )
    saved = tmp_path / "epoch{epoch}.weights.h5"
    keras_callbacks = [
        keras.callbacks.ModelCheckpoint(
            saved,
            monitor="ptq_accuracy",
            mode="max",
            save_best_only=True,
            save_weights_only=True,
        ),
        keras.callbacks.EarlyStopping("ptq_accuracy", mode="max", patience=2),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
    ]
    model = network()
    model.fit(images, labels, epochs=9, verbose=0, callbacks=[monitor, *keras_callbacks])
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == [
        "epoch1.weights.h5",
        "epoch2.weights.h5",
    ]
    with open(tmp_path / "log.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["ptq_accuracy"] for row in rows] == ["0.5", "0.7", "0.7", "0.6"]
    assert set(rows[0]) >= NAMES
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board" / "train"))
    events.Reload()
    assert {f"epoch_{name}" for name in NAMES} <= set(events.Tags()["tensors"])


SOURCES = {
    "arrays": lambda x, y: (x, y),
    "with weights": lambda x, y: (x, y, np.ones(len(y), np.float32)),
    "tf.data": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(7),
    "PyDataset": Batches,
}


def test_every_kind_of_validation_data_gives_the_same(
    images: np.ndarray, labels: np.ndarray
) -> None:
    model = network()
    logged = []
    for make in SOURCES.values():
        source = make(images, labels)
        calibration = source if isinstance(source, tf.data.Dataset | Batches) else images
        monitor = PostTrainingQuantizationMonitor(calibration, source, FAST)
        monitor.set_model(model)
        monitor.set_params({"epochs": 1})
        model.stop_training = False
        monitor.on_train_begin()
        logs: dict = {}
        monitor.on_epoch_end(0, logs)
        logged.append(logs)
    for logs in logged[1:]:
        assert logs == pytest.approx(logged[0], rel=1e-5)


def test_without_labels_the_distance_to_float_remains(images: np.ndarray) -> None:
    model = network()
    monitor = PostTrainingQuantizationMonitor(images, None, FAST)
    history = model.fit(images, np.zeros(24), verbose=0, callbacks=[monitor]).history
    names = {name for name in history if name.startswith("ptq_")}
    assert names == {"ptq_float_agreement", "ptq_output_sqnr_db"}


def test_accuracy_is_logged_whatever_the_model_was_compiled_with(
    images: np.ndarray, labels: np.ndarray
) -> None:
    model = network(loss="categorical_crossentropy", metrics=[])
    one_hot = np.eye(3)[labels]
    monitor = PostTrainingQuantizationMonitor(images, (images, one_hot), FAST)
    history = model.fit(images, one_hot, verbose=0, callbacks=[monitor]).history
    assert {name for name in history if name.startswith("ptq_")} == NAMES


def test_each_output_has_its_metrics_and_its_loss(images: np.ndarray, labels: np.ndarray) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2), name="image")
    mean = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    outputs = {name: layers.Dense(n, name=name)(mean) for name, n in (("kind", 3), ("size", 1))}
    model = keras.Model(image, outputs)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {"kind": crossentropy, "size": "mse"}
    model.compile("sgd", losses, metrics={"kind": ["accuracy"]})
    truth = {"kind": labels, "size": np.ones((24, 1), np.float32)}
    monitor = PostTrainingQuantizationMonitor(images, (images, truth), FAST, batch_size=8)
    history = model.fit(images, truth, verbose=0, callbacks=[monitor]).history
    quantized = quantize_model(model, calibrate(model, images), FAST, images=images)
    answers = quantized.simulated_model.predict(images, verbose=0)
    accuracy = top1(answers["kind"], labels)
    size_loss = float(np.mean((answers["size"] - 1) ** 2))
    assert history["ptq_kind_accuracy"] == pytest.approx([accuracy])
    assert history["ptq_size_loss"] == pytest.approx([size_loss], rel=1e-5)
    assert history["ptq_loss"][0] == pytest.approx(
        history["ptq_kind_loss"][0] + size_loss, rel=1e-5
    )
    exact = top1(model.predict(images, verbose=0)["kind"], labels)
    assert history["ptq_kind_accuracy_drop"] == pytest.approx([exact - accuracy])


# --- refusals ---


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_every_is_a_whole_number_above_zero(images: np.ndarray, every: object) -> None:
    with pytest.raises(ConfigError, match="`every` must be a whole number above zero"):
        PostTrainingQuantizationMonitor(images, None, FAST, every=every)


def test_what_cannot_be_used_is_refused_before_training(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(ConfigError, match="The nearest is 'w4a8'"):
        PostTrainingQuantizationMonitor(images, None, "w4a9")
    with pytest.raises(DataError, match=r"must be a tuple \(images, labels\)"):
        PostTrainingQuantizationMonitor(images, [images, labels], FAST)
    model = network()
    monitor = PostTrainingQuantizationMonitor(images[:, :5], None, FAST)
    with pytest.raises(DataError, match="6 x 6 x 2 per image"):
        model.fit(images, labels, verbose=0, callbacks=[monitor])
    plain = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten()])
    plain.compile(loss="mse")
    monitor = PostTrainingQuantizationMonitor(images, None, FAST)
    with pytest.raises(ModelError, match="at least one convolution or Dense"):
        plain.fit(images, np.zeros((24, 72)), verbose=0, callbacks=[monitor])
