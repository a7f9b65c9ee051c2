"""The callback against numpy on the model's own layers, and what it leaves of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from keras_networks import randomize_batch_norms

from tflite_ptq4 import CalibrationCallback, CalibrationStatistics, DataError, ModelError
from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.keras_side.calibration.array_calibration import calibrate
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

# For each tensor of the lowered graph, the Keras layer whose output it stands for.
LAYER_OF_TENSOR = {
    "conv": "conv_relu",  # BatchNormalization folded, ReLU fused
    "depthwise": "depthwise_bn",
    "join": "join",
    "both": "both",
    "pool": "pool",
    "mean": "mean",
    "head/linear": "logits",
    "head": "head",
}


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(image)
    x = layers.ReLU(name="conv_relu")(layers.BatchNormalization(name="conv_bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.BatchNormalization(name="depthwise_bn")(y)
    z = layers.Concatenate(name="both")([layers.Add(name="join")([x, y]), y])
    z = layers.GlobalAveragePooling2D(name="mean")(layers.MaxPooling2D(2, name="pool")(z))
    z = layers.Dropout(0.5, name="dropout")(z)
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="head")(z))
    randomize_batch_norms(model)
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return network()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(0.2, 1, (11, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def exact(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor over all images, by Keras' own layers."""
    names = [name for name in LAYER_OF_TENSOR.values() if name != "logits"]
    outputs = {name: model.get_layer(name).output for name in names}
    found = keras.Model(model.inputs, outputs).predict(images, batch_size=4, verbose=0)
    head = model.get_layer("head")
    found["logits"] = found["mean"] @ head.kernel.numpy() + head.bias.numpy()
    return {"image": images, **{name: found[key] for name, key in LAYER_OF_TENSOR.items()}}


@pytest.fixture(scope="module")
def plain_outputs(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, batch_size=4, verbose=0)


def observed(model: keras.Model, data: object, **options: object) -> CalibrationStatistics:
    calibration = CalibrationCallback(model)
    model.predict(data, callbacks=[calibration], verbose=0, **options)
    return calibration.statistics


def positive_std(statistics: TensorStatistics) -> np.ndarray:
    """The deviation of the values x > 0 of each channel; 0 where there are none."""
    return np.sqrt(statistics.positive_m2 / np.maximum(statistics.positive_count, 1))


def assert_close(found: TensorStatistics, expected: TensorStatistics, name: str = "") -> None:
    """Equal up to what float32 sums of one batch round, and values on the edge of a bin."""
    scale = max(np.abs(expected.minimum).max(), np.abs(expected.maximum).max())
    np.testing.assert_array_equal(found.count, expected.count, name)
    for field in ("minimum", "maximum", "mean", "std", "positive_mean"):
        np.testing.assert_allclose(
            getattr(found, field), getattr(expected, field), atol=2e-6 * scale, err_msg=name
        )
    assert np.abs(found.positive_count - expected.positive_count).max() <= 1
    for values in (positive_std, lambda stats: stats.mean_abs_deviation):
        np.testing.assert_allclose(values(found), values(expected), rtol=2e-3, err_msg=name)
    assert np.abs(found.histogram - expected.histogram).sum() <= 2e-3 * expected.count.sum()


# --- what is gathered ---


def test_statistics_are_those_of_the_models_own_tensors(
    model: keras.Model, images: np.ndarray, exact: dict[str, np.ndarray]
) -> None:
    statistics = observed(model, images, batch_size=4)  # batches of 4, 4 and 3
    assert list(statistics) == list(exact)
    assert statistics.images == 11
    for name, values in exact.items():
        assert_close(statistics[name], TensorStatistics.from_array(values), name)


