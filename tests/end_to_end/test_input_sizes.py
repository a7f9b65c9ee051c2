"""Models that take images of any size: calibrated, quantized and simulated, the size fixed last."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
from exported_networks import calibrate
from keras import layers
from runtimes import interpreter, outputs

from tflite_ptq4 import QuantizationConfig, QuantizedModel, quantize_model
from tflite_ptq4.errors import ConfigError, ModelError

SIDES = (12, 16)


def network(height: int | None = None, width: int | None = None) -> keras.Model:
    """Every kind of layer whose output, or arithmetic, depends on the size of the image."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((height, width, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(inputs)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    low = layers.MaxPooling2D()(x)
    high = [
        layers.Conv2DTranspose(4, 3, strides=2, padding="same")(low),
        layers.UpSampling2D()(low),
    ]
    x = layers.AveragePooling2D(3, 1, padding="same")(layers.Concatenate()([x, *high]))
    x = layers.DepthwiseConv2D(3, activation="relu")(layers.ZeroPadding2D(1)(x))
    logits = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, [logits, layers.Conv2D(2, 1)(x)])


def images(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(8, height, width, 3)).astype(np.float32)


@cache
def quantized(preset: str = "w4a8", sides: tuple = (), with_images: bool = True) -> QuantizedModel:
    """The network on inputs of these sides, any where none are given."""
    model, seen = network(*sides), images(*SIDES)
    config = QuantizationConfig.preset(preset)
    return quantize_model(
        model, calibrate(model, [seen]), config, images=seen if with_images else None
    )


@pytest.mark.parametrize("size", [SIDES, (20, 8), (8, 8)])
@pytest.mark.parametrize("preset", ["w8a8", "w4a8", "w4a4"])
def test_one_simulated_model_computes_what_the_files_of_all_sizes_do(
    preset: str, size: tuple[int, int]
) -> None:
    model, seen = quantized(preset), images(*size)
    data = model.to_tflite(input_shapes=(*size, 3))
    simulated = model.simulated_model.predict(seen, verbose=0)
    for ours, theirs in zip(outputs(data, [seen]), simulated, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("target", ["int8_container", "packed_int4", "float_simulated"])
def test_at_one_size_it_is_the_model_built_for_that_size(target: str) -> None:
    """The same bytes and the same report: its average counts elements."""
    of_any_size, of_one_size = quantized(), quantized(sides=SIDES)
    data = of_any_size.to_tflite(target, input_shapes={"image": (*SIDES, 3)})
    assert data == of_one_size.to_tflite(target)
    assert of_any_size.report == of_one_size.report


def test_without_images_only_the_scales_of_means_await_the_size() -> None:
    """How many numbers are averaged says at which scale their sums keep off ties."""
    of_any_size, of_one_size = (quantized(sides=s, with_images=False) for s in ((), SIDES))
    means = {node.output for node in of_any_size.lowered.graph.nodes if node.kind == "mean"}
    plans = of_any_size.plan.tensors, of_one_size.plan.tensors
    scales = {name: [float(plan[name].scale[0]) for plan in plans] for name in plans[0]}
    assert {name for name, (ours, theirs) in scales.items() if ours != theirs} <= means
    for ours, theirs in scales.values():
        assert ours == pytest.approx(theirs, rel=0.01)


def test_the_size_of_the_images_is_the_default() -> None:
    (source,) = interpreter(quantized().to_tflite()).get_input_details()
    assert source["shape"].tolist() == [1, *SIDES, 3]
    assert quantized().to_tflite() == quantized().to_tflite(input_shapes=(*SIDES, 3))


def test_size_and_batch_can_be_chosen_together() -> None:
    inputs = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    config = QuantizationConfig.preset("w8a8")
    made = quantize_model(model, calibrate(model, [images(*SIDES)]), config)
    data = made.to_tflite(input_shapes=(9, 7, 3), dynamic_batch=True)
    (source,) = interpreter(data).get_input_details()
    assert source["shape_signature"].tolist() == [-1, 9, 7, 3]


def test_save_takes_what_to_tflite_takes(tmp_path) -> None:
    quantized().save(tmp_path / "m.tflite", input_shapes=(8, 8, 3))
    assert (tmp_path / "m.tflite").read_bytes() == quantized().to_tflite(input_shapes=(8, 8, 3))


def test_several_inputs_are_named() -> None:
    left, right = keras.Input((None, None, 3), name="left"), keras.Input((4, 4, 3), name="right")
    pooled = [
        layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(tensor)) for tensor in (left, right)
    ]
    model = keras.Model([left, right], layers.Dense(3)(layers.Concatenate()(pooled)))
    seen = [images(6, 6), images(4, 4)]
    config = QuantizationConfig.preset("w8a8")
    made = quantize_model(model, calibrate(model, seen), config)
    with pytest.raises(ConfigError, match="input 'left' of any x any x 3, and no images"):
        made.to_tflite()
    with pytest.raises(ConfigError, match="a dict by name for a model of 2 inputs"):
        made.to_tflite(input_shapes=(6, 6, 3))
    details = interpreter(made.to_tflite(input_shapes={"left": (6, 5, 3)})).get_input_details()
    assert [detail["shape"].tolist() for detail in details] == [[1, 6, 5, 3], [1, 4, 4, 3]]


@pytest.mark.parametrize(
    ("model", "shape", "error", "message"),
    [
        (network, None, ConfigError, "input 'image' of any x any x 3, and no images"),
        (network, (8, 8, 4), ConfigError, "'image' is any x any x 3. Received: 8 x 8 x 4"),
        (
            lambda: network(*SIDES),
            (8, 8, 3),
            ConfigError,
            "'image' is 12 x 16 x 3. Received: 8 x 8 x 3. Leave the fixed sides as they are",
        ),
        # 10 -> 5 -> 2 -> 4: the branches no longer have one size.
        (network, (10, 12, 3), ModelError, "'image' of 10 x 12 x 3; layer 'concatenate': Dim"),
        (
            lambda: chain(layers.Conv2D(4, 3), layers.Reshape((140, 4))),
            (8, 8, 3),
            ModelError,
            "'image' of 8 x 8 x 3; layer 'reshape.*': The total size of the tensor",
        ),
        (lambda: chain(layers.Conv2D(4, 5)), (4, 9, 3), ModelError, "layer 'conv2d.*'"),
        (
            lambda: chain(layers.Conv2D(4, 3), layers.Cropping2D(4)),
            (9, 12, 3),
            ModelError,
            "cropping2d.*'",
        ),
    ],
)
def test_a_size_that_cannot_be_is_refused(
    model, shape: tuple | None, error: type[Exception], message: str
) -> None:
    built = model()
    config = QuantizationConfig.preset("w8a8")
    made = quantize_model(built, calibrate(built, [images(*SIDES)]), config)
    with pytest.raises(error, match=message):
        made.to_tflite(input_shapes=shape)


def chain(*body: layers.Layer) -> keras.Model:
    keras.utils.clear_session()
    inputs = outputs = keras.Input((None, None, 3), name="image")
    for layer in body:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)
