"""An array as the batches that a layer is quantized on."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tflite_ptq4.keras_side.image_batches import PARTS, Batches, KeptValues


def batches_of(value: np.ndarray, size: int | None = None) -> Batches:
    """All images, `size` at a time, or all at once."""
    kept = KeptValues(len(value), None, lossless=True)
    kept.put(0, tf.constant(value, tf.float32))
    return Batches(kept, tuple(value.shape[1:]), len(value), size or len(value), PARTS)
