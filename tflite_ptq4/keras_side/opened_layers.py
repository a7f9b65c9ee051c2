"""Layers of the user's own that are made of others, opened: the calls that their `call` makes.

Such a layer is one call in the graph of a model, whatever is in it. Its `call`, run on symbolic
tensors, says which layers and operations of `keras.ops` it is made of.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras.src.utils.naming import to_snake_case

_NOT_OPENED = ("keras", "tf_keras", "tflite_ptq4")


@contextmanager
def opened(operation: keras.Operation, node: object) -> Iterator[keras.Model | None]:
    """What a layer of the user's own computes at inference, as a model of its inputs.

    Weights that are the layer's own, and not those of a layer inside, would become constants: such
    a layer is not opened, nor is one whose `call` takes no symbolic tensors.

    Args:
        operation: the layer; the record of its calls, and of those of the layers inside, is
            afterwards what it was before.
        node: Keras' record of the call.

    Yields:
        The model, to be read while the context lasts; None for a layer that is not opened.
    """
    if not _is_of_layers(operation):
        yield None
        return
    inside = list(operation._flatten_layers(include_self=False))
    calls = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in inside]
    try:
        yield _as_model(operation, node)
    finally:
        for layer, inbound, outbound in calls:
            del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]


def lasting_name(operation: keras.Operation) -> str:
    """The name of what is in an opened layer, the same for a copy of it.

    Keras counts all that has no name of its own, "conv2d_7": a copy would be another number.
    """
    unnamed = to_snake_case(type(operation).__name__)
    counted = re.fullmatch(rf"{re.escape(unnamed)}_\d+", operation.name)
    return unnamed if counted else operation.name


def is_of_the_user(operation: keras.Operation) -> bool:
    """Whether a layer computes by a `call` that is no part of Keras."""
    module = type(operation).call.__module__.partition(".")[0]
    return isinstance(operation, keras.layers.Layer) and module not in _NOT_OPENED


def _is_of_layers(operation: keras.Operation) -> bool:
    if not is_of_the_user(operation):
        return False
    held = {
        id(variable)
        for layer in operation._flatten_layers(include_self=False)
        for variable in layer.variables
    }
    return all(id(variable) in held for variable in operation.variables)


def _as_model(layer: keras.layers.Layer, node: object) -> keras.Model | None:
    inputs = [keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in node.input_tensors]
    args, kwargs = node.arguments.fill_in(
        {id(old): new for old, new in zip(node.input_tensors, inputs, strict=True)}
    )
    if "training" in inspect.signature(layer.call).parameters:
        kwargs = {**kwargs, "training": False}
    try:
        outputs = keras.tree.flatten(layer.call(*args, **kwargs))
        model = keras.Model(inputs, outputs)
    # Code of the user's can fail in any way, where tensors are symbolic.
    except Exception:
        return None
    return model if len(outputs) == len(node.outputs) else None
