"""Models under a mixed precision policy: what is quantized is their float32 form.

The variables of such a model are float32, its layers compute in float16 or bfloat16. A TFLite file
holds neither, and a half-precision activation overflows where the file's does not: statistics,
corrections and the simulated model are therefore those of the same weights in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common.variables import AutocastScope

from tflite_ptq4.keras_side.cloning import clone_operation, from_config, made
from tflite_ptq4.keras_side.trace import Trace

FLOAT32 = "float32"


@contextmanager
def float32_policy() -> Iterator[None]:
    """While it lasts, new layers compute in float32 whatever the global policy is."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(FLOAT32)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


@contextmanager
def no_autocast() -> Iterator[None]:
    """While it lasts, variables are read as they are, inside a layer under any policy too."""
    with AutocastScope(None):
        yield


def computes_in_float32(operation: keras.Operation) -> bool:
    """Whether no policy has a layer compute in another floating-point type, as mixed_float16 has.

    An operation of `keras.ops` computes in the type of its inputs.
    """
    compute_dtype = getattr(operation, "compute_dtype", None) or FLOAT32
    return compute_dtype == FLOAT32 or "float" not in compute_dtype


def float32_copy(model: keras.Model) -> keras.Model:
    """A copy of a model in which every layer computes in float32; its weights are not yet copied.

    Args:
        model: a built functional or Sequential model; it is not changed.

    Returns:
        A functional model with the same layer names.

    Raises:
        ModelError: a layer cannot be made from its own `get_config`.
    """

    def copied(operation: keras.Operation) -> keras.Operation:
        if not isinstance(operation, keras.layers.Layer):
            return clone_operation(operation, operation.name)
        config = _with_float32_policies(operation.get_config())
        return made(operation, lambda: from_config(operation, config))

    # The copy of a compiled model, or of one of a class of the user's, would be one too.
    is_sequential = isinstance(model, keras.Sequential)
    inputs, outputs = (
        (model.inputs, model.outputs) if is_sequential else (model.input, model.output)
    )
    plain = keras.Model(inputs, outputs, name=model.name)
    with float32_policy():
        return keras.models.clone_model(plain, clone_function=copied, recursive=True)


def copy_weights(source: Trace, target: Trace) -> None:
    """Give the layers of a copied model the weights that the original has now.

    Args:
        source: the calls of the original.
        target: the calls of its `float32_copy`.
    """
    for original, copy in zip(source.calls, target.calls, strict=True):
        if isinstance(original.operation, keras.layers.Layer):
            copy.operation.set_weights(original.operation.get_weights())


def _with_float32_policies(value: Any) -> Any:
    """The config of a layer, with that of each layer inside, that computes in float32."""
    if isinstance(value, list | tuple):
        return type(value)(map(_with_float32_policies, value))
    if not isinstance(value, dict):
        return value
    changed = {key: _with_float32_policies(item) for key, item in value.items()}
    if "dtype" in value and not _is_float32(value["dtype"]):
        changed["dtype"] = FLOAT32
    return changed


def _is_float32(dtype: Any) -> bool:
    """Whether the dtype of a layer's config leaves its computations in float32, or in integers."""
    name = keras.dtype_policies.get(dtype).compute_dtype
    return name == FLOAT32 or "float" not in name