def test_deviations_are_those_of_the_values_themselves(
    model: keras.Model, images: np.ndarray, exact: dict[str, np.ndarray]
) -> None:
    """E|x - mean| comes from the histogram: within a few percent on a few hundred values."""
    statistics = observed(model, images, batch_size=4)
    for name in ("image", "conv", "depthwise"):
        rows = exact[name].reshape(-1, exact[name].shape[-1]).astype(float)
        deviation = np.abs(rows - rows.mean(axis=0)).mean(axis=0)
        np.testing.assert_allclose(statistics[name].mean_abs_deviation, deviation, rtol=0.05)
        for channel, column in enumerate(rows.T):
            positive = column[column > 0]
            assert statistics[name].positive_count[channel] == pytest.approx(len(positive), abs=1)
            found = positive_std(statistics[name])[channel]
            assert found == pytest.approx(positive.std(), rel=1e-2)


class Batches(keras.utils.PyDataset):
    def __init__(self, arrays: list) -> None:
        super().__init__()
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> object:
        return self.arrays[index]


def _generator(batches: list) -> Iterator:
    for batch in batches:
        yield (batch,)


def _tf_data(batches: list) -> tf.data.Dataset:
    """Of unknown length: Keras begins one batch more than there is."""
    spec = tf.TensorSpec((None, 8, 8, 3), tf.float32)
    return tf.data.Dataset.from_generator(lambda: batches, output_signature=spec)


SOURCES = {
    "generator": _generator,
    "PyDataset": Batches,
    "tf.data of unknown length": _tf_data,
    "tf.data": lambda batches: tf.data.Dataset.from_tensor_slices(np.concatenate(batches)).batch(5),
}


# Keras warns where the length is not known.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_every_kind_of_data_gives_the_same(
    model: keras.Model,
    images: np.ndarray,
    exact: dict[str, np.ndarray],
    plain_outputs: np.ndarray,
    make: Callable[[list], object],
) -> None:
    calibration = CalibrationCallback(model)
    batches = [images[:5], images[5:10], images[10:]]
    outputs = model.predict(make(batches), callbacks=[calibration], verbose=0)
    np.testing.assert_allclose(outputs, plain_outputs, atol=1e-6)
    assert calibration.statistics.images == 11
    for name, values in exact.items():
        assert_close(calibration.statistics[name], TensorStatistics.from_array(values), name)


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(1, 10), max_size=3, unique=True), batch=st.integers(1, 12))
def test_merged_shards_are_one_pass(cuts: list[int], batch: int) -> None:
    """Whatever the shards, whatever the batches, the last and smaller one included."""
    model, images = _shared()
    whole = calibrate(model, images)
    ends = [0, *sorted(cuts), len(images)]
    merged = None
    for start, stop in pairwise(ends):
        shard = calibrate(model, images[start:stop], batch_size=batch)
        merged = shard if merged is None else merged.merge(shard)
    assert merged.images == whole.images
    for name in whole:
        assert_close(merged[name], whole[name], name)


_SHARED: list = []


def _shared() -> tuple[keras.Model, np.ndarray]:
    if not _SHARED:
        small = keras.Sequential(
            [keras.Input((4, 4, 2)), layers.Conv2D(3, 3, activation="relu", name="conv")]
        )
        images = np.random.default_rng(1).normal(size=(11, 4, 4, 2)).astype(np.float32)
        _SHARED.append((small, images))
    return _SHARED[0]


def test_several_runs_add_up(model: keras.Model, images: np.ndarray) -> None:
    calibration = CalibrationCallback(model)
    model.predict(images[:7], callbacks=[calibration], batch_size=3, verbose=0)
    model.predict(images[7:], callbacks=[calibration], verbose=0)
    whole = observed(model, images)
    assert calibration.statistics.images == 11
    for name in whole:
        assert_close(calibration.statistics[name], whole[name], name)


def test_calibrate_is_the_callback_without_a_run(model: keras.Model, images: np.ndarray) -> None:
    whole = observed(model, images, batch_size=4)
    shown: list = []
    statistics = calibrate(
        model, images, batch_size=4, progress=lambda batches: shown.extend(batches) or batches
    )
    assert shown == [0, 4, 8]
    assert (statistics.images, statistics.fingerprint) == (11, whole.fingerprint)
    for name in whole:
        assert_close(statistics[name], whole[name], name)


