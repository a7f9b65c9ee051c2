"""Models on several devices: which distribution strategies the statistics can be gathered under."""

from __future__ import annotations

import keras
import tensorflow as tf

from tflite_ptq4.errors import ModelError


def require_replicas_on_one_machine(model: keras.Model) -> None:
    """Refuse a model whose batches other processes see, or a scope in which variables are copied.

    Every replica adds to the same variables, which are therefore made outside of the scope.

    Raises:
        ModelError: the strategy is another than MirroredStrategy on one machine, or its scope is
            open.
    """
    strategy = model.distribute_strategy
    one_machine = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)
    if strategy.num_replicas_in_sync > 1 and not isinstance(strategy, one_machine):
        raise ModelError(
            "`model` must be on one machine: without a strategy, or under MirroredStrategy. "
            f"Received: {model.name!r} under {type(strategy).__name__}. Load the trained weights "
            "into a model without a strategy."
        )
    if tf.distribute.has_strategy():
        raise ModelError(
            "Statistics must be gathered in variables outside of the scope of a strategy. "
            f"Received: {model.name!r}, inside the scope of "
            f"{type(tf.distribute.get_strategy()).__name__}. Move the call out of "
            "`with strategy.scope():`; the model stays where it was made."
        )
