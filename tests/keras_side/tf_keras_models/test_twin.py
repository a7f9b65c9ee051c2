from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import two_kerases
from tf_keras import layers

from tflite_ptq4.errors import ModelError
from tflite_ptq4.keras_side.lowering import lower
from tflite_ptq4.keras_side.tf_keras_models.layers import CARRIED_LAYERS
from tflite_ptq4.keras_side.tf_keras_models.twin import Twin, is_tf_keras

ARGUMENTS = {
    "Activation": ("hard_sigmoid",),
    "AlphaDropout": (0.3,),
    "Conv1D": (2, 3),
    "Conv1DTranspose": (2, 3),
    "Conv2D": (2, 3),
    "Conv2DTranspose": (2, 3),
    "Dense": (3,),
    "DepthwiseConv1D": (3,),
    "DepthwiseConv2D": (3,),
    "Dot": (1,),
    "Dropout": (0.3,),
    "GaussianDropout": (0.3,),
    "GaussianNoise": (0.3,),
    "GroupNormalization": (2,),
    "Permute": ((2, 1, 3),),
    "RepeatVector": (3,),
    "Rescaling": (0.5, 0.1),
    "Reshape": ((-1, 2),),
    "Resizing": (3, 5),
    "SeparableConv1D": (2, 3),
    "SeparableConv2D": (2, 3),
    "SpatialDropout1D": (0.3,),
    "SpatialDropout2D": (0.3,),
}
ACTIVATIONS = ["elu", "gelu", "hard_sigmoid", "relu", "selu", "sigmoid", "softmax", "swish", "tanh"]
JOINING = ["Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract"]


def random_weights(model: tf_keras.Model, rng: np.random.Generator) -> tf_keras.Model:
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def assert_twin_computes_the_same(model: tf_keras.Model, rng: np.random.Generator) -> keras.Model:
    twin = Twin(model).model
    images = [rng.normal(size=(2, *x.shape[1:])).astype(np.float32) for x in model.inputs]
    given = images if len(images) > 1 else images[0]
    np.testing.assert_allclose(twin(given), model(given), rtol=1e-6, atol=1e-6)
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    return twin


@pytest.mark.parametrize("kind", sorted(CARRIED_LAYERS))
def test_each_carried_layer_computes_the_same(kind: str, rng: np.random.Generator) -> None:
    shape = (6, 4) if "1D" in kind else (4,) if kind in ("RepeatVector", "Dot") else (6, 6, 4)
    inputs = [tf_keras.Input(shape) for _ in range(2 if kind in JOINING else 1)]
    layer = getattr(layers, kind)(*ARGUMENTS.get(kind, ()))
    if kind == "Normalization":
        layer.adapt(rng.normal(3.0, 2.0, size=(9, *shape)))
    model = tf_keras.Model(inputs, layer(inputs if kind in JOINING else inputs[0]))
    twin = assert_twin_computes_the_same(random_weights(model, rng), rng)
    assert type(twin.layers[-1]) is getattr(keras.layers, kind)


def _name_of(activation: object) -> str:
    return getattr(activation, "__name__", None) or getattr(activation, "name", activation)


@pytest.mark.parametrize(
    "activation",
    [*ACTIVATIONS, tf.nn.relu6, tf.nn.leaky_relu, layers.ReLU(max_value=4.0), tf.square],
    ids=_name_of,
)
def test_each_activation_computes_the_same(activation: object, rng: np.random.Generator) -> None:
    inputs = tf_keras.Input((3, 3, 2))
    outputs = layers.Conv2D(4, 2, activation=activation, name="conv")(inputs)
    assert_twin_computes_the_same(random_weights(tf_keras.Model(inputs, outputs), rng), rng)


@pytest.mark.parametrize("network", two_kerases.NETWORKS)
def test_the_same_network_lowers_to_the_same_graph(network) -> None:
    graph, twin = (lower(network(library)).graph for library in two_kerases.BOTH)
    assert twin.fingerprint == graph.fingerprint
    assert [node.name for node in twin.nodes] == [node.name for node in graph.nodes]


