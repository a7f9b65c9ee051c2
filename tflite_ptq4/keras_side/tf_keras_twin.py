"""A model of `tf_keras` (Keras 2) as the equal Keras 3 model, which everything else works on.

The twin has the same layers under the same names, called in the same way, and copies of the
weights; it computes in float32 whatever the policy of the original. What Keras 3 computes otherwise
under the same name is translated here. A layer that Keras 3 does not have, or that is the user's
own, is called as it is, and stays in float like a custom layer of Keras 3.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tflite_ptq4.errors import ModelError
from tflite_ptq4.keras_side.moving_primitives import AUGMENTING_LAYERS
from tflite_ptq4.keras_side.primitives import operation_types

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


def is_tf_keras(model: object) -> bool:
    """Whether an object is a model of `tf_keras`; imports nothing."""
    loaded = sys.modules.get("tf_keras")
    return loaded is not None and isinstance(model, loaded.Model)


@keras.saving.register_keras_serializable("tflite_ptq4")
def keras_2_hard_sigmoid(x):
    """clip(0.2 x + 0.5, 0, 1), where Keras 3 computes relu6(x + 3) / 6."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


class Twin:
    """The Keras 3 form of a tf_keras model.

    Args:
        original: a built functional or Sequential model of tf_keras, nested ones included; it is
            not changed.
        input_names: of the twin's inputs, in order; the original's where None.
        unwrap: from a layer of the original to the one whose twin takes its place, None for a
            layer that only passes its input on. Annotations of TFMOT are taken off where None.

    Attributes:
        model: the functional Keras 3 model.

    Raises:
        ModelError: the original has no symbolic graph, or a layer that Keras 3 refuses.
    """

    def __init__(
        self,
        original: tf_keras.Model,
        *,
        input_names: Sequence[str] | None = None,
        unwrap: Callable[[tf_keras.layers.Layer], tf_keras.layers.Layer | None] | None = None,
    ) -> None:
        self._unwrap = unwrap or _without_annotation
        self._layers: dict[int, Callable] = {}
        self._weights: list[tuple[keras.layers.Layer, tf_keras.layers.Layer]] = []
        self._originals: dict[int, tf_keras.layers.Layer] = {}
        self.model: keras.Model = self._of_model(original, input_names)
        self.copy_weights()

    def original(self, operation: keras.Operation) -> tf_keras.layers.Layer:
        """The layer of tf_keras that a layer of the twin stands for."""
        return self._originals[id(operation)]

    def copy_weights(self) -> None:
        """Give the twin the weights that the original has now."""
        for layer, original in self._weights:
            values = {_name_of_weight(v.name): v.numpy() for v in original.weights}
            for variable in layer.weights:
                # A depthwise layer calls its kernel so in Keras 2, a separable one in both.
                name = variable.name if variable.name in values else f"depthwise_{variable.name}"
                variable.assign(values[name])
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()

    def _of_model(
        self, original: tf_keras.Model, input_names: Sequence[str] | None = None
    ) -> keras.Model:
        _require_graph(original)
        names = input_names or [
            keras_name(tensor._keras_history.layer) for tensor in original.inputs
        ]
        tensors: dict[int, Any] = {
            id(tensor): keras.Input(
                batch_shape=tuple(tensor.shape),
                dtype=tensor.dtype.name,
                name=name,
            )
            for tensor, name in zip(original.inputs, names, strict=True)
        }

        def carried(structure):
            return tf.nest.map_structure(lambda leaf: tensors.get(id(leaf), leaf), structure)

        for depth in sorted(original._nodes_by_depth, reverse=True):
            for node in original._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                arguments, options = carried((tuple(node.call_args), dict(node.call_kwargs)))
                options = {name: value for name, value in options.items() if value is not None}
                layer = self._of_layer(node.layer)
                if type(layer) in CARRIED_FUNCTIONS.values():
                    # Their arguments have other names in Keras 3, in the same order.
                    arguments, options = (*arguments, *options.values()), {}
                outputs = layer(*arguments, **options)
                for old, new in zip(
                    tf.nest.flatten(node.outputs), keras.tree.flatten(outputs), strict=True
                ):
                    tensors[id(old)] = new
        inputs, outputs = carried((original._nested_inputs, original._nested_outputs))
        return keras.Model(inputs, outputs, name=original.name)

    def _of_layer(self, layer: tf_keras.layers.Layer) -> Callable:
        """The Keras 3 form of a layer, one for all its calls."""
        if id(layer) not in self._layers:
            carried = self._layers[id(layer)] = self._new_layer(layer)
            self._originals[id(carried)] = layer
        return self._layers[id(layer)]

    def _new_layer(self, outer: tf_keras.layers.Layer) -> Callable:
        import tf_keras

        layer = self._unwrap(outer)
        if layer is None or _only_augments(layer):
            return keras.layers.Identity(name=keras_name(outer))
        kind = carried_kind(layer)
        if isinstance(layer, tf_keras.Model) and _has_graph(layer):
            return self._of_model(layer)
        if type(layer).__name__ == "TFOpLambda" and layer.symbol in CARRIED_FUNCTIONS:
            return CARRIED_FUNCTIONS[layer.symbol](name=keras_name(layer))
        if kind is None:
            return _as_it_is(layer)
        try:
            carried = getattr(keras.layers, kind)(**self._config(layer, kind))
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"A layer of tf_keras must have a Keras 3 form. Received: {layer.name!r} ({kind}), "
                f"which Keras 3 refuses: {error}. Replace it, or make it a layer of your own class."
            ) from error
        carried.trainable = layer.trainable
        if layer.weights:
            self._weights.append((carried, outer))
        return carried

    def _config(self, layer: tf_keras.layers.Layer, kind: str) -> dict[str, Any]:
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
            config["activation"] = self._activation(layer.activation)
        if kind == "LeakyReLU":
            config["negative_slope"] = config.pop("alpha")
        if kind == "BatchNormalization":
            config["axis"] = layer.axis[0] if len(layer.axis) == 1 else tuple(layer.axis)
        return config

    def _activation(self, function: Callable) -> Callable:
        import tf_keras

        if isinstance(function, tf_keras.layers.Layer):
            return self._of_layer(function)
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


