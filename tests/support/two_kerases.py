"""The same small networks in Keras 3 and in tf_keras, from one description."""

from __future__ import annotations

from types import ModuleType

import keras
import numpy as np
import tf_keras

SIDE = 8


def classifier(library: ModuleType, *, seed: int = 0):
    """Convolutions of three kinds, a shared layer, a nested model, a sum, a softmax."""
    layers = library.layers
    image = library.Input((SIDE, SIDE, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    inside = library.Input((SIDE, SIDE, 6), name="inside")
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(inside)
    y = layers.SeparableConv2D(6, 3, padding="same", name="separable")(y)
    block = library.Model(inside, y, name="block")
    shared = layers.Conv2D(6, 1, activation="swish", name="shared")
    x = layers.Add(name="sum")([block(x), shared(x), shared(block(x))])
    x = layers.LeakyReLU(0.1, name="leaky")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Dense(5, activation="softmax", name="classes")(x)
    return with_weights(library.Model(image, x, name="classifier"), seed)


def sequential(library: ModuleType, *, seed: int = 0):
    """A Sequential model."""
    layers = library.layers
    model = library.Sequential(
        [
            library.Input((SIDE, SIDE, 3), name="image"),
            layers.Rescaling(1 / 2, name="scaled"),
            layers.Conv2D(4, 3, strides=2, activation="relu", name="conv"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="dense"),
        ],
        name="sequential",
    )
    return with_weights(model, seed)


def two_inputs(library: ModuleType, *, seed: int = 0):
    """Inputs in a dict, outputs in another."""
    layers = library.layers
    wide = library.Input((SIDE, SIDE, 3), name="wide")
    narrow = library.Input((SIDE, SIDE, 1), name="narrow")
    a = layers.Conv2D(4, 3, name="on_wide")(wide)
    b = layers.Conv2D(4, 3, name="on_narrow")(narrow)
    joined = layers.Concatenate(name="joined")([a, b])
    outputs = {
        "map": layers.Conv2D(2, 1, name="map")(joined),
        "score": layers.Dense(1, name="score")(layers.GlobalMaxPooling2D(name="max")(joined)),
    }
    model = library.Model({"wide": wide, "narrow": narrow}, outputs, name="two_inputs")
    return with_weights(model, seed)


def images_of(model, count: int = 12) -> np.ndarray | dict[str, np.ndarray]:
    """Random images: an array, of several inputs a dict of arrays by name."""
    rng = np.random.default_rng(2)
    images = {
        tensor.name: rng.normal(size=(count, *tensor.shape[1:])).astype(np.float32)
        for tensor in model.inputs
    }
    return images if len(images) > 1 else images["image"]


def with_weights(model, seed: int):
    """Give a model the same random weights in both; a BatchNormalization those of a trained one."""
    rng = np.random.default_rng(seed)
    for layer in sorted(_leaves(model), key=lambda layer: layer.name):
        if type(layer).__name__ == "BatchNormalization":
            shapes = [weight.shape for weight in layer.get_weights()]
            layer.set_weights([rng.uniform(0.5, 1.5, shape) for shape in shapes])
        else:
            layer.set_weights([rng.normal(0, 0.3, w.shape) for w in layer.get_weights()])
    return model


def _leaves(model) -> dict:
    found: dict = {}
    for layer in model.layers:
        nested = isinstance(layer, keras.Model | tf_keras.Model)
        found.update(_leaves(layer) if nested else {layer: None})
    return found


BOTH = (keras, tf_keras)
NETWORKS = (classifier, sequential, two_inputs)