def test_statistics_come_back_from_a_file(
    model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    statistics = observed(model, images)
    statistics.save(tmp_path / "statistics.npz")
    assert CalibrationStatistics.load(tmp_path / "statistics.npz") == statistics


def test_memory_does_not_grow_with_the_images(model: keras.Model, images: np.ndarray) -> None:
    calibration = CalibrationCallback(model)

    def held() -> int:
        accumulator = calibration._observer._accumulator
        tensors = [accumulator._count, accumulator._images, accumulator._sums]
        tensors += [accumulator._minimum, accumulator._maximum, *accumulator._histograms.values()]
        own = [value for value in vars(accumulator).values() if isinstance(value, tf.Variable)]
        assert len(own) == 5  # nothing else is held
        return sum(math.prod(tensor.shape) for tensor in tensors)

    model.predict(images[:4], callbacks=[calibration], batch_size=4, verbose=0)
    before = held()
    attributes = set(vars(calibration))
    for _ in range(3):
        model.predict(images, callbacks=[calibration], batch_size=4, verbose=0)
    assert held() == before
    assert set(vars(calibration)) == attributes
    assert calibration.statistics.images == 37


# --- what predict and evaluate give ---


def test_predict_gives_the_same(
    model: keras.Model, images: np.ndarray, plain_outputs: np.ndarray
) -> None:
    calibration = CalibrationCallback(model)
    for batch_size in (4, 32):
        outputs = model.predict(images, callbacks=[calibration], batch_size=batch_size, verbose=0)
        assert type(outputs) is type(plain_outputs)
        assert outputs.dtype == plain_outputs.dtype
        np.testing.assert_allclose(outputs, plain_outputs, atol=1e-6)


def _outputs(structure: str) -> Callable[[list], object]:
    return {
        "single": lambda t: t[0],
        "list": lambda t: t,
        "list of one": lambda t: t[:1],
        "dict": lambda t: {"b": t[0], "a": t[1]},
        "nested": lambda t: {"z": [t[1], t[0]], "a": {"inner": t[0]}},
        "one tensor twice": lambda t: [t[0], t[0]],
    }[structure]


@pytest.mark.parametrize(
    "structure", ["single", "list", "list of one", "dict", "nested", "one tensor twice"]
)
@pytest.mark.parametrize("inputs", ["list", "dict"])
def test_every_structure_comes_back(structure: str, inputs: str, rng: np.random.Generator) -> None:
    left, right = keras.Input((6, 6, 2), name="left"), keras.Input((6, 6, 1), name="right")
    x = layers.Conv2D(3, 3, name="conv")(layers.Concatenate(name="joined")([left, right]))
    tensors = [layers.Flatten()(x), layers.ReLU(name="relu")(x)]
    given_inputs = {"right": right, "left": left} if inputs == "dict" else [left, right]
    model = keras.Model(given_inputs, _outputs(structure)(tensors))
    data = {
        "left": rng.normal(size=(5, 6, 6, 2)).astype(np.float32),
        "right": rng.normal(size=(5, 6, 6, 1)).astype(np.float32),
    }
    if inputs == "list":
        data = list(data.values())
    plain = model.predict(data, batch_size=2, verbose=0)
    calibration = CalibrationCallback(model)
    outputs = model.predict(data, batch_size=2, verbose=0, callbacks=[calibration])
    keras.tree.assert_same_structure(outputs, plain)
    assert type(outputs) is type(plain)
    for got, want in zip(keras.tree.flatten(outputs), keras.tree.flatten(plain), strict=True):
        assert type(got) is type(want)
        np.testing.assert_allclose(got, want, atol=1e-6)
    left_values = data["left"] if inputs == "dict" else data[0]
    assert calibration.statistics.images == 5
    assert_close(calibration.statistics["left"], TensorStatistics.from_array(left_values))


@pytest.mark.parametrize("eagerly", [False, True])
def test_evaluate_gives_the_same_and_observes(images: np.ndarray, eagerly: bool) -> None:
    model, labels = network(), np.arange(11) % 3
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=eagerly)
    plain = model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    calibration = CalibrationCallback(model)
    result = model.evaluate(
        images, labels, batch_size=4, verbose=0, return_dict=True, callbacks=[calibration]
    )
    assert result == pytest.approx(plain, rel=1e-6)
    whole = observed(model, images)
    for name in whole:
        assert_close(calibration.statistics[name], whole[name], name)
    assert model.evaluate(images, labels, verbose=0, return_dict=True) == pytest.approx(
        plain, rel=1e-5
    )
    assert calibration.statistics.images == 11


