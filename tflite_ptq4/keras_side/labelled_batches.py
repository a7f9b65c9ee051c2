"""Images with labels as users pass them to Keras, read batch by batch outside of a run of Keras."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tflite_ptq4.errors import DataError

Batch = tuple[object, object, object]  # inputs, labels, sample weights; None where there are none


def batches_of(data: object, batch_size: int) -> Iterator[Batch]:
    """Read batches in order.

    Args:
        data: arrays `(images, labels)` or `(images, labels, sample_weights)`, as `evaluate` takes
            them; or batches of such: a `tf.data.Dataset`, a `PyDataset`, a `Sequence` of tf_keras.
        batch_size: of arrays.

    Returns:
        Inputs, labels and sample weights of one batch after the other.

    Raises:
        DataError: it is something else.
    """
    if isinstance(data, tf.data.Dataset):
        batches: Iterable = data
    elif isinstance(data, _indexed_batches()):
        batches = (data[index] for index in range(len(data)))
    elif isinstance(data, tuple) and len(data) in (2, 3):
        batches = _parts(data, batch_size)
    else:
        raise DataError(
            "Labelled images must be a tuple (images, labels), a tf.data.Dataset or a PyDataset. "
            f"Received: {type(data).__name__}. Pass what `model.evaluate` takes."
        )
    return map(keras.utils.unpack_x_y_sample_weight, batches)


def _indexed_batches() -> tuple[type, ...]:
    """The classes of batches by index, of Keras 3 and of tf_keras where it is loaded."""
    tf_keras = sys.modules.get("tf_keras")
    older = () if tf_keras is None else (tf_keras.utils.Sequence,)
    return (keras.utils.PyDataset, *older)


def _parts(data: tuple, batch_size: int) -> Iterator[tuple]:
    images = len(keras.tree.flatten(data)[0])
    for start in range(0, images, batch_size):
        part = slice(start, start + batch_size)
        yield keras.tree.map_structure(
            lambda leaf, part=part: None if leaf is None else np.asarray(leaf[part]), data
        )


def images_in_memory(images: object) -> object:
    """The images alone, as arrays, of what `model.predict` takes.

    Args:
        images: arrays in the structure of the model's inputs, which come back as they are; or
            batches: a `tf.data.Dataset`, a `PyDataset` or a `Sequence`, which is read to its end.

    Raises:
        DataError: there is no batch.
    """
    if not isinstance(images, (tf.data.Dataset, *_indexed_batches())):
        return images
    batches = [
        keras.tree.map_structure(np.asarray, inputs) for inputs, _, _ in batches_of(images, 1)
    ]
    if not batches:
        raise DataError(
            "Calibration images must be at least one batch. Received: an empty dataset."
        )
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
