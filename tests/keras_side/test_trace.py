"""Keras models as a flat list of calls, and the copies that keep the user's model as it is."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from keras import layers

from tflite_ptq4.errors import ModelError
from tflite_ptq4.keras_side.cloning import clone_operation
from tflite_ptq4.keras_side.trace import is_functional, trace


def block(name: str, *, first: str = "conv") -> keras.Model:
    inputs = keras.Input((6, 6, 2), name=f"{name}_image")
    x = layers.Conv2D(2, 3, padding="same", name=first)(inputs)
    return keras.Model(inputs, layers.ReLU(name="relu")(x), name=name)


def calls_of(model: keras.Model) -> list[str]:
    return [call.name for call in trace(model).calls]


def run_calls(model: keras.Model, images: list[np.ndarray]) -> object:
    """The model's outputs, by its calls one after the other."""
    traced = trace(model)
    values = dict(zip(traced.inputs, images, strict=True))
    for call in traced.calls:
        results = call.run([values[name] for name in call.inputs])
        values.update(zip(call.outputs, results, strict=True))
    return traced.pack([values[name] for name in traced.outputs])


def _flat() -> keras.Model:
    return block("flat")


def _functional_in_functional() -> keras.Model:
    image = keras.Input((6, 6, 2), name="image")
    x = block("stage", first="conv")(image)
    return keras.Model(image, layers.Conv2D(3, 1, name="conv")(block("other")(x)))


def _sequential_in_functional() -> keras.Model:
    image = keras.Input((6, 6, 2), name="image")
    inner = keras.Sequential([layers.Conv2D(2, 3, name="conv"), layers.ReLU(name="relu")], name="s")
    return keras.Model(image, layers.Flatten(name="flat")(inner(image)))


def _functional_in_sequential() -> keras.Model:
    return keras.Sequential([keras.Input((6, 6, 2)), block("b"), layers.Flatten(name="flat")])


def _three_deep() -> keras.Model:
    image = keras.Input((6, 6, 2), name="image")
    inner_image = keras.Input((6, 6, 2), name="inner")
    inner = keras.Model(inner_image, block("deep")(inner_image), name="middle")
    return keras.Model(image, inner(image))


def _model_twice() -> keras.Model:
    image = keras.Input((6, 6, 2), name="image")
    shared = block("shared")
    return keras.Model(image, shared(shared(image)))


def _layer_twice() -> keras.Model:
    image = keras.Input((6, 6, 2), name="image")
    shared = layers.Conv2D(2, 3, padding="same", name="conv")
    return keras.Model(image, layers.Add(name="sum")([shared(shared(image)), shared(image)]))


def _slash_meets_path() -> keras.Model:
    """A layer whose own name is the path of another."""
    image = keras.Input((6, 6, 2), name="image")
    x = layers.Activation("relu", name="image_too")(block("b")(image))
    return keras.Model(image, layers.Conv2D(2, 1, name="relu")(x))


def _inner_of_several() -> keras.Model:
    left, right = keras.Input((6, 6, 2), name="l"), keras.Input((6, 6, 2), name="r")
    inner = keras.Model(
        [left, right],
        [layers.Subtract(name="minus")([left, right]), layers.ReLU(name="relu")(left)],
        name="two",
    )
    image, other = keras.Input((6, 6, 2), name="image"), keras.Input((6, 6, 2), name="other")
    difference, rectified = inner([other, image])
    return keras.Model([image, other], layers.Concatenate(name="cat")([difference, rectified]))


def _input_returned() -> keras.Model:
    image = keras.Input((6, 6, 2), name="image")
    return keras.Model(image, {"same": image, "conv": layers.Conv2D(1, 1, name="conv")(image)})


def _unused_branch() -> keras.Model:
    image = keras.Input((6, 6, 2), name="image")
    used = layers.Conv2D(1, 1, name="used")(image)
    layers.Conv2D(1, 1, name="unused")(used)
    return keras.Model(image, used)


MODELS = {
    _flat: ["conv", "relu"],
    _functional_in_functional: ["stage/conv", "stage/relu", "other/conv", "other/relu", "conv"],
    _sequential_in_functional: ["s/conv", "s/relu", "flat"],
    _functional_in_sequential: ["b/conv", "b/relu", "flat"],
    _three_deep: ["middle/deep/conv", "middle/deep/relu"],
    _model_twice: ["shared/conv", "shared/relu", "shared/conv_call2", "shared/relu_call2"],
    _layer_twice: ["conv", "conv_call2", "conv_call3", "sum"],
    _slash_meets_path: ["b/conv", "b/relu", "image_too", "relu"],
    _inner_of_several: ["two/minus", "two/relu", "cat"],
    _input_returned: ["conv"],
    _unused_branch: ["used"],
}


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__[1:])
def test_the_calls_repeat_the_model(build, rng: np.random.Generator) -> None:
    model = build()
    assert calls_of(model) == MODELS[build]
    images = [rng.normal(size=(2, 6, 6, 2)).astype(np.float32) for _ in model.inputs]
    expected = model(images if len(images) > 1 else images[0])
    found = run_calls(model, images)
    keras.tree.assert_same_structure(found, expected)
    for got, want in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_tensor_is_written_before_it_is_read_and_once() -> None:
    for build in MODELS:
        traced = trace(build())
        known = list(traced.inputs)
        for call in traced.calls:
            assert set(call.inputs) <= set(known)
            known.extend(call.outputs)
        assert len(set(known)) == len(known)