def _as_it_is(layer: tf_keras.layers.Layer) -> keras.Operation:
    # Reports and rules go by the name of a layer's class.
    kind = type(type(layer).__name__, (_AsItIs,), {})
    return kind(layer, keras_name(layer))


def _without_annotation(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
    """The layer inside an annotation of TFMOT, which computes nothing and imports nothing here."""
    return layer.layer if type(layer).__name__ == "QuantizeAnnotate" else layer


def _only_augments(layer: tf_keras.layers.Layer) -> bool:
    """Whether a layer does nothing at inference."""
    import tf_keras

    kind = type(layer).__name__
    return kind in _AUGMENTING and type(layer) is getattr(tf_keras.layers, kind, None)


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


def _require_graph(model: tf_keras.Model) -> None:
    if not _has_graph(model):
        state = "computes by its own `call`" if model.built else "is not built"
        raise ModelError(
            f"`model` must be a built functional or Sequential model. Received: {model.name!r} "
            f"({type(model).__name__}, of tf_keras), which {state}. Call it on a tf_keras.Input "
            "and wrap the result: tf_keras.Model(inputs, outputs)."
        )


def _has_graph(model: tf_keras.Model) -> bool:
    """Whether a model computes what its symbolic graph says: no `call` of the user's own."""
    own = type(model).call.__module__.partition(".")[0]
    return own == "tf_keras" and bool(model.built and model._is_graph_network and model.outputs)


def keras_name(layer: tf_keras.layers.Layer) -> str:
    """The layer's name; Keras 3 allows no slash, and its own networks have an underscore there."""
    return layer.name.replace("/", "_")


def _name_of_weight(path: str) -> str:
    """`kernel` of `block/conv/kernel:0`."""
    return path.rpartition("/")[2].partition(":")[0]


def _shortest(value: Any) -> Any:
    """A number that went through float32, as it was written: 0.3 of 0.30000001192092896."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and value == np.float32(value):
        return float(str(np.float32(value)))
    return value
