"""The one call: what it refuses, what it falls back to, and that its parts agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from keras_networks import build, chain, images_for

from tflite_ptq4 import (
    CalibrationCallback,
    CalibrationStatistics,
    ConfigError,
    DataError,
    LayerRule,
    ModelError,
    OutputError,
    QuantizationConfig,
    QuantizationPlan,
    QuantizedModel,
    StatisticsError,
    TargetError,
    calibrate,
    quantize_model,
)
from tflite_ptq4.config.description import describe
from tflite_ptq4.file_inspection import inspect_file
from tflite_ptq4.image_count import LEAST_IMAGES
from tflite_ptq4.image_variations import with_variations

W4A8 = QuantizationConfig.preset("w4a8")
PAPER = QuantizationConfig.preset("paper_w4a4")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build("residual")


@pytest.fixture(scope="module")
def images(model: keras.Model) -> np.ndarray:
    return images_for(model, 12)[0]


@pytest.fixture(scope="module")
def statistics(model: keras.Model, images: np.ndarray) -> CalibrationStatistics:
    return calibrate(model, images)


@pytest.fixture(scope="module")
def made(model, statistics, images) -> QuantizedModel:
    return quantize_model(model, statistics, W4A8, images=images)


def test_the_example_of_the_readme(model: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    calibration = CalibrationCallback(model)
    model.predict(images, callbacks=[calibration], verbose=0)
    quantized = quantize_model(
        model, calibration.statistics, QuantizationConfig.preset("w4a8"), images=images
    )
    assert isinstance(quantized, QuantizedModel)
    assert isinstance(quantized.simulated_model, keras.Model)
    assert quantized.simulated_model is quantized.simulated_model
    assert quantized.plan.config == W4A8
    assert [row.name for row in quantized.report.rows if row.weights] == list(quantized.weights)
    data = quantized.to_tflite(target="int8_container")
    quantized.save(tmp_path / "model.tflite", target="int8_container")
    assert (tmp_path / "model.tflite").read_bytes() == data


def test_plan_weights_and_report_are_about_the_same_layers(made: QuantizedModel) -> None:
    weighted = [layer.name for layer in made.plan.layers if layer.weight_bits is not None]
    rows = [row for row in made.report.rows if row.weights]
    assert list(made.weights) == weighted == [row.name for row in rows]
    for row in rows:
        assert row.weights == made.weights[row.name].integers.size
        assert row.weight_bits == made.plan.layer(row.name).weight_bits.mean()
        assert row.output_sqnr_db > 5
    assert [row.weight_bits for row in rows] == [8, 4, 4, 4, 4, 8]
    assert made.report.config == describe(W4A8)


def test_the_sensitivity_is_measured_where_it_is_asked_for(
    model, statistics, images, made, tmp_path: Path
) -> None:
    assert not made.report.has_sensitivity
    asked = quantize_model(model, statistics, W4A8, images=images, sensitivity=True)
    assert asked.to_tflite() == made.to_tflite()
    rows = [row for row in asked.report.rows if row.weights]
    assert all(row.sensitivity.weights > 0 for row in rows)
    assert all("/" not in row.layer for row in rows)  # conv2d, not conv2d/linear
    without = quantize_model(model, statistics, W4A8, sensitivity=True)
    assert not without.report.has_sensitivity
    without.report.save(tmp_path)
    assert "was not measured" in (tmp_path / "report.html").read_text()


def test_the_same_call_twice_gives_the_same(model, statistics, images, made) -> None:
    again = quantize_model(model, statistics, W4A8, images=images)
    assert again.plan.to_dict() == made.plan.to_dict()
    assert again.report == made.report
    assert again.to_tflite() == made.to_tflite()


def test_loaded_statistics_and_a_loaded_model_give_the_same(
    model, statistics, images, made, tmp_path: Path
) -> None:
    model.save(tmp_path / "model.keras")
    statistics.save(tmp_path / "statistics.npz")
    again = quantize_model(
        keras.models.load_model(tmp_path / "model.keras"),
        CalibrationStatistics.load(tmp_path / "statistics.npz"),
        W4A8,
        images=images,
    )
    assert again.plan.to_dict() == made.plan.to_dict()
    assert again.to_tflite() == made.to_tflite()


def test_the_plan_is_saved_and_loaded(made: QuantizedModel, tmp_path: Path) -> None:
    made.plan.save(tmp_path / "plan.json")
    assert QuantizationPlan.load(tmp_path / "plan.json").to_dict() == made.plan.to_dict()


def test_without_images_the_steps_that_need_them_are_left_out(model, statistics, made) -> None:
    quantized = quantize_model(model, statistics, W4A8)
    config = quantized.plan.config
    assert not config.needs_images
    assert (config.output_matching, config.refit_weights) == (False, False)
    assert config.weight_rounding == "nearest"
    assert "output matching" not in quantized.report.config
    assert "output matching" in made.report.config
    assert all(row.output_sqnr_db is None for row in quantized.report.rows)
    assert len(quantized.to_tflite()) > 0


def test_images_may_be_any_array(model, statistics, images, made) -> None:
    for given in (images.astype(np.float64), images.tolist()):
        again = quantize_model(model, statistics, W4A8, images=given)
        np.testing.assert_array_equal(
            again.weights["conv2d"].integers if "conv2d" in again.weights else 0,
            made.weights["conv2d"].integers if "conv2d" in made.weights else 0,
        )
        assert again.report == made.report


def test_progress_sees_every_operator(model, statistics, images) -> None:
    seen: dict[str, int] = {}

    def progress(description: str, items: Sequence) -> Sequence:
        seen[description] = len(items)
        return items

    quantize_model(model, statistics, W4A8, images=images, sensitivity=True, progress=progress)
    assert list(seen) == ["Ranking layers", "Quantizing", "Measuring layers"]
    assert seen["Quantizing"] == len(quantize_model(model, statistics, W4A8).plan.layers)


# --- targets ---


def test_the_target_follows_the_config(model, statistics, made) -> None:
    assert made.to_tflite() == made.to_tflite(target="int8_container")
    paper = quantize_model(model, statistics, PAPER)
    assert paper.to_tflite() == paper.to_tflite(target="float_simulated")


@pytest.mark.parametrize(
    "config",
    [
        PAPER,
        PAPER.replace(quantized_tensors="all"),
        QuantizationConfig(activation_granularity="per_channel"),
        QuantizationConfig(mean_correction="weights"),
        QuantizationConfig(quantized_tensors="layer_inputs"),
    ],
    ids=["paper", "paper, all", "per channel", "off the grid", "layer inputs"],
)
def test_a_target_that_cannot_hold_the_plan_is_refused(model, statistics, config) -> None:
    quantized = quantize_model(model, statistics, config)
    with pytest.raises(TargetError, match="float_simulated"):
        quantized.to_tflite(target="int8_container")
    report = inspect_file(quantized.to_tflite())
    assert report.operators["CONV_2D"] == len(quantized.weights)


@pytest.mark.parametrize(
    "options", [{"target": "int4"}, {"target": "int8_container", "io": "uint8"}]
)
def test_an_unknown_target_or_type_is_refused(made: QuantizedModel, options: dict) -> None:
    with pytest.raises(TargetError, match="must be one of"):
        made.to_tflite(**options)


def test_a_name_for_a_config_and_none_for_statistics_are_refused(
    model: keras.Model, statistics: CalibrationStatistics
) -> None:
    with pytest.raises(ConfigError, match=r"Received: 'w4a8'\. .*QuantizationConfig\.preset"):
        quantize_model(model, statistics, "w4a8")
    with pytest.raises(StatisticsError, match=r"Received: a NoneType\. Call calibrate"):
        quantize_model(model, None, W4A8)


def test_an_unwritable_path_is_refused_and_nothing_is_left(
    made: QuantizedModel, tmp_path: Path
) -> None:
    with pytest.raises(OutputError):
        made.save(tmp_path / "absent" / "model.tflite")
    assert list(tmp_path.iterdir()) == []


# --- refusals ---


def test_statistics_of_other_weights_are_refused(model, statistics) -> None:
    other = build("residual")
    layer = next(layer for layer in other.layers if layer.weights)
    layer.set_weights([array * 1.01 for array in layer.get_weights()])
    with pytest.raises(StatisticsError, match=f"must come from this model.*{other.name}"):
        quantize_model(other, statistics, W4A8)


def test_statistics_of_another_model_are_refused(statistics) -> None:
    with pytest.raises(StatisticsError, match="must come from this model"):
        quantize_model(build("depthwise"), statistics, W4A8)


def test_statistics_of_another_size_are_refused_but_those_of_a_model_for_any_size_fit() -> None:
    def network(side: int | None) -> keras.Model:
        inputs = keras.Input((side, side, 3), name="image")
        conv = layers.Conv2D(4, 3, kernel_initializer="ones", name="conv")
        return keras.Model(inputs, conv(inputs), name=f"of_{side}")

    images = np.ones((2, 8, 8, 3), np.float32)
    with pytest.raises(StatisticsError, match=r"sizes of its inputs.*'of_10' is"):
        quantize_model(network(10), calibrate(network(8), images), W4A8)
    quantized = quantize_model(network(None), calibrate(network(None), images), W4A8)
    assert quantized.to_tflite(input_shapes=(10, 10, 3))


def test_statistics_that_lack_a_tensor_are_refused(model, statistics) -> None:
    kept = dict(list(statistics.items())[:-1])
    with pytest.raises(StatisticsError, match="must hold every tensor"):
        quantize_model(model, replace(statistics, tensors=kept), W4A8)


def _nan(images: np.ndarray) -> np.ndarray:
    broken = images.copy()
    broken[3, 0, 0, 0] = np.nan
    broken[7, 2, 2, 1] = broken[7, 3, 3, 2] = np.inf
    return broken


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nan, "NaN or Inf in 2 of 12 images"),
        (lambda images: images[:0], "at least one image"),
        (lambda images: images[..., :1], "8 x 8 x 3 per image. Received: 8 x 8 x 1"),
        (lambda images: images[:, :4], "Received: 4 x 8 x 3"),
        (lambda images: images[0], "Received: 8 x 3"),
    ],
    ids=["NaN", "empty", "channels", "size", "no batch axis"],
)
def test_images_that_cannot_be_used_are_refused(
    model, statistics, images, damage: Callable, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        quantize_model(model, statistics, W4A8, images=damage(images))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda left, right: left, r"\[left, right\]. Received: one ndarray"),
        (lambda left, right: {"left": left, "rigth": right}, "a dict of left, rigth"),
        (lambda left, right: [right, left], "'left', 8 x 8 x 3 per image. Received: 4 x 4 x 2"),
        (lambda left, right: [left, right[:5]], "12 for 'left', 5 for 'right'"),
        (lambda left, right: [left, right * np.nan], "12 of 12 images of input 'right'"),
        (lambda left, right: [left.astype(str), right], "<U32 for input 'left'"),
    ],
    ids=["one array", "typo", "swapped", "lengths", "NaN", "text"],
)
def test_images_that_do_not_fit_several_inputs_are_refused_by_name(
    damage: Callable, message: str
) -> None:
    model = build("several_inputs")
    images = images_for(model)
    statistics = calibrate(model, images)
    with pytest.raises(DataError, match=message):
        quantize_model(model, statistics, W4A8, images=damage(*images))


def test_a_model_that_cannot_be_quantized_is_refused(statistics) -> None:
    with pytest.raises(ModelError, match="at least one convolution or Dense"):
        quantize_model(chain(layers.MaxPooling2D(2)), statistics, W4A8)
    with pytest.raises(ModelError, match="is not built"):
        quantize_model(keras.Sequential([layers.Conv2D(2, 3)]), statistics, W4A8)


def test_a_config_that_leaves_everything_in_float_is_refused(model, statistics) -> None:
    config = W4A8.replace(rules=(LayerRule(match="*", quantize=False),))
    with pytest.raises(ModelError, match="Change its `rules`"):
        quantize_model(model, statistics, config)


def test_the_users_model_is_not_modified(model, statistics, images) -> None:
    weights, config = model.get_weights(), model.get_config()
    inbound = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    attributes = set(vars(model))
    quantized = quantize_model(model, statistics, W4A8, images=images)
    quantized.to_tflite()
    quantized.simulated_model.predict(images, verbose=0)
    np.testing.assert_equal(model.get_weights(), weights)
    assert model.get_config() == config
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == inbound
    assert set(vars(model)) == attributes


def test_reasons_reach_the_plan_and_the_report() -> None:
    model = build("float_branch")
    (images,) = images_for(model)
    quantized = quantize_model(model, calibrate(model, images), W4A8, images=images)
    for text in (quantized.plan.render(), quantized.report.render()):
        assert (
            "not quantized: layer_normalization: a factor for every pixel has no integer form"
            in text
        )


def test_copies_of_few_images_join_in_the_corrections(model, statistics, images, made) -> None:
    (varied,) = with_variations([images], LEAST_IMAGES[W4A8.effort])
    alone = W4A8.replace(varied_images=False)
    by_hand, without = (
        quantize_model(model, statistics, alone, images=x) for x in (varied, images)
    )
    assert len(varied) > len(images)
    for name, weights in made.weights.items():
        np.testing.assert_array_equal(weights.integers, by_hand.weights[name].integers)
        np.testing.assert_array_equal(weights.bias, by_hand.weights[name].bias)
    assert any(
        (made.weights[name].bias != without.weights[name].bias).any() for name in made.weights
    )
