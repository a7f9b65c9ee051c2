"""What a compiled model measures itself by, asked for alike in Keras 3 and in tf_keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tflite_ptq4.keras_side.tf_keras_models.twin import is_tf_keras


def metric_variables(model: keras.Model) -> list:
    """The variables of all metrics of a compiled model, that of the loss among them."""
    if is_tf_keras(model):
        return [variable for metric in model.metrics for variable in metric.variables]
    return list(model.metrics_variables)


def output_function(model: keras.Model) -> Callable:
    """From inputs to the outputs of a model at inference."""
    if is_tf_keras(model):
        # Eagerly: losses that hang on activations would else stay behind as symbols of the graph.
        return lambda inputs: model(inputs, training=False)
    return tf.function(
        lambda inputs: model(inputs, training=False), reduce_retracing=True, autograph=False
    )


def update_measures(
    model: keras.Model, inputs: object, labels: object, outputs: object, weights: object
) -> tuple[float, dict[str, Any]]:
    """Update the metrics of a compiled model by a batch.

    Args:
        model: of Keras 3 or tf_keras.
        inputs: as for `model.evaluate`, like the labels and the sample weights, which may be None.
        labels: of the batch.
        outputs: for these inputs, of the model or of another one in its place.
        weights: of the batch.

    Returns:
        The loss of the batch, and what the metrics are since they were reset, by name.
    """
    if is_tf_keras(model):
        labels, weights = tf.nest.map_structure(
            lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf), (labels, weights)
        )
        loss = model.compute_loss(inputs, labels, outputs, weights)
    else:
        loss = model.compute_loss(inputs, labels, outputs, weights, training=False)
    # The loss first: the losses of single outputs are among the metrics.
    return float(loss), model.compute_metrics(inputs, labels, outputs, weights)
