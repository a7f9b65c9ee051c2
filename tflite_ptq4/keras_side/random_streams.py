"""Work beside a training run that leaves its random streams and its layers' state as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from tflite_ptq4.keras_side.compiled_measures import metric_variables

_KERAS_SEEDS = "global_seed_generator"  # where Keras keeps it
_OTHER_SEED = "beside the training"


@contextmanager
def unchanged_random_streams(model: keras.Model) -> Iterator[None]:
    """While it lasts, draw what you like: afterwards every stream goes on where it stood.

    New layers draw the seeds of their initializers from Python's stream, for one. The streams are
    those of Python, NumPy, TensorFlow (the seeds of operations, the global generator) and Keras
    (the global seed generator); the state is all that `model` holds beside its weights: the seeds
    of its layers and its metrics.

    Args:
        model: the model in training, of Keras 3 or tf_keras.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    keras_seeds = global_state.get_global_attribute(_KERAS_SEEDS)
    generator = stateful_random_ops.global_generator
    variables = _state_variables(model)
    variables += [] if keras_seeds is None else [keras_seeds.state]
    variables += [] if generator is None else [generator.state]
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    eager = context.context()
    operation_seeds = getattr(eager, "_rng", None)  # there once `tf.random.set_seed` was called
    if operation_seeds is not None:
        # An operation of the same seed would share a kernel, and its stream, with the training's.
        eager._rng = random.Random(_OTHER_SEED)
    try:
        yield
    finally:
        if operation_seeds is not None:
            eager._rng = operation_seeds
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        global_state.set_global_attribute(_KERAS_SEEDS, keras_seeds)
        stateful_random_ops.global_generator = generator
        for variable, value in zip(variables, values, strict=True):
            if not np.array_equal(keras.ops.convert_to_numpy(variable), value):
                variable.assign(value)


def _state_variables(model: keras.Model) -> list:
    """What a model holds beside its weights; tf_keras does not count the metrics among them."""
    held = {id(variable): variable for variable in (*model.variables, *metric_variables(model))}
    for variable in model.weights:
        held.pop(id(variable), None)
    return list(held.values())
