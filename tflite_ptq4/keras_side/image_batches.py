"""The values of a tensor over all calibration images: kept in few bytes, or computed anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod

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


@dataclass(frozen=True)
class DerivedValues:
    """The values of one tensor, computed from its inputs whenever they are read, and kept nowhere.

    Attributes:
        read: gives float32 [n, ...] of the images from one number to another.
    """

    read: Callable[[int, int], tf.Tensor]


class KeptValues:
    """The values of one tensor, added in the order of the images.

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
        self._parts: list[tf.Tensor] = []

    def append(self, values: tf.Tensor) -> None:
        """Add what the next images give, float32 [n, ...]."""
        if self._plan is not None:
            scale, lower = (
                np.asarray(array, dtype=np.float32)
                for array in (self._plan.scale, self._plan.lower)
            )
            values = tf.cast(tf.round(values * (np.float32(1) / scale)) - lower, tf.uint8)
        elif not self._lossless and self._fits_half(values):
            values = tf.cast(values, tf.float16)
        self._parts.append(values)

    def read(self, start: int, stop: int) -> tf.Tensor:
        """What the images from one number to another gave, as it was added.

        It is float32 [n, ...], unless the tensor holds integers of its own.
        """
        found, first = [], 0
        for part in self._parts:
            if first < stop and first + len(part) > start:
                found.append(self._decoded(part[max(0, start - first) : stop - first]))
            first += len(part)
        return found[0] if len(found) == 1 else tf.concat(found, 0)

    def _decoded(self, values: tf.Tensor) -> tf.Tensor:
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


@dataclass(frozen=True)
class Batches:
    """The values of one tensor as batches of one size, the last of which may be smaller.

    Attributes:
        values: where they are read.
        images: how many there are in all.
        size: images in a batch.
    """

    values: KeptValues | DerivedValues
    images: int
    size: int

    def __len__(self) -> int:
        """The number of batches."""
        return ceil(self.images / self.size)

    def __getitem__(self, position: int) -> tf.Tensor:
        """One batch."""
        start = position * self.size
        return self.values.read(start, min(start + self.size, self.images))
