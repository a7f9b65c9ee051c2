"""Models of several inputs, images and others: the corrections on images, simulation and files."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
from keras import layers
from runtimes import outputs

from tflite_ptq4 import QuantizationConfig, QuantizedModel, calibrate, quantize_model
from tflite_ptq4.evaluation.runnable_models import keras_model, tflite_model

CONFIG = QuantizationConfig.preset("w4a8")
COUNT = 24


def network(structure: str = "list") -> keras.Model:
    """Two images of one shape, and a vector beside them; in every structure the same network."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    photo, depth = keras.Input((8, 8, 3), name="photo"), keras.Input((8, 8, 3), name="depth")
    pose = keras.Input((5,), name="pose")
    near = layers.Conv2D(8, 3, padding="same", activation="relu")(photo)
    far = layers.Conv2D(8, 3, padding="same", activation="relu")(depth)
    x = layers.Conv2D(8, 3, activation="relu")(layers.Subtract()([near, far]))
    x = layers.Concatenate()(
        [layers.GlobalAveragePooling2D()(x), layers.Dense(6, activation="relu")(pose)]
    )
    given = {
        "list": [photo, depth, pose],
        "dict": {"photo": photo, "depth": depth, "pose": pose},
        "nested": {"views": [photo, depth], "state": {"pose": pose}},
    }[structure]
    return keras.Model(given, layers.Dense(4)(layers.Dense(8, activation="relu")(x)))


@cache
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "photo": rng.normal(size=(COUNT, 8, 8, 3)).astype(np.float32),
        "depth": rng.normal(3, 2, size=(COUNT, 8, 8, 3)).astype(np.float32),
        "pose": rng.normal(0, 5, size=(COUNT, 5)).astype(np.float32),
    }


def nested() -> dict:
    seen = arrays()
    return {"views": [seen["photo"], seen["depth"]], "state": {"pose": seen["pose"]}}


def in_order(model: keras.Model) -> list[np.ndarray]:
    return [arrays()[tensor.name] for tensor in model.inputs]


@cache
def made(preset: str = "w4a8") -> QuantizedModel:
    model = network()
    config = QuantizationConfig.preset(preset)
    return quantize_model(model, calibrate(model, arrays()), config, images=arrays())


@pytest.mark.parametrize("preset", ["w4a8", "w4a4", "w8a8"])
def test_the_file_computes_exactly_what_the_simulated_model_does(preset: str) -> None:
    model = made(preset)
    simulated = model.simulated_model.predict(arrays(), verbose=0)
    (received,) = outputs(model.to_tflite("int8_container"), list(arrays().values()))
    np.testing.assert_array_equal(received, simulated)


def test_every_correction_that_needs_images_is_made() -> None:
    assert made().plan.config == CONFIG
    assert CONFIG.weight_rounding == "second_order"
    assert all(row.output_sqnr_db is not None for row in made().report.rows)
    model = network()
    without = quantize_model(model, calibrate(model, arrays()), CONFIG)
    # The layers behind each of the three inputs, and those behind all of them.
    for name, weights in made().weights.items():
        assert (weights.integers != without.weights[name].integers).any(), name
    exact = model.predict(arrays(), verbose=0)

    def error(quantized: QuantizedModel) -> float:
        return float(
            np.square(quantized.simulated_model.predict(arrays(), verbose=0) - exact).mean()
        )

    assert error(made()) < 0.8 * error(without)


def test_the_reported_ratio_is_that_of_the_model_on_these_images() -> None:
    model, alone = network(), CONFIG.replace(varied_images=False)
    quantized = quantize_model(model, calibrate(model, arrays()), alone, images=arrays())
    exact = model.predict(arrays(), verbose=0).astype(np.float64)
    simulated = quantized.simulated_model.predict(arrays(), verbose=0)
    expected = 10 * np.log10(np.square(exact).sum() / np.square(exact - simulated).sum())
    assert quantized.report.rows[-1].output_sqnr_db == pytest.approx(expected, abs=0.1)


