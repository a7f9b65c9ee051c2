"""The simulated model: levels, structure, files, and what it leaves of the user's model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from keras_networks import NETWORKS, build, image, images_for

from tflite_ptq4 import CalibrationCallback, LayerRule, QuantizationConfig, quantize_model
from tflite_ptq4.pipeline import QuantizedModel
from tflite_ptq4.plan import QuantizationPlan

CONFIGS = {
    "w4a4": QuantizationConfig.preset("w4a4", activation_bit_budget=None).without_images(),
    "w8a8": QuantizationConfig.preset("w8a8").without_images(),
    "paper": QuantizationConfig.preset("paper_w4a4", quantized_tensors="all"),
    "paper, layer inputs": QuantizationConfig.preset(
        "paper_w4a4", quantized_tensors="layer_inputs"
    ),
    "per tensor, layer inputs": QuantizationConfig(
        activation_bits=4, quantized_tensors="layer_inputs"
    ),
    "off the grid": QuantizationConfig(activation_bits=4, mean_correction="weights"),
    "three bits": QuantizationConfig(weight_bits=3, activation_bits=3, output_bits=3),
}
SHAPES = ["residual", "concatenate_on_one_scale", "pools", "depthwise", "several_outputs", "nested"]


def fed(tensors: list) -> object:
    """The inputs of a model as Keras takes them."""
    return tensors if len(tensors) > 1 else tensors[0]


def quantized(model: keras.Model, config: QuantizationConfig, count: int = 12) -> QuantizedModel:
    calibration = CalibrationCallback(model)
    images = images_for(model, count)
    model.predict(fed(images), callbacks=[calibration], verbose=0)
    return quantize_model(model, calibration.statistics, config)


@cache
def example(network: str, config: str) -> tuple[keras.Model, QuantizedModel]:
    model = build(network)
    return model, quantized(model, CONFIGS[config], 200)


def planned_tensors(
    simulated: keras.Model, plan: QuantizationPlan, images: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """Every planned tensor of the simulated model, from the layer that writes it."""
    names = {layer.name for layer in simulated.layers}
    found = {}
    for tensor in plan.tensors:
        plain = tensor.replace("/", ".")
        layer = next(name for name in (f"{plain}.quantized", plain) if name in names)
        found[tensor] = simulated.get_layer(layer).output
    values = keras.Model(fed(simulated.inputs), found)(fed(images))
    return {name: np.asarray(value) for name, value in values.items()}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("network", SHAPES)
def test_every_planned_tensor_takes_its_planned_levels(network: str, config: str) -> None:
    """No more than planned in any channel; and all of them where thousands of values fall."""
    model, made = example(network, config)
    values = planned_tensors(made.simulated_model, made.plan, images_for(model, 200))
    for name, tensor in made.plan.tensors.items():
        flat = values[name].reshape(-1, values[name].shape[-1])
        columns = list(flat.T) if tensor.per_channel else [flat.ravel()]
        levels = 2**tensor.bits
        for channel, column in enumerate(columns):
            # What moves per-channel values to other channels, or pads, mixes their levels.
            if tensor.source != name and tensor.per_channel and len(columns) != len(levels):
                continue
            taken = np.unique(column)
            assert len(taken) <= levels[channel], name
            grid = np.float32(tensor.scale[channel]) * np.arange(
                tensor.lower[channel], tensor.upper[channel] + 1, dtype=np.float32
            )
            np.testing.assert_array_equal(taken, taken[np.isin(taken, grid)], name)
            own = tensor.source == name
            if own and len(column) >= 2000 and levels[channel] <= 16 and column.std() > 0:
                # The tails of a clip may be wide for so few draws.
                assert len(taken) > 0.6 * levels[channel], name


def test_all_sixteen_levels_are_reached_on_rich_data() -> None:
    """A convolution of one weight passes uniform images on: every level is hit."""
    inputs = image(8, 8, 1)
    outputs = layers.Conv2D(1, 1, activation="relu", name="pass")(inputs)
    model = keras.Model(inputs, layers.Conv2D(1, 1, name="last")(outputs))
    model.get_layer("pass").set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    images = np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 1)).astype(np.float32)
    calibration = CalibrationCallback(model)
    model.predict(images, callbacks=[calibration], verbose=0)
    for bits in (2, 3, 4, 5):
        config = QuantizationConfig(activation_bits=bits, last_layer_bits=None)
        made = quantize_model(model, calibration.statistics, config)
        values = planned_tensors(made.simulated_model, made.plan, [images])
        assert len(np.unique(values["pass/linear"])) == 2**bits
        assert len(np.unique(values["image"])) == 256


def test_channels_of_no_bits_become_their_mean() -> None:
    """Most of the bits go to the one wide channel; the narrow ones are replaced."""
    keras.utils.set_random_seed(0)
    inputs = image()
    wide = layers.Conv2D(6, 3, padding="same", use_bias=True, name="wide")
    model = keras.Model(
        inputs, layers.Conv2D(2, 1, name="last")(layers.Conv2D(4, 1, name="next")(wide(inputs)))
    )
    kernel, _ = wide.get_weights()
    wide.set_weights([kernel * np.float32([30, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3]), np.arange(-2.0, 4)])
    config = CONFIGS["paper"].replace(average_activation_bits=1.0)
    images = images_for(model, 12)
    made = quantized(model, config)
    tensor = made.plan.tensors["wide"]
    replaced = np.flatnonzero(tensor.bits == 0)
    assert len(replaced) >= 3
    values = planned_tensors(made.simulated_model, made.plan, images)["wide"]
    exact = np.asarray(keras.Model(model.inputs[0], wide.output)(images[0]))
    for channel in replaced:
        (level,) = np.unique(values[..., channel])
        assert level == pytest.approx(exact[..., channel].mean(), abs=1e-5)


WITH_LAMBDA = {"lambda_in_the_middle", "float_at_both_ends"}
SAVED = [(network, "w8a8") for network in NETWORKS] + [(network, "paper") for network in SHAPES]


def assert_near(found: object, exact: object, noise: float) -> None:
    """Mean squared differences, against mean squares."""
    pairs = zip(keras.tree.flatten(found), keras.tree.flatten(exact), strict=True)
    for got, want in pairs:
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert np.square(got - want).mean() < noise * np.square(want).mean()


@pytest.mark.parametrize(("network", "config"), SAVED)
def test_a_saved_model_comes_back_to_the_last_bit_and_8_bits_are_near_float(
    network: str, config: str, tmp_path: Path
) -> None:
    model = build(network)
    simulated = quantized(model, CONFIGS[config]).simulated_model
    images = fed(images_for(model))
    found = simulated.predict(images, verbose=0)
    assert_near(found, model.predict(images, verbose=0), 0.02 if config == "w8a8" else 0.3)
    if network not in WITH_LAMBDA:
        simulated.save(tmp_path / "simulated.keras")
        loaded = keras.models.load_model(tmp_path / "simulated.keras")
        np.testing.assert_equal(loaded.predict(images, verbose=0), found)


def test_a_model_with_a_lambda_is_saved_as_far_as_keras_can(tmp_path: Path) -> None:
    inputs = image()
    x = layers.Lambda(lambda x: 2 * x, name="twice")(layers.Conv2D(3, 3, name="conv")(inputs))
    model = keras.Model(inputs, x)
    simulated = quantized(model, CONFIGS["w4a4"]).simulated_model
    simulated.save(tmp_path / "simulated.keras")
    loaded = keras.models.load_model(tmp_path / "simulated.keras", safe_mode=False)
    images = images_for(model, 3)[0]
    np.testing.assert_array_equal(loaded(images), simulated(images))


def _connected(structure: str):
    return {
        "single": lambda a, b: a,
        "list": lambda a, b: [a, b],
        "list of one": lambda a, b: [a],
        "dict": lambda a, b: {"b": a, "a": b},
        "nested": lambda a, b: {"z": [b, a], "a": {"inner": a}},
        "twice": lambda a, b: [a, a],
    }[structure]


@pytest.mark.parametrize("config", ["w8a8", "paper"])
@pytest.mark.parametrize("structure", ["single", "list", "list of one", "dict", "nested", "twice"])
def test_the_structure_of_the_outputs_is_kept(structure: str, config: str) -> None:
    keras.utils.set_random_seed(0)
    inputs = image()
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    outputs = _connected(structure)(x, layers.Conv2D(2, 3, name="other")(layers.ReLU()(x)))
    model = keras.Model(inputs, outputs)
    simulated = quantized(model, CONFIGS[config]).simulated_model
    images = images_for(model, 3)[0]
    found, expected = simulated.predict(images, verbose=0), model.predict(images, verbose=0)
    keras.tree.assert_same_structure(found, expected)
    assert_near(found, expected, 0.01 if config == "w8a8" else 0.2)


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_are_fed_as_those_of_the_model(as_dict: bool) -> None:
    left, right = image(8, 8, 3, name="left"), image(8, 8, 2, name="right")
    x = layers.Conv2D(4, 1)(layers.Concatenate()([left, right]))
    model = keras.Model({"right": right, "left": left} if as_dict else [left, right], x)
    rng = np.random.default_rng(0)
    data = {
        "left": rng.normal(size=(6, 8, 8, 3)).astype(np.float32),
        "right": 10 * rng.normal(size=(6, 8, 8, 2)).astype(np.float32),
    }
    data = data if as_dict else list(data.values())
    calibration = CalibrationCallback(model)
    expected = model.predict(data, callbacks=[calibration], verbose=0)
    made = quantize_model(model, calibration.statistics, CONFIGS["w8a8"])
    assert_near(made.simulated_model.predict(data, verbose=0), expected, 0.01)


def test_layers_in_float_compute_in_float() -> None:
    keras.utils.set_random_seed(0)
    inputs = image()
    x = layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = layers.Conv2D(4, 3, activation="relu", name="kept")(x)
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x))
    config = CONFIGS["w4a4"].replace(rules=(LayerRule(match="kept", quantize=False),))
    simulated = quantized(model, config).simulated_model
    kept = next(layer for layer in simulated.layers if layer.name in ("kept", "kept.linear"))
    for found, exact in zip(kept.get_weights(), model.get_layer("kept").get_weights(), strict=True):
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("network", ["residual", "float_branch", "batch_norm_elsewhere", "nested"])
def test_the_users_model_is_not_modified(network: str) -> None:
    model = build(network)
    weights, config = model.get_weights(), model.get_config()
    inbound = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    simulated = quantized(model, CONFIGS["w4a4"]).simulated_model
    for variable in simulated.variables:
        variable.assign(keras.ops.zeros_like(variable))
    np.testing.assert_equal(model.get_weights(), weights)
    assert model.get_config() == config
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == inbound


def test_parts_of_a_split_take_no_name_of_the_user_s_operations() -> None:
    """After a clean session Keras would call the first slice "get_item", as the model's own."""
    keras.utils.clear_session()
    inputs = image(6, 6, 4)
    left, right = keras.ops.split(inputs[:, 1:], 2, axis=-1)
    x = layers.Conv2D(2, 1)(layers.Concatenate()([right, left]))
    made = quantized(keras.Model(inputs, x), QuantizationConfig.preset("w8a4"))
    keras.utils.clear_session()
    names = [operation.name for operation in made.simulated_model.operations]
    assert len(set(names)) == len(names)
