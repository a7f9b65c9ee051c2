"""Copies of Keras layers, so that building other models records nothing in the user's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import keras

from tflite_ptq4.errors import ModelError


def clone_operation(operation: keras.Operation, name: str) -> keras.Operation:
    """A copy of a layer under another name, with its own copies of the weights.

    Args:
        operation: a built layer, or an operation of `keras.ops`.
        name: of the copy.

    Returns:
        The copy, built on the input shapes of the original.

    Raises:
        ModelError: the layer cannot be made from its own `get_config`.
    """
    if not isinstance(operation, keras.layers.Layer):
        return _copied_function(operation, name)

    def copied() -> keras.layers.Layer:
        layer = from_config(operation, {**operation.get_config(), "name": name})
        if operation.weights:
            layer.build_from_config(operation.get_build_config())
            layer.set_weights(operation.get_weights())
        return layer

    return made(operation, copied)


def _copied_function(operation: keras.Operation, name: str) -> keras.Operation:
    copied = copy.copy(operation)
    copied.name = name
    copied._inbound_nodes, copied._outbound_nodes = [], []
    return copied


def made(
    operation: keras.layers.Layer, make: Callable[[], keras.layers.Layer]
) -> keras.layers.Layer:
    """The copy of a layer that `make` makes, or the reason why there is none.

    Args:
        operation: the layer.
        make: makes its copy.

    Raises:
        ModelError: the layer cannot be made from its own `get_config`.
    """
    try:
        return make()
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"A layer that stays in float must be able to be copied from its config. Received: "
            f"{operation.name!r} ({type(operation).__name__}): {error}. Give the class a "
            "`get_config` that names every argument of `__init__`."
        ) from error


def from_config(layer: keras.layers.Layer, config: dict[str, Any]) -> keras.layers.Layer:
    """A layer of the type of `layer`, not built.

    Args:
        layer: of Keras.
        config: what `get_config` of such a layer gives.
    """
    if type(layer) is keras.layers.Lambda:
        # Its config holds the function as code, which Keras rightly does not load back.
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            arguments=layer.arguments,
            name=config["name"],
            dtype=config["dtype"],
        )
    return type(layer).from_config(config)