def test_tracing_records_nothing_in_the_users_layers() -> None:
    model = _functional_in_functional()
    before = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    for call in trace(model).calls:
        call.run([np.zeros((1, 6, 6, 2), np.float32)] * len(call.inputs))
        call.run_on_clone("copy")([keras.Input((6, 6, 2))] * len(call.inputs))
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == before


class OwnCall(keras.Model):
    """A functional model whose `call` does more than its graph says."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def _with_own_call() -> keras.Model:
    image = keras.Input((6, 6, 2))
    return OwnCall(image, layers.Conv2D(2, 1)(image), name="own")


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.dense = layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)


def _subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 2), np.float32))
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: keras.Sequential([layers.Conv2D(2, 3)], name="open"), "'open'.*is not built"),
        (Subclassed, "'subclassed'.*is not built"),
        (_subclassed, "'subclassed'.*its own `call`"),
        (_with_own_call, "'own'.*its own `call`"),
        (lambda: layers.Dense(2), r"must be a keras.Model.*Dense"),
        (lambda: None, r"Received: builtins\.NoneType"),
    ],
    ids=["open", "unbuilt", "subclassed", "own call", "layer", "None"],
)
def test_what_has_no_graph_to_read_is_refused(build, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(build())


def test_of_a_nested_model_with_its_own_call_that_is_read() -> None:
    image = keras.Input((6, 6, 2))
    model = keras.Model(image, _with_own_call()(image))
    assert calls_of(model) == ["own/convert_to_tensor", "own/conv2d", "own/multiply"]
    assert is_functional(model) and not is_functional(_with_own_call())


# Keras makes, saves and loads such layers, and cannot run them in `predict`.
@pytest.mark.parametrize("name", ["my conv", "a:b", "flöße", "conv*", "<img src=x>"])
def test_a_name_that_no_graph_takes_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"(?s)Received: {re.escape(repr(name))} .*Conv2D"):
        trace(block("b", first=name))


@pytest.mark.parametrize("name", ["-x", ".hidden", "conv_1>relu"])
def test_an_odd_name_that_a_graph_takes_is_kept(name: str) -> None:
    assert calls_of(block("b", first=name)) == [name, "relu"]


# --- copies of layers ---


class Scaled(layers.Layer):
    def __init__(self, factor: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape) -> None:
        self.offset = self.add_weight(shape=shape[-1:], initializer="random_normal")

    def call(self, inputs):
        return inputs * self.factor + self.offset

    def get_config(self) -> dict:
        return {**super().get_config(), "factor": self.factor}


class WithoutConfig(Scaled):
    def get_config(self) -> dict:
        return layers.Layer.get_config(self)


@pytest.mark.parametrize(
    "layer",
    [Scaled(3.0), layers.LayerNormalization(), layers.Lambda(lambda x: x + 1), layers.Dense(3)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_copy_computes_the_same_on_weights_of_its_own(
    layer: layers.Layer, rng: np.random.Generator
) -> None:
    values = rng.normal(size=(4, 2)).astype(np.float32)
    layer(values)
    copy = clone_operation(layer, "copy")
    assert (copy.name, type(copy)) == ("copy", type(layer))
    expected = np.asarray(layer(values))
    np.testing.assert_array_equal(copy(values), expected)
    for weight in layer.weights:
        weight.assign(weight + 1)
    np.testing.assert_array_equal(copy(values), expected)


def test_calls_of_a_copied_operation_are_not_recorded_in_the_users() -> None:
    image = keras.Input((2,))
    operation = keras.ops.sin(image)._keras_history.operation
    copy = clone_operation(operation, "copy")
    assert (copy.name, type(copy)) == ("copy", type(operation))
    copy(image)
    assert (len(operation._inbound_nodes), len(copy._inbound_nodes)) == (1, 1)


def test_a_layer_that_its_config_cannot_make_is_named() -> None:
    layer = WithoutConfig(2.0, name="scaling")
    layer(np.ones((1, 2), np.float32))
    with pytest.raises(ModelError, match=r"(?s)'scaling' \(WithoutConfig\).*`get_config`"):
        clone_operation(layer, "copy")