def test_a_model_compiled_anew_is_evaluated_as_it_is_now(images: np.ndarray) -> None:
    model, labels = network(), np.arange(11) % 3
    calibration = CalibrationCallback(model)
    model.compile(loss="sparse_categorical_crossentropy")
    model.evaluate(images, labels, verbose=0, callbacks=[calibration])
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    plain = model.evaluate(images, labels, verbose=0)
    assert len(plain) == 2
    observing = model.evaluate(images, labels, verbose=0, callbacks=[calibration])
    assert observing == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("compiled", [{"steps_per_execution": 2}, {"jit_compile": True}])
def test_other_ways_to_compile(images: np.ndarray, compiled: dict) -> None:
    model = network()
    plain = model.predict(images, batch_size=4, verbose=0)
    model.compile(loss="mse", **compiled)
    calibration = CalibrationCallback(model)
    outputs = model.predict(images, batch_size=4, verbose=0, callbacks=[calibration])
    np.testing.assert_allclose(outputs, plain, atol=1e-6)
    assert calibration.statistics.images == 11


def test_weights_trained_after_a_first_run_are_those_observed(images: np.ndarray) -> None:
    """The callback keeps its compiled function, which reads the model's variables."""
    model = network()
    calibration = CalibrationCallback(model)
    model.predict(images, callbacks=[calibration], verbose=0)
    head = model.get_layer("head")
    head.set_weights([2 * array for array in head.get_weights()])
    outputs = model.predict(images, callbacks=[calibration], verbose=0)
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), atol=1e-6)


# --- what stays of the callback in the model ---


def _state(model: keras.Model) -> dict:
    return {
        "weights": [array.copy() for array in model.get_weights()],
        "config": model.get_config(),
        "inbound": {layer.name: len(layer._inbound_nodes) for layer in model._flatten_layers()},
        "outbound": {layer.name: len(layer._outbound_nodes) for layer in model._flatten_layers()},
        "attributes": set(vars(model)),
        "functions": (model.predict_function, model.test_function),
    }


def test_the_users_model_is_not_modified(images: np.ndarray) -> None:
    model = network()
    model.compile(loss="sparse_categorical_crossentropy")
    plain = model.predict(images, verbose=0)
    model.evaluate(images, np.zeros(11), verbose=0)
    before = _state(model)
    calibration = CalibrationCallback(model)
    model.predict(images, callbacks=[calibration], verbose=0)
    model.evaluate(images, np.zeros(11), callbacks=[calibration], verbose=0)
    np.testing.assert_equal(_state(model), before)
    np.testing.assert_array_equal(model.predict(images, verbose=0), plain)
    assert calibration.statistics.images == 22
    model.predict_on_batch(images)
    assert calibration.statistics.images == 22


class BreakOff(keras.callbacks.Callback):
    def on_predict_batch_end(self, batch: int, logs: object = None) -> None:
        if batch == 1:
            raise InterruptedError("half-way")


