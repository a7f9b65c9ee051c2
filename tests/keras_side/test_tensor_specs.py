from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from keras import layers

from tflite_ptq4.errors import ModelError
from tflite_ptq4.keras_side.lowering import lower
from tflite_ptq4.keras_side.tensor_specs import at_sizes, tensor_specs


def network(height: int | None, width: int | None) -> keras.Model:
    keras.utils.clear_session()
    inputs = keras.Input((height, width, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="half")(inputs)
    x = layers.UpSampling2D(3, name="triple")(layers.Conv2D(5, 2, name="minus1")(x))
    return keras.Model(inputs, layers.Flatten(name="flat")(x))


def test_every_tensor_has_shape_and_type_for_one_image() -> None:
    specs = tensor_specs(lower(network(None, None)), {"image": (8, 6, 3)})
    assert {name: tuple(spec.shape) for name, spec in specs.items()} == {
        "image": (1, 8, 6, 3),
        "half": (1, 4, 3, 4),
        "minus1": (1, 3, 2, 5),
        "triple": (1, 9, 6, 5),
        "flat": (1, 270),
    }
    assert {spec.dtype for spec in specs.values()} == {tf.float32}


def test_the_graph_at_a_size_says_the_shapes_there_and_the_model_stays_open() -> None:
    lowered = lower(network(None, 6))
    fixed = at_sizes(lowered, {"image": (8, 6, 3)})
    assert fixed.graph.shapes == lower(network(8, 6)).graph.shapes
    assert fixed.graph.fingerprint != lowered.graph.fingerprint
    assert fixed.trace.input_shapes == ((None, None, 6, 3),)
    assert lowered.graph.shapes["half"] == (None, None, 3, 4)


def test_a_model_of_one_size_is_returned_as_it_is() -> None:
    lowered = lower(network(8, 6))
    assert at_sizes(lowered, {"image": (8, 6, 3)}) is lowered


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((2, 2), r"at the sizes .* 'image' of 2 x 2 x 3; layer 'minus1': "),
        ((2, 5), r"'image' of 2 x 5 x 3; layer 'minus1': "),
    ],
)
def test_a_layer_that_cannot_compute_is_named(size: tuple[int, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tensor_specs(lower(network(None, None)), {"image": (*size, 3)})


def test_a_tensor_of_which_nothing_is_left_is_named() -> None:
    inputs = keras.Input((None, None, 3), name="image")
    cropped = keras.Model(inputs, layers.Conv2D(2, 1)(inputs)[:, 4:])
    with pytest.raises(ModelError, match=r"nothing is left of 'get_item[^']*', 0 x 8 x 2"):
        tensor_specs(lower(cropped), {"image": (4, 8, 3)})


def test_a_layer_may_leave_open_what_its_input_does_not() -> None:
    image = keras.Input((6, 6, 3), name="image")
    dense = layers.EinsumDense("bhwc,cd->bhwd", output_shape=(None, None, 4), name="dense")
    lowered = lower(keras.Model(image, layers.Conv2D(2, 3)(dense(image))))
    assert lowered.graph.shapes["dense"] == (None, None, None, 4)
    assert at_sizes(lowered, {"image": (6, 6, 3)}).graph.shapes["dense"] == (None, 6, 6, 4)
