"""Layers of `tf_keras` (Keras 2) as layers of Keras 3: what is the same, and what is translated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tflite_ptq4.errors import ModelError
from tflite_ptq4.keras_side.primitives.moving import AUGMENTING_LAYERS
from tflite_ptq4.keras_side.primitives.primitive import operation_types

if TYPE_CHECKING:
    import tf_keras

# Layers that compute the same in both, from the same config but for what `_config` translates.
_CARRIED_LAYERS = """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D
    BatchNormalization Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Cropping1D
    Cropping2D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU Flatten GaussianDropout
    GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D
    GlobalMaxPooling2D GroupNormalization Identity LayerNormalization LeakyReLU MaxPooling1D
    MaxPooling2D Maximum Minimum Multiply Normalization PReLU Permute ReLU RepeatVector Rescaling
    Reshape Resizing SeparableConv1D SeparableConv2D Softmax SpatialDropout1D SpatialDropout2D
    Subtract UnitNormalization UpSampling1D UpSampling2D ZeroPadding1D ZeroPadding2D
"""
CARRIED_LAYERS = frozenset(_CARRIED_LAYERS.split())

# Operators and functions that TensorFlow's own names record as layers: `x + y`, `tf.nn.relu(x)`.
CARRIED_FUNCTIONS = {
    symbol: operation
    for symbol, name in (
        ("__operators__.add", "Add"),
        ("math.add", "Add"),
        ("math.subtract", "Subtract"),
        ("math.multiply", "Multiply"),
        ("nn.relu", "Relu"),
        ("nn.relu6", "Relu6"),
        ("math.sigmoid", "Sigmoid"),
        ("math.tanh", "Tanh"),
    )
    for operation in operation_types(name)
}

# Functions of `tf.nn` that are a Keras activation of the same name.
_ACTIVATIONS_OF_TENSORFLOW = ("relu", "relu6", "elu", "gelu", "sigmoid", "softmax", "tanh", "silu")

# Layers that do nothing at inference, two of which Keras 3 no longer has.
_AUGMENTING = {found.__name__ for found in AUGMENTING_LAYERS} | {"RandomHeight", "RandomWidth"}

# What only training reads, and arguments whose layer Keras 3 has without them.
_FOR_TRAINING = ("_initializer", "_regularizer", "_constraint")
_WITHOUT_EFFECT = (
    "trainable",
    "batch_input_shape",
    "renorm",
    "renorm_clipping",
    "renorm_momentum",
    "virtual_batch_size",
)
_WHERE_TAKEN = ("groups", "noise_shape")


@keras.saving.register_keras_serializable("tflite_ptq4")
def keras_2_hard_sigmoid(x):
    """clip(0.2 x + 0.5, 0, 1), where Keras 3 computes relu6(x + 3) / 6."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def carried_kind(layer: tf_keras.layers.Layer) -> str | None:
    """The class in `CARRIED_LAYERS` that says what a layer computes, None where none does.

    A subclass computes what its parent does where it defines nothing but how it is made.
    """
    import tf_keras

    for found in type(layer).__mro__:
        if found.__name__ in CARRIED_LAYERS and found is getattr(tf_keras.layers, found.__name__):
            return found.__name__
        own = {name for name in vars(found) if not name.startswith("__") or name == "__call__"}
        if own - {"get_config", "from_config"}:
            return None
    return None


def only_augments(layer: tf_keras.layers.Layer) -> bool:
    """Whether a layer does nothing at inference."""
    import tf_keras

    kind = type(layer).__name__
    return kind in _AUGMENTING and type(layer) is getattr(tf_keras.layers, kind, None)


def carried_layer(
    layer: tf_keras.layers.Layer, kind: str, of_layer: Callable[[tf_keras.layers.Layer], Callable]
) -> keras.layers.Layer:
    """The Keras 3 layer that computes the same, without the weights.

    Args:
        layer: of tf_keras.
        kind: its `carried_kind`.
        of_layer: from a layer of tf_keras, as an activation may be, to its Keras 3 form.

    Raises:
        ModelError: Keras 3 refuses its arguments.
    """
    try:
        carried = getattr(keras.layers, kind)(**_config(layer, kind, of_layer))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"A layer of tf_keras must have a Keras 3 form. Received: {layer.name!r} ({kind}), "
            f"which Keras 3 refuses: {error}. Replace it, or make it a layer of your own class."
        ) from error
    carried.trainable = layer.trainable
    return carried


def _config(layer: tf_keras.layers.Layer, kind: str, of_layer: Callable) -> dict[str, Any]:
    """The arguments of the Keras 3 layer of that class."""
    import tf_keras

    taken = inspect.signature(getattr(keras.layers, kind)).parameters
    config = {
        key: _shortest(value)
        for key, value in getattr(tf_keras.layers, kind).get_config(layer).items()
        if not key.endswith(_FOR_TRAINING)
        and key not in _WITHOUT_EFFECT
        and (key in taken or key not in _WHERE_TAKEN)
    }
    config.update(name=keras_name(layer), dtype="float32")
    if "activation" in config:
        config["activation"] = _activation(layer.activation, of_layer)
    if kind == "LeakyReLU":
        config["negative_slope"] = config.pop("alpha")
    if kind == "BatchNormalization":
        config["axis"] = layer.axis[0] if len(layer.axis) == 1 else tuple(layer.axis)
    return config


def _activation(function: Callable, of_layer: Callable) -> Callable:
    import tf_keras

    if isinstance(function, tf_keras.layers.Layer):
        return of_layer(function)
    name = getattr(function, "__name__", "")
    if function is tf_keras.activations.hard_sigmoid:
        return keras_2_hard_sigmoid
    if function is getattr(tf_keras.activations, name, None) or (
        name in _ACTIVATIONS_OF_TENSORFLOW and function is getattr(tf.nn, name)
    ):
        return keras.activations.get(name)
    return function


class _AsItIs(keras.Operation):
    """A layer of tf_keras inside a Keras 3 model, with its own weights."""

    def __init__(self, layer: tf_keras.layers.Layer, name: str) -> None:
        super().__init__(name=name)
        self._layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Keras 3 takes the product of a tensor and a number for a sparse one.
        args, kwargs = keras.tree.map_structure(_dense, (args, kwargs))
        return super().compute_output_spec(*args, **kwargs)


def _dense(value: Any) -> Any:
    if isinstance(value, keras.KerasTensor):
        return keras.KerasTensor(value.shape, value.dtype)
    return value


def as_it_is(layer: tf_keras.layers.Layer) -> keras.Operation:
    """A layer that Keras 3 lacks, called as it is."""
    # Reports and rules go by the name of a layer's class.
    kind = type(type(layer).__name__, (_AsItIs,), {})
    return kind(layer, keras_name(layer))


def keras_name(layer: tf_keras.layers.Layer) -> str:
    """The layer's name; Keras 3 allows no slash, and its own networks have an underscore there."""
    return layer.name.replace("/", "_")


def _shortest(value: Any) -> Any:
    """A number that went through float32, as it was written: 0.3 of 0.30000001192092896."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and value == np.float32(value):
        return float(str(np.float32(value)))
    return value
