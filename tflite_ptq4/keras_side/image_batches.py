"""The values of a tensor over all calibration images: batches in few bytes, or computed anew."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import tensorflow as tf

from tflite_ptq4.plan import TensorPlan

BATCH_ELEMENTS = 1 << 22  # of the largest tensor, so that what a batch needs in passing stays small
LARGE_TENSOR = 1 << 23  # elements over all images, from which on bytes are worth some trouble
_LARGEST_HALF = 6.0e4


def batch_size(shapes: list[tuple[int | None, ...]]) -> int:
    """How many images go through the network at a time.

    Args:
        shapes: of the tensors of the network, the batch axis first.
    """
    largest = max(prod(size or 1 for size in shape[1:]) for shape in shapes)
    return max(1, BATCH_ELEMENTS // largest)


class DerivedBatches:
    """The values of one tensor, computed from its inputs whenever they are read, and kept nowhere.

    Args:
        count: how many batches there are.
        compute: gives the batch of a position.
    """

    def __init__(self, count: int, compute: Callable[[int], tf.Tensor]) -> None:
        self._count = count
        self._compute = compute

    def __len__(self) -> int:
        """The number of batches."""
        return self._count

    def __getitem__(self, position: int) -> tf.Tensor:
        """One batch."""
        return self._compute(position)


class ImageBatches:
    """The values of one tensor, batch by batch.

    A tensor on the levels of its plan is kept as bytes, without any loss. Of the float network, a
    tensor of more than `LARGE_TENSOR` elements is kept in float16, whose error of 2^-12 is far
    below that of 8 bits.

    Args:
        images: how many images there are in all.
        plan: the levels that the values lie on; None for values of any kind.
        lossless: never to use float16.
    """

    def __init__(self, images: int, plan: TensorPlan | None, *, lossless: bool) -> None:
        self._images = images
        self._plan = plan
        self._lossless = lossless
        self._batches: list[tf.Tensor] = []

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._batches)

    def append(self, values: tf.Tensor) -> None:
        """Add the next batch, float32 [n, ...]."""
        if self._plan is not None:
            scale, lower = (
                np.asarray(array, dtype=np.float32)
                for array in (self._plan.scale, self._plan.lower)
            )
            values = tf.cast(tf.round(values * (np.float32(1) / scale)) - lower, tf.uint8)
        elif not self._lossless and self._fits_half(values):
            values = tf.cast(values, tf.float16)
        self._batches.append(values)

    def __getitem__(self, position: int) -> tf.Tensor:
        """One batch as it was added, float32 unless the tensor holds integers of its own."""
        values = self._batches[position]
        if self._plan is not None:
            lower = np.asarray(self._plan.lower, dtype=np.float32)
            scale = np.asarray(self._plan.scale, dtype=np.float32)
            return (tf.cast(values, tf.float32) + lower) * scale
        return tf.cast(values, tf.float32) if values.dtype == tf.float16 else values

    def _fits_half(self, values: tf.Tensor) -> bool:
        return (
            values.dtype == tf.float32
            and prod(values.shape[1:]) * self._images > LARGE_TENSOR
            and float(tf.reduce_max(tf.abs(values))) < _LARGEST_HALF
        )