def _break_in_callback(model: keras.Model, images: np.ndarray, calibration: object) -> None:
    with pytest.raises(InterruptedError):
        model.predict(images, batch_size=2, callbacks=[calibration, BreakOff()], verbose=0)


def _break_before_calibration(model: keras.Model, images: np.ndarray, calibration: object) -> None:
    with pytest.raises(InterruptedError):
        model.predict(images, batch_size=2, callbacks=[BreakOff(), calibration], verbose=0)


def _break_in_data(model: keras.Model, images: np.ndarray, calibration: object) -> None:
    """The exception comes between the begin of a batch and its run."""

    def broken() -> Iterator[np.ndarray]:
        yield images[:2]
        yield images[2:4]
        raise InterruptedError("half-way")

    with pytest.raises(Exception, match="half-way"):
        model.predict(_tf_data_of(broken), callbacks=[calibration], verbose=0)


def _tf_data_of(make: Callable[[], Iterator]) -> tf.data.Dataset:
    spec = tf.TensorSpec((None, 8, 8, 3), tf.float32)
    return tf.data.Dataset.from_generator(make, output_signature=spec)


@pytest.mark.parametrize(
    "break_off", [_break_in_callback, _break_before_calibration, _break_in_data]
)
def test_after_an_exception_half_way_the_model_works_and_is_not_observed(
    images: np.ndarray, break_off: Callable
) -> None:
    model = network()
    plain = model.predict(images, batch_size=4, verbose=0)
    attributes, function = set(vars(model)), model.predict_function
    calibration = CalibrationCallback(model)
    break_off(model, images, calibration)
    assert calibration.statistics.images == 4
    outputs = model.predict(images, batch_size=4, verbose=0)
    np.testing.assert_array_equal(outputs, plain)
    assert calibration.statistics.images == 4
    assert set(vars(model)) == attributes
    assert model.predict_function is function
    # And the callback can go on.
    model.predict(images, batch_size=4, verbose=0, callbacks=[calibration])
    assert calibration.statistics.images == 15


def test_another_callback_may_run_the_model(images: np.ndarray) -> None:
    class Nested(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch: int, logs: object = None) -> None:
            self.model.predict_on_batch(images[:1])

    model = network()
    for order in (0, 1):
        calibration = CalibrationCallback(model)
        callbacks = [Nested(), calibration] if order else [calibration, Nested()]
        model.predict(images, batch_size=4, verbose=0, callbacks=callbacks)
        assert calibration.statistics.images == 11


# --- refusals ---


def test_statistics_of_no_batch_are_refused(model: keras.Model) -> None:
    with pytest.raises(StatisticsError, match="at least one batch"):
        CalibrationCallback(model).statistics  # noqa: B018


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("run", ["predict", "calibrate"])
def test_images_that_are_not_finite_are_refused(images: np.ndarray, value: float, run: str) -> None:
    model, broken = network(), images.copy()
    plain = model.predict(images, verbose=0)
    broken[5, 7, 7, 2] = value
    message = r"batch 1 \(counted from 0\), the images hold NaN or Inf \(model input 'image'\)"
    with pytest.raises(StatisticsError, match=message):
        if run == "predict":
            calibration = CalibrationCallback(model)
            model.predict(broken, batch_size=4, callbacks=[calibration], verbose=0)
        else:
            calibrate(model, broken, batch_size=4)
    np.testing.assert_array_equal(model.predict(images, verbose=0), plain)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_layer_that_makes_nan_is_named(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, sampled: bool
) -> None:
    """A square root of one negative value in one image; also where only a sample is counted."""
    if sampled:
        monkeypatch.setattr("tflite_ptq4.keras_side.calibration.observation.SAMPLED_ELEMENTS", 60)
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Lambda(keras.ops.sqrt, name="root", output_shape=(8, 8, 1))(image)
    model = keras.Model(image, layers.Conv2D(2, 3, name="conv")(x))
    images = np.abs(rng.normal(size=(6, 8, 8, 1))).astype(np.float32)
    images[4, 3, 5, 0] = -1.0
    calibration = CalibrationCallback(model)
    with pytest.raises(StatisticsError, match=r"batch 2 .* the output of layer 'root' holds NaN"):
        model.predict(images, batch_size=2, callbacks=[calibration], verbose=0)


