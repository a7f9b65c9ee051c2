"""Calibration statistics of arrays of images, gathered without a run of Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from tflite_ptq4.keras_side import image_batches
from tflite_ptq4.keras_side.calibration.model_observer import ModelObserver
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics

# In a batch. Each batch adds to every bin of every channel, so few are best.
LARGEST_OBSERVED_ELEMENTS = 1 << 24


def calibrate(
    model: keras.Model,
    images: object,
    *,
    batch_size: int | None = None,
    progress: Callable | None = None,
) -> CalibrationStatistics:
    """Gather calibration statistics from arrays of images, keeping no output.

    Args:
        model: a built functional or Sequential model of Keras 3 or tf_keras; it is not changed.
        images: [n, ...], prepared as the model expects them; of a model of several inputs a list of
            such arrays, or a dict by name, as for `model.predict`.
        batch_size: images at a time; where None, few enough that a batch takes little memory.
        progress: wraps the list of batches and shows how far it is; None shows nothing.

    Returns:
        The statistics of every tensor to be quantized.

    Raises:
        ModelError: the model has no symbolic graph, or nothing in it can be quantized.
        DataError: there is no image, or the images do not fit the model's inputs.
        StatisticsError: an image or an activation holds NaN or Inf.
    """
    observer = ModelObserver(model)
    observe_images(observer, images, batch_size=batch_size, progress=progress)
    return observer.statistics


def observe_images(
    observer: ModelObserver,
    images: object,
    *,
    batch_size: int | None = None,
    progress: Callable | None = None,
) -> None:
    """Let a model be observed on arrays of images.

    Args:
        observer: gathers the statistics.
        images: as for `calibrate`.
        batch_size: as for `calibrate`.
        progress: as for `calibrate`.

    Raises:
        DataError: as `calibrate`.
        StatisticsError: as `calibrate`.
    """
    traced_observation(observer, images, batch_size)(progress)


def traced_observation(
    observer: ModelObserver, images: object, batch_size: int | None = None
) -> Callable[[Callable | None], None]:
    """The first half of `observe_images`, which is Python's work; the second is TensorFlow's.

    Args:
        observer: as there.
        images: as there.
        batch_size: as there.

    Returns:
        The second half, which takes the `progress`.

    Raises:
        DataError: as there.
    """
    arrays = observer.lowered.trace.unpack(images)
    if batch_size is None:
        shapes = observer.lowered.graph.shapes.values()
        sizes = [*(array.shape for array in arrays), *shapes]
        batch_size = image_batches.batch_size(sizes, len(arrays[0]), LARGEST_OBSERVED_ELEMENTS)
    # Traced once for batches of any number, as the last one may be smaller.
    specs = [tf.TensorSpec((None, *array.shape[1:]), tf.float32) for array in arrays]
    observe = observer.observe.get_concrete_function(*specs)
    starts = list(range(0, len(arrays[0]), batch_size))

    def run(progress: Callable | None) -> None:
        with _graphs_as_traced():
            for batch, start in enumerate(progress(starts) if progress else starts):
                parts = [np.asarray(a[start : start + batch_size], np.float32) for a in arrays]
                observe(*map(tf.constant, parts))
                observer.raise_if_not_finite(batch)

    return run


@contextmanager
def _graphs_as_traced() -> Iterator[None]:
    """Run graphs unoptimized: for a few dozen images optimizing takes longer than it saves."""
    name = "disable_meta_optimizer"
    before = tf.config.optimizer.get_experimental_options().get(name, False)
    tf.config.optimizer.set_experimental_options({name: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({name: before})
