"""Files whose batch is dynamic: n images at a time give what n runs of the plain file give."""

from __future__ import annotations

from functools import cache

import keras
import keras_networks
import numpy as np
import pytest
from exported_networks import CONFIGS, Exported, calibrate, export_model, exported
from keras import layers, ops
from runtimes import as_stored, interpreter, operators_outside_xnnpack, outputs

from tflite_ptq4.converters.readback import check_file
from tflite_ptq4.errors import TargetError
from tflite_ptq4.targets import TARGETS

RUNTIMES = ("litert", "tensorflow")


def stem(filters: int = 8) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    inputs = keras.Input((8, 8, 3), name="image")
    return inputs, layers.Conv2D(filters, 3, padding="same", activation="relu")(inputs)


def reshapes() -> keras.Model:
    """[n, 8, 8, 8] -> [n, 32, 16] -> rows of a Dense -> cropped, permuted, flat."""
    inputs, x = stem()
    x = layers.Dense(6, activation="relu")(layers.Reshape((32, 16))(x))
    x = layers.Cropping2D(((1, 0), (2, 1)))(layers.Reshape((8, 4, 6))(x))
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(layers.Permute((3, 1, 2))(x))))


def squeeze_and_excitation() -> keras.Model:
    inputs, x = stem()
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="relu")(gate))
    return keras.Model(inputs, layers.Conv2D(3, 3)(layers.Multiply()([x, gate])))


def broadcast_sums() -> keras.Model:
    """Additions whose second term the converter flattens: [1, 1, 1, 8] and [1, 4]."""
    inputs, x = stem()
    mean = layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(layers.Add()([x, mean])))
    terms = [layers.Dense(4)(x), layers.Dense(4, activation="relu")(x)]
    return keras.Model(inputs, layers.Dense(3)(layers.Average()([layers.Add()(terms), *terms])))


def depth_to_space() -> keras.Model:
    inputs, x = stem(12)
    return keras.Model(inputs, layers.Conv2D(2, 3)(ops.depth_to_space(x, 2)))


def one_dimensional() -> keras.Model:
    inputs = keras.Input((24, 4), name="sound")
    x = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu")(inputs)
    x = layers.MaxPooling1D(2)(layers.DepthwiseConv1D(3, padding="same")(x))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def transposed() -> keras.Model:
    inputs, x = stem()
    up = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up")(x)
    return keras.Model(inputs, layers.Conv2D(2, 3)(up))


LOCAL = {
    build.__name__: build
    for build in (
        *(reshapes, squeeze_and_excitation, broadcast_sums, depth_to_space),
        *(one_dimensional, transposed),
    )
}
NETWORKS = (
    *("reshapes", "squeeze_and_excitation", "broadcast_sums", "depth_to_space"),
    *("one_dimensional",),
    *("dense_after_flatten", "dense_on_images", "concatenate_flat", "concatenate_requantized"),
    *("several_inputs", "several_outputs", "pools", "zero_padding", "softmax_classifier"),
    *("float_branch", "lambda_in_the_middle"),
)


@cache
def made(network: str) -> Exported:
    if network not in LOCAL:
        return exported(network, "w4a8")
    keras.utils.set_random_seed(0)
    model = LOCAL[network]()
    images = keras_networks.images_for(model)
    return export_model(model, images, calibrate(model, images), CONFIGS["w4a8"])


@cache
def opened(network: str, target: str, io: str = "float32") -> bytes:
    return made(network).quantized.to_tflite(target, io=io, dynamic_batch=True)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_n_images_at_a_time_give_what_n_runs_give(network: str, target: str, runtime: str) -> None:
    images = made(network).images
    expected = outputs(made(network).quantized.to_tflite(target), images, runtime)
    ready = interpreter(opened(network, target), runtime)
    for count in (5, 1, 12):
        for detail, values in zip(ready.get_input_details(), images, strict=True):
            ready.resize_tensor_input(detail["index"], (count, *values.shape[1:]), strict=True)
        ready.allocate_tensors()
        for detail, values in zip(ready.get_input_details(), images, strict=True):
            ready.set_tensor(detail["index"], values[:count])
        ready.invoke()
        for detail, values in zip(ready.get_output_details(), expected, strict=True):
            np.testing.assert_array_equal(ready.get_tensor(detail["index"]), values[:count])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_one_image_at_a_time_needs_no_resizing(network: str, target: str) -> None:
    images = made(network).images
    plain = made(network).quantized.to_tflite(target)
    for ours, theirs in zip(
        outputs(opened(network, target), images), outputs(plain, images), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for details in ("get_input_details", "get_output_details"):
        for detail in getattr(interpreter(opened(network, target)), details)():
            assert (detail["shape"][0], detail["shape_signature"][0]) == (1, -1)
            assert detail["shape"][1:].tolist() == detail["shape_signature"][1:].tolist()


@pytest.mark.parametrize("network", NETWORKS)
def test_xnnpack_takes_as_much_as_of_the_plain_file(network: str) -> None:
    plain = made(network).quantized.to_tflite("int8_container")
    assert operators_outside_xnnpack(opened(network, "int8_container")) == (
        operators_outside_xnnpack(plain)
    )


def test_integer_ends_and_the_signature_take_a_batch() -> None:
    network = made("several_inputs")
    plain = network.quantized.to_tflite("int8_container", io="int8")
    ready = interpreter(opened("several_inputs", "int8_container", "int8"))
    coded = [
        as_stored(values, detail)
        for values, detail in zip(network.images, ready.get_input_details(), strict=True)
    ]
    left, right = coded
    (result,) = ready.get_signature_runner()(left=left, right=right).values()
    np.testing.assert_array_equal(result, *outputs(plain, coded))


@pytest.mark.parametrize("target", TARGETS)
def test_the_read_back_check_takes_an_opened_file(target: str) -> None:
    check_file(opened("reshapes", target), made("reshapes").source(), target=target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_transposed_convolution_is_refused_by_name(target: str) -> None:
    message = r"Layer 'up' \(Conv2DTranspose\) .* TRANSPOSE_CONV, whose output shape is a constant"
    with pytest.raises(TargetError, match=message):
        opened("transposed", target)
    assert made("transposed").quantized.to_tflite(target)