def _converted(change) -> dict[str, object]:
    return {name: change(array) for name, array in arrays().items()}


@pytest.mark.parametrize(
    "images",
    [
        lambda: list(arrays().values()),
        lambda: tuple(arrays().values()),
        lambda: dict(reversed(arrays().items())),
        lambda: _converted(lambda array: array.astype(np.float64)),
        lambda: _converted(keras.ops.convert_to_tensor),
        lambda: [array.tolist() for array in arrays().values()],
    ],
    ids=["list", "tuple", "dict of another order", "float64", "tensors", "lists of numbers"],
)
def test_every_way_to_pass_the_images_gives_the_same_bytes(images) -> None:
    model = network()
    again = quantize_model(model, calibrate(model, images()), CONFIG, images=images())
    assert again.report == made().report
    assert again.to_tflite() == made().to_tflite()


def test_images_of_one_shape_are_not_mixed_up() -> None:
    model = network()
    swapped = {**arrays(), "photo": arrays()["depth"], "depth": arrays()["photo"]}
    other = quantize_model(model, calibrate(model, arrays()), CONFIG, images=swapped)
    assert other.report != made().report


# Keras warns of keys that are not the names of inputs.
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
@pytest.mark.parametrize(
    ("structure", "images"),
    [("dict", arrays), ("nested", nested), ("nested", arrays)],
    ids=["dict", "nested", "nested, by name"],
)
def test_a_model_of_dicts_takes_its_images_in_dicts(structure: str, images) -> None:
    """The same network whose inputs Keras puts into another order."""
    model = network(structure)
    own = nested() if structure == "nested" else arrays()
    quantized = quantize_model(model, calibrate(model, images()), CONFIG, images=images())
    for name, weights in quantized.weights.items():
        np.testing.assert_array_equal(weights.integers, made().weights[name].integers)
    simulated = quantized.simulated_model.predict(own, verbose=0)
    np.testing.assert_array_equal(simulated, made().simulated_model.predict(arrays(), verbose=0))
    (received,) = outputs(quantized.to_tflite(), in_order(model))
    np.testing.assert_array_equal(received, simulated)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
@pytest.mark.parametrize("structure", ["list", "dict", "nested"])
def test_models_of_several_inputs_are_run_as_they_are(structure: str) -> None:
    model = network(structure)
    runnable = keras_model(model, name="float", size=0, batch_size=7)
    assert list(runnable.input_shapes) == [tensor.name for tensor in model.inputs]
    expected = network().predict(arrays(), verbose=0)
    np.testing.assert_allclose(runnable.run(in_order(model), None), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"io": "int8"}, {"dynamic_batch": True}])
def test_files_of_several_inputs_are_run_by_the_names_of_their_signature(options: dict) -> None:
    file = tflite_model(made().to_tflite(**options), name="file")
    assert file.input_shapes == {"photo": (8, 8, 3), "depth": (8, 8, 3), "pose": (5,)}
    simulated = made().simulated_model.predict(arrays(), verbose=0)
    np.testing.assert_array_equal(file.run(list(arrays().values()), None), simulated)


def test_sides_left_open_are_those_of_the_images() -> None:
    keras.utils.clear_session()
    left, right = keras.Input((None, None, 3), name="left"), keras.Input((4, None, 3), name="right")
    pooled = [
        layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(tensor)) for tensor in (left, right)
    ]
    model = keras.Model([left, right], layers.Dense(3)(layers.Concatenate()(pooled)))
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(6, *shape)) for shape in ((6, 5, 3), (4, 7, 3))]
    quantized = quantize_model(model, calibrate(model, images), CONFIG, images=images)
    file = tflite_model(quantized.to_tflite(), name="file")
    assert file.input_shapes == {"left": (6, 5, 3), "right": (4, 7, 3)}