class Scaled(layers.Layer):
    def build(self, shape) -> None:
        self.factor = self.add_weight(name="factor", shape=(shape[-1],), initializer="ones")

    def call(self, x, training=None):
        return x * self.factor


def with_layers_of_its_own() -> tf_keras.Model:
    inputs = tf_keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="block/conv")(inputs)
    x = tf.nn.relu6(x + 3.0) * (1 / 6)
    x = Scaled(name="scaled")(x)
    x = layers.Lambda(lambda t: t[:, ::2, 1:], name="cut")(x)
    return tf_keras.Model(inputs, layers.Dense(2, name="dense")(tf.reduce_mean(x, [1, 2])))


def test_what_keras_3_lacks_stays_in_float_under_its_own_name(rng: np.random.Generator) -> None:
    lowered = lower(random_weights(with_layers_of_its_own(), rng))
    assert [(node.kind, node.layer_type) for node in lowered.graph.nodes] == [
        ("conv2d", "Conv2D"),
        ("add", "Add"),
        ("multiply", "Multiply"),
        ("float", "Scaled"),
        ("float", "Lambda"),
        ("float", "TFOpLambda"),
        ("dense", "Dense"),
    ]
    assert lowered.graph.nodes[0].name == "block_conv"
    assert lowered.graph.nodes[1].activation == "relu6"


def test_what_keras_3_lacks_computes_the_same(rng: np.random.Generator) -> None:
    model = random_weights(with_layers_of_its_own(), rng)
    images = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(Twin(model).model(images), model(images), rtol=1e-6)


def test_augmenting_layers_do_nothing_as_in_keras_3() -> None:
    graphs = []
    for library in two_kerases.BOTH:
        inputs = library.Input((6, 6, 3), name="image")
        x = library.layers.RandomFlip(name="flip")(inputs)
        x = library.layers.RandomRotation(0.1, name="turn")(x)
        model = library.Model(inputs, library.layers.Conv2D(2, 3, name="conv")(x))
        graphs.append(lower(two_kerases.with_weights(model, 0)).graph)
    assert [node.name for node in graphs[1].nodes] == ["conv"]
    assert graphs[0].fingerprint == graphs[1].fingerprint


def test_the_twin_follows_the_weights() -> None:
    model = two_kerases.classifier(tf_keras)
    twin = Twin(model)
    before = lower(twin.model).graph.fingerprint
    model.get_layer("stem").set_weights([w + 1.0 for w in model.get_layer("stem").get_weights()])
    assert lower(twin.model).graph.fingerprint == before
    twin.copy_weights()
    assert lower(twin.model).graph.fingerprint == lower(model).graph.fingerprint != before


def test_under_a_mixed_precision_policy_the_twin_computes_in_float32() -> None:
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = two_kerases.classifier(tf_keras)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    expected = lower(two_kerases.classifier(keras)).graph.fingerprint
    assert lower(model).graph.fingerprint == expected


def test_a_model_without_a_graph_is_refused() -> None:
    class Subclassed(tf_keras.Model):
        def call(self, x):
            return x

    subclassed = Subclassed(name="mine")
    with pytest.raises(ModelError, match=r"'mine' \(Subclassed, of tf_keras\), which is not built"):
        Twin(subclassed)
    subclassed(tf.zeros((1, 2)))
    with pytest.raises(ModelError, match="computes by its own `call`"):
        Twin(subclassed)
    with pytest.raises(ModelError, match="is not built"):
        Twin(tf_keras.Sequential([layers.Dense(2)]))


def test_models_are_told_apart() -> None:
    assert is_tf_keras(two_kerases.sequential(tf_keras))
    assert not is_tf_keras(two_kerases.sequential(keras))
    assert not is_tf_keras("model.h5")
