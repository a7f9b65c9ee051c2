"""A model of `tf_keras` (Keras 2) as the equal Keras 3 model, which everything else works on.

The twin has the same layers under the same names, called in the same way, and copies of the
weights; it computes in float32 whatever the policy of the original. A layer that Keras 3 does not
have, or that is the user's own, is called as it is, and stays in float like a custom layer of
Keras 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tflite_ptq4.errors import ModelError
from tflite_ptq4.keras_side.tf_keras_models.layers import (
    CARRIED_FUNCTIONS,
    as_it_is,
    carried_kind,
    carried_layer,
    keras_name,
    only_augments,
)

if TYPE_CHECKING:
    import tf_keras


def is_tf_keras(model: object) -> bool:
    """Whether an object is a model of `tf_keras`; imports nothing."""
    loaded = sys.modules.get("tf_keras")
    return loaded is not None and isinstance(model, loaded.Model)


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
        if layer is None or only_augments(layer):
            return keras.layers.Identity(name=keras_name(outer))
        kind = carried_kind(layer)
        if isinstance(layer, tf_keras.Model) and _has_graph(layer):
            return self._of_model(layer)
        if type(layer).__name__ == "TFOpLambda" and layer.symbol in CARRIED_FUNCTIONS:
            return CARRIED_FUNCTIONS[layer.symbol](name=keras_name(layer))
        if kind is None:
            return as_it_is(layer)
        carried = carried_layer(layer, kind, self._of_layer)
        if layer.weights:
            self._weights.append((carried, outer))
        return carried


def _without_annotation(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
    """The layer inside an annotation of TFMOT, which computes nothing and imports nothing here."""
    return layer.layer if type(layer).__name__ == "QuantizeAnnotate" else layer


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


def _name_of_weight(path: str) -> str:
    """`kernel` of `block/conv/kernel:0`."""
    return path.rpartition("/")[2].partition(":")[0]
