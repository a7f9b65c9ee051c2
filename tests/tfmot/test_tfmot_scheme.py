from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
import two_kerases
from tf_keras import layers

from tflite_ptq4 import QuantizationConfig, calibrate, quantize_model
from tflite_ptq4.errors import ConfigError, ModelError, StatisticsError
from tflite_ptq4.numerics.closeness import sqnr_db
from tflite_ptq4.tfmot import (
    Ptq4Conv2DQuantizeConfig,
    Ptq4DenseQuantizeConfig,
    Ptq4OutputQuantizeConfig,
    Ptq4QuantizeScheme,
    to_quantized_model,
)

QAT = tfmot.quantization.keras
W4A4 = QuantizationConfig.preset("w4a4")
W8A8 = QuantizationConfig.preset("w8a8")


def network(side: int = two_kerases.SIDE) -> tf_keras.Model:
    """What a real network has: folded layers, a residual sum, pooling, branches, a softmax."""
    image = tf_keras.Input((side, side, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    y = layers.Conv2D(6, 1, activation="swish", name="pointwise")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.Activation("relu", name="sum_relu")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    y = layers.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    x = layers.Concatenate(name="joined")([x, y])
    x = layers.AveragePooling2D(name="average")(x)
    x = layers.Dropout(0.2, name="dropout")(layers.Flatten(name="flat")(x))
    x = layers.Dense(8, activation="elu", name="hidden")(x)
    x = layers.Dense(5, name="classes")(x)
    return two_kerases.with_weights(tf_keras.Model(image, x, name="network"), 0)


IMAGES = two_kerases.images_of(network(), 24)


def applied(
    annotated: tf_keras.Model, scheme: Ptq4QuantizeScheme, **custom: type
) -> tf_keras.Model:
    with QAT.quantize_scope({**Ptq4QuantizeScheme.custom_objects(), **custom}):
        return QAT.quantize_apply(annotated, scheme=scheme)


def annotate(model: tf_keras.Model, chosen) -> tf_keras.Model:
    """Annotate the layers that `chosen` gives a config or True for, as TFMOT's guide does."""

    def annotated(layer):
        wanted = chosen(layer)
        if wanted is None:
            return layer
        return QAT.quantize_annotate_layer(layer, None if wanted is True else wanted)

    return tf_keras.models.clone_model(model, clone_function=annotated)


@pytest.fixture(scope="module")
def model() -> tf_keras.Model:
    return network()


@pytest.fixture(scope="module")
def statistics(model: tf_keras.Model):
    return calibrate(model, IMAGES)


@pytest.fixture(scope="module")
def scheme(statistics) -> Ptq4QuantizeScheme:
    return Ptq4QuantizeScheme(statistics, W4A4, IMAGES)


@pytest.fixture(scope="module")
def quantized(model: tf_keras.Model, scheme: Ptq4QuantizeScheme) -> tf_keras.Model:
    return applied(QAT.quantize_annotate_model(model), scheme)


@pytest.fixture(scope="module")
def direct(model: tf_keras.Model, statistics):
    return quantize_model(model, statistics, W4A4, IMAGES)


def test_the_file_is_that_of_the_direct_path(quantized: tf_keras.Model, direct) -> None:
    back = to_quantized_model(quantized)
    assert back.plan.tensors.keys() == direct.plan.tensors.keys()
    for name, weights in direct.weights.items():
        for field in ("integers", "scale", "bias", "offset"):
            found, expected = (getattr(each, field) for each in (back.weights[name], weights))
            np.testing.assert_array_equal(found, expected, f"{field} of {name}")
    for target in ("int8_container", "packed_int4", "float_simulated"):
        assert back.to_tflite(target) == direct.to_tflite(target)


def test_it_computes_what_the_file_computes(quantized: tf_keras.Model, direct) -> None:
    """But for ties that integers and float break otherwise."""
    found = quantized.predict(IMAGES, verbose=0)
    expected = direct.simulated_model.predict(IMAGES, verbose=0)
    step = direct.plan.tensors["classes"].scale[0]
    assert np.mean(np.abs(found - expected) > 0.5 * step) < 0.02
    assert np.abs(found - network().predict(IMAGES, verbose=0)).max() > step


def test_the_layers_are_those_of_tfmot(quantized: tf_keras.Model, scheme) -> None:
    names = [layer.name for layer in quantized.layers]
    assert names[:4] == ["image", "quantize_layer", "quant_stem", "quant_stem_relu6"]
    assert not any("bn" in name for name in names)
    assert "dropout" in names  # so that it acts when the model is trained
    wrapper = quantized.get_layer("quant_stem")
    assert isinstance(wrapper, QAT.QuantizeWrapper)
    assert isinstance(wrapper.quantize_config, Ptq4Conv2DQuantizeConfig)
    assert scheme.quantized.plan.layer("stem").weight_bits[0] == 8
    assert not scheme.quantized.plan.in_float


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
@pytest.mark.parametrize("name", ["model.h5", "saved_model"])
def test_it_can_be_saved_and_loaded(
    name: str, quantized: tf_keras.Model, direct, tmp_path: Path
) -> None:
    path = tmp_path / name
    quantized.save(path, **({} if path.suffix else {"save_format": "tf"}))
    with QAT.quantize_scope(Ptq4QuantizeScheme.custom_objects()):
        loaded = tf_keras.models.load_model(path)
    np.testing.assert_array_equal(loaded(IMAGES), quantized(IMAGES))
    assert to_quantized_model(loaded).to_tflite() == direct.to_tflite()


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
def test_an_annotated_model_can_be_saved_and_loaded(
    model: tf_keras.Model, statistics, tmp_path: Path
) -> None:
    classes = Ptq4DenseQuantizeConfig(weight_bits=5)
    annotated = annotate(model, lambda x: classes if x.name == "classes" else True)
    annotated.save(tmp_path / "annotated.h5")
    with QAT.quantize_scope(Ptq4QuantizeScheme.custom_objects()):
        loaded = tf_keras.models.load_model(tmp_path / "annotated.h5")
    schemes = [Ptq4QuantizeScheme(statistics, W4A4) for _ in range(2)]
    files = [
        to_quantized_model(applied(each, scheme)).to_tflite()
        for each, scheme in zip((annotated, loaded), schemes, strict=True)
    ]
    assert files[0] == files[1]
    assert set(schemes[1].quantized.plan.layer("classes").weight_bits) == {5}


def test_it_can_be_fine_tuned(model: tf_keras.Model, statistics) -> None:
    quantized = applied(QAT.quantize_annotate_model(model), Ptq4QuantizeScheme(statistics, W4A4))
    before = to_quantized_model(quantized)
    labels = model.predict(IMAGES, verbose=0)
    tf_keras.utils.set_random_seed(0)
    quantized.compile(tf_keras.optimizers.Adam(1e-3), "mse")
    losses = [quantized.evaluate(IMAGES, labels, verbose=0)]
    # On so few levels the loss rises at some steps.
    while losses[-1] > 0.9 * losses[0] and len(losses) <= 10:
        quantized.fit(IMAGES, labels, epochs=1, batch_size=24, shuffle=False, verbose=0)
        losses.append(quantized.evaluate(IMAGES, labels, verbose=0))
    assert losses[-1] <= 0.9 * losses[0]
    after = to_quantized_model(quantized)
    changed = {
        name
        for name, weights in after.weights.items()
        if (weights.integers != before.weights[name].integers).any()
    }
    assert {"stem", "classes"} <= changed
    for name, weights in after.weights.items():
        np.testing.assert_array_equal(weights.scale, before.weights[name].scale)
    found = after.simulated_model.predict(IMAGES, verbose=0)
    assert np.mean((found - labels) ** 2) < losses[0]
    assert after.to_tflite() != before.to_tflite()


def test_a_gradient_passes_inside_the_clip_only(quantized: tf_keras.Model) -> None:
    quantizer = quantized.get_layer("quantize_layer").quantizer
    plan = quantizer.plan
    values = tf.constant([2 * plan.low[0], 0.3 * plan.high[0], 2 * plan.high[0]], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(values)
        rounded = quantizer(values, True, {})
    np.testing.assert_array_equal(tape.gradient(rounded, values), [0.0, 1.0, 0.0])
    np.testing.assert_allclose(rounded[::2], [plan.low[0], plan.high[0]], rtol=1e-6)


def test_layers_that_are_not_annotated_stay_in_float(model: tf_keras.Model, statistics) -> None:
    annotated = annotate(model, lambda x: True if isinstance(x, layers.Dense) else None)
    scheme = Ptq4QuantizeScheme(statistics, W8A8)
    quantized = applied(annotated, scheme)
    names = [layer.name for layer in quantized.layers]
    assert {"stem", "stem_bn", "stem_relu", "quant_hidden", "quant_classes"} <= set(names)
    assert {layer.name for layer in scheme.quantized.plan.layers if layer.quantized} == {
        "hidden/linear",
        "hidden",
        "classes",
    }
    rules = scheme.quantized.plan.config.rules
    same = quantize_model(model, statistics, W8A8.replace(rules=rules))
    assert to_quantized_model(quantized).to_tflite() == same.to_tflite()
    expected = same.simulated_model.predict(IMAGES, verbose=0)
    step = same.plan.tensors["classes"].scale[0]
    np.testing.assert_allclose(quantized.predict(IMAGES, verbose=0), expected, atol=2 * step)


def test_what_is_several_operators_stays_in_float() -> None:
    image = tf_keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="selu", name="bent")(image)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Average(name="halves")([x, layers.Conv2D(4, 1, name="other")(x)])
    x = layers.Activation("selu", name="bent_alone")(layers.Conv2D(4, 3, name="second")(x))
    small = tf_keras.Model(image, layers.Dense(2, name="classes")(layers.Flatten(name="flat")(x)))
    images = two_kerases.images_of(small, 8)
    scheme = Ptq4QuantizeScheme(calibrate(small, images), W8A8)
    quantized = applied(QAT.quantize_annotate_model(small), scheme)
    found, expected = (each.predict(images, verbose=0) for each in (quantized, small))
    assert sqnr_db(expected, found) > 25.0
    plan = to_quantized_model(quantized).plan
    assert {layer.name for layer in plan.layers if layer.quantized} == {
        *("bent/linear", "other", "second", "flat", "classes")
    }


def test_extrema_of_two_and_of_three_are_on_the_scale_of_the_result() -> None:
    image = tf_keras.Input((8, 8, 3), name="image")
    convs = [layers.Conv2D(4, 3, name=f"conv{place}")(image) for place in range(4)]
    x = layers.Minimum(name="least")(convs[:3])
    x = layers.Maximum(name="largest")([x, convs[3]])
    small = tf_keras.Model(image, layers.Dense(2, name="classes")(layers.Flatten(name="flat")(x)))
    images = two_kerases.images_of(small, 8)
    statistics = calibrate(small, images)
    quantized = applied(QAT.quantize_annotate_model(small), Ptq4QuantizeScheme(statistics, W8A8))
    same = quantize_model(small, statistics, W8A8)
    assert to_quantized_model(quantized).plan.tensors.keys() == same.plan.tensors.keys()
    expected = same.simulated_model.predict(images, verbose=0)
    step = same.plan.tensors["classes"].scale[0]
    np.testing.assert_allclose(quantized.predict(images, verbose=0), expected, atol=2 * step)


def test_layers_can_have_other_bits(model: tf_keras.Model, statistics) -> None:
    configs = {
        "pointwise": Ptq4Conv2DQuantizeConfig(weight_bits=3),
        "hidden": Ptq4DenseQuantizeConfig(weight_bits=6, activation_bits=7),
        "sum": Ptq4OutputQuantizeConfig(activation_bits=5),
    }
    scheme = Ptq4QuantizeScheme(statistics, W4A4)
    quantized = applied(annotate(model, lambda x: configs.get(x.name, True)), scheme)
    plan = to_quantized_model(quantized).plan
    assert set(plan.layer("pointwise/linear").weight_bits) == {3}
    assert set(plan.layer("hidden/linear").weight_bits) == {6}
    assert plan.tensors["hidden/linear"].bits[0] == 7
    assert plan.tensors["sum"].bits[0] == 5


class Twice(layers.Layer):
    """A layer of the user's own."""

    def call(self, x):
        return 2.0 * x


class Plain(layers.Dense):
    """A Dense under another name, as in TFMOT's guide."""


class KernelOnly(QAT.QuantizeConfig):
    """A config as TFMOT's guide has users write them."""

    def get_weights_and_quantizers(self, layer):
        quantizer = QAT.quantizers.LastValueQuantizer(
            num_bits=4, symmetric=True, narrow_range=True, per_axis=False
        )
        return [(layer.kernel, quantizer)]

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        (layer.kernel,) = quantize_weights

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


def with_layers_of_its_own() -> tf_keras.Model:
    image = tf_keras.Input((4, 4, 3), name="image")
    x = layers.Flatten(name="flat")(layers.Conv2D(4, 3, name="conv")(image))
    x = Twice(name="twice")(Plain(6, name="plain")(x))
    model = tf_keras.Model(image, layers.Dense(3, name="dense")(x))
    return two_kerases.with_weights(model, 0)


def own_scheme(model: tf_keras.Model) -> Ptq4QuantizeScheme:
    return Ptq4QuantizeScheme(calibrate(model, two_kerases.images_of(model)), W4A4)


CUSTOM = {"Twice": Twice, "Plain": Plain, "KernelOnly": KernelOnly}


def test_a_layer_of_ones_own_without_a_config_is_refused_as_tfmot_does() -> None:
    model = with_layers_of_its_own()
    with QAT.quantize_scope(CUSTOM):
        annotated = QAT.quantize_annotate_model(model)
    with pytest.raises(RuntimeError, match=r"Layer twice:.* is not supported"):
        applied(annotated, own_scheme(model), **CUSTOM)


def test_layers_of_ones_own_stay_as_they_are() -> None:
    model = with_layers_of_its_own()
    with QAT.quantize_scope(CUSTOM):
        annotated = annotate(model, lambda x: None if isinstance(x, Twice) else True)
    scheme = own_scheme(model)
    quantized = applied(annotated, scheme, **CUSTOM)
    assert isinstance(quantized.get_layer("twice"), Twice)
    assert scheme.quantized.plan.layer("plain").quantized
    assert to_quantized_model(quantized).to_tflite()


def test_a_config_of_another_scheme_is_honoured_but_not_exported() -> None:
    model = with_layers_of_its_own()
    with QAT.quantize_scope(CUSTOM):
        annotated = annotate(
            model,
            lambda x: KernelOnly() if x.name == "plain" else None if x.name == "twice" else True,
        )
    quantized = applied(annotated, own_scheme(model), **CUSTOM)
    assert isinstance(quantized.get_layer("quant_plain").quantize_config, KernelOnly)
    assert quantized.predict(two_kerases.images_of(model), verbose=0).shape == (12, 3)
    with pytest.raises(ModelError, match="'quant_plain' with a KernelOnly"):
        to_quantized_model(quantized)


def test_a_sequential_model_with_inputs_of_any_name(rng: np.random.Generator) -> None:
    model = tf_keras.Sequential(
        [layers.Conv2D(4, 3, input_shape=(6, 6, 2)), layers.Flatten(), layers.Dense(3)]
    )
    images = rng.normal(size=(8, 6, 6, 2)).astype(np.float32)
    statistics = calibrate(model, images)
    quantized = applied(
        QAT.quantize_annotate_model(model), Ptq4QuantizeScheme(statistics, W4A4, images)
    )
    direct = quantize_model(model, statistics, W4A4, images)
    assert to_quantized_model(quantized).to_tflite() == direct.to_tflite()


def test_functions_of_tensorflow_are_quantized(rng: np.random.Generator) -> None:
    inputs = tf_keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.Conv2D(4, 1, name="last")(tf.nn.relu6(x + 3.0) * (1.0 / 6.0))
    model = tf_keras.Model(inputs, x)
    images = rng.normal(size=(8, 6, 6, 2)).astype(np.float32)
    statistics = calibrate(model, images)
    annotated = annotate(model, lambda x: True if isinstance(x, layers.Conv2D) else None)
    scheme = Ptq4QuantizeScheme(statistics, W4A4)
    quantized = applied(annotated, scheme)
    same = quantize_model(model, statistics, scheme.quantized.plan.config)
    assert to_quantized_model(quantized).to_tflite() == same.to_tflite()


@pytest.mark.parametrize(
    ("config", "layer", "message"),
    [
        (Ptq4Conv2DQuantizeConfig(), "classes", r"must be on a Conv2D\. Received: .*a Dense"),
        (Ptq4OutputQuantizeConfig(weight_bits=4), "sum", "must not set `weight_bits`"),
    ],
)
def test_a_config_on_a_layer_of_another_kind_is_refused(
    config: object, layer: str, message: str, model: tf_keras.Model, statistics
) -> None:
    annotated = annotate(model, lambda x: config if x.name == layer else True)
    with pytest.raises(ConfigError, match=message):
        applied(annotated, Ptq4QuantizeScheme(statistics, W4A4))


def test_the_name_of_a_preset_and_no_statistics_are_refused(statistics) -> None:
    with pytest.raises(ConfigError, match=r"QuantizationConfig\.preset"):
        Ptq4QuantizeScheme(statistics, "w4a4")
    with pytest.raises(StatisticsError, match="Received: a NoneType"):
        Ptq4QuantizeScheme(None, QuantizationConfig.preset("w4a4"))


def test_what_tfmot_cannot_express_is_refused(statistics) -> None:
    with pytest.raises(ConfigError, match=r"one scale for each activation.*activation_bit_a"):
        Ptq4QuantizeScheme(statistics, QuantizationConfig.preset("paper_w4a4"))
    with pytest.raises(ConfigError, match="weight_bits"):
        Ptq4Conv2DQuantizeConfig(weight_bits=9)


def test_our_configs_want_our_scheme(statistics) -> None:
    dense = Ptq4DenseQuantizeConfig()
    model = tf_keras.Sequential([layers.Dense(3, input_shape=(4,))])
    annotated = annotate(model, lambda x: dense if isinstance(x, layers.Dense) else None)
    with (
        QAT.quantize_scope(Ptq4QuantizeScheme.custom_objects()),
        pytest.raises(ConfigError, match="must be applied by its own scheme"),
    ):
        QAT.quantize_apply(annotated)
    with pytest.raises(ConfigError, match="must be applied first"):
        Ptq4QuantizeScheme(statistics, W4A4).quantized  # noqa: B018


def test_statistics_of_other_weights_are_refused(statistics) -> None:
    other = network()
    other.get_layer("classes").set_weights([np.zeros((8, 5)), np.zeros(5)])
    with pytest.raises(StatisticsError, match="must come from this model"):
        applied(QAT.quantize_annotate_model(other), Ptq4QuantizeScheme(statistics, W4A4))


def test_a_model_that_is_not_quantized_by_us_has_no_file(model: tf_keras.Model) -> None:
    with pytest.raises(ModelError, match="no layer with weights is quantized by it"):
        to_quantized_model(model)


def test_the_example_of_the_readme_runs(
    model: tf_keras.Model, statistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = readme.partition("### TensorFlow Model Optimization")[2].split("```")[1]
    monkeypatch.chdir(tmp_path)
    given = {"model": model, "statistics": statistics, "config": W4A4, "images": IMAGES}
    exec(
        compile(example.removeprefix("python"), "README.md", "exec"),
        {**given, "labels": model.predict(IMAGES, verbose=0)},
    )
    assert (tmp_path / "model.tflite").stat().st_size > 5_000


def test_a_model_that_was_annotated_while_it_was_built(rng: np.random.Generator) -> None:
    """As in TFMOT's guide; the annotated model itself is calibrated."""
    annotated = tf_keras.Sequential(
        [
            QAT.quantize_annotate_layer(layers.Dense(20, activation="relu", input_shape=(20,))),
            layers.Flatten(),
            QAT.quantize_annotate_layer(layers.Dense(4), Ptq4DenseQuantizeConfig(weight_bits=4)),
        ]
    )
    images = rng.normal(size=(16, 20)).astype(np.float32)
    scheme = Ptq4QuantizeScheme(calibrate(annotated, images), W4A4, images)
    quantized = applied(annotated, scheme)
    last = scheme.quantized.plan.layers[-1]
    assert set(last.weight_bits) == {4}
    step = scheme.quantized.plan.tensors[last.output].scale[0]
    found, expected = (m.predict(images, verbose=0) for m in (quantized, annotated))
    assert np.abs(found - expected).mean() < 4 * step
    assert to_quantized_model(quantized).to_tflite()