def test_nan_weights_are_found_in_evaluate_too(images: np.ndarray) -> None:
    model = network()
    model.compile(loss="sparse_categorical_crossentropy")
    kernel = model.get_layer("depthwise").kernel
    calibration = CalibrationCallback(model)
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(StatisticsError, match=r"batch 0 .* layer 'depthwise'"):
        model.evaluate(images, np.zeros(11), callbacks=[calibration], verbose=0)


def test_another_model_is_refused(model: keras.Model, images: np.ndarray) -> None:
    other = network()
    calibration = CalibrationCallback(other)
    with pytest.raises(StatisticsError, match="must run with the model that it was made for"):
        model.predict(images, callbacks=[calibration], verbose=0)


def test_a_model_of_unsupported_layers_only_is_refused() -> None:
    image = keras.Input((4, 4, 2))
    model = keras.Model(image, layers.UnitNormalization()(image))
    with pytest.raises(ModelError, match="UnitNormalization: no integer form"):
        CalibrationCallback(model)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 8, 8, 3), "at least one image"),
        ((2, 8, 8, 1), "8 x 8 x 3 per image. Received: 8 x 8 x 1"),
        ((2, 9, 8, 3), "Received: 9 x 8 x 3"),
        ((8, 8, 3), "Received: 8 x 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    model: keras.Model, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        calibrate(model, np.zeros(shape, np.float32))


def test_open_sides_take_any_image() -> None:
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, layers.Conv2D(1, 3, name="conv")(inputs))
    assert calibrate(model, np.ones((1, 5, 9, 1), np.float32))["conv"].count.tolist() == [3 * 7]
    with pytest.raises(DataError, match="any x any x 1 per image"):
        calibrate(model, np.ones((1, 5, 9, 2), np.float32))


def test_several_inputs_are_calibrated_as_the_callback_does(rng: np.random.Generator) -> None:
    left, extra = keras.Input((4, 4, 2), name="left"), keras.Input((3,), name="extra")
    mean = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, name="conv")(left))
    head = layers.Dense(2, name="head")(layers.Concatenate(name="both")([mean, extra]))
    model = keras.Model({"left": left, "extra": extra}, head)
    images = {"left": rng.integers(0, 9, (5, 4, 4, 2), np.uint8), "extra": rng.normal(size=(5, 3))}
    exact = observed(model, images)
    found = calibrate(model, images, batch_size=2)
    assert (list(found), found.images) == (list(exact), 5)
    for name in exact:
        assert_close(found[name], exact[name], name)
    assert_close(found["extra"], TensorStatistics.from_array(images["extra"]))
    with pytest.raises(DataError, match=r"'extra', 3 per image\. Received: 2"):
        calibrate(model, {**images, "extra": images["extra"][:, :2]})
    images["extra"][3, 1] = np.inf
    with pytest.raises(StatisticsError, match=r"batch 1 .*model input 'extra'"):
        calibrate(model, images, batch_size=2)


def test_layers_in_float_may_give_integers(rng: np.random.Generator) -> None:
    image = keras.Input((6, 6, 2), name="image")
    classes = keras.ops.argmax(layers.Conv2D(4, 3, name="conv")(image), axis=-1)
    model = keras.Model(image, classes)
    images = rng.normal(size=(3, 6, 6, 2)).astype(np.float32)
    plain = model.predict(images, verbose=0)
    calibration = CalibrationCallback(model)
    outputs = model.predict(images, verbose=0, callbacks=[calibration])
    assert outputs.dtype == plain.dtype
    np.testing.assert_array_equal(outputs, plain)
    assert calibration.statistics["conv"].count.tolist() == [48] * 4
