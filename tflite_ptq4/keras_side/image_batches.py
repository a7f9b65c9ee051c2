"""The values of a tensor over all calibration images: kept in few bytes, or computed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod
from threading import Lock

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tflite_ptq4.keras_side.fake_quantization import levels
from tflite_ptq4.plan import TensorPlan

LARGEST_TENSOR_ELEMENTS = 1 << 22  # of a batch, so that what it needs in passing stays small
PARTS = 4  # of the images, where every other part is held out
LARGE_TENSOR = 1 << 23  # elements over all images, from which on bytes are worth some trouble
_LARGEST_HALF = 6.0e4


def batch_size(
    shapes: Sequence[tuple[int | None, ...]], images: int, elements: int = LARGEST_TENSOR_ELEMENTS
) -> int:
    """How many images go through the network at a time.

    Args:
        shapes: of the tensors of the network, the batch axis first.
        images: how many there are in all.
        elements: of the largest tensor in a batch, at most.
    """
    largest = max(prod(size or 1 for size in shape[1:]) for shape in shapes)
    return even_size(max(1, elements // largest), images)


def even_size(most: int, images: int) -> int:
    """The largest size that makes all batches equal, unless that is half of the most or less.

    oneDNN keeps what it compiles for each size: a last batch of another one costs memory.

    Args:
        most: images at a time, at most.
        images: how many there are in all.
    """
    most = min(most, images)
    return next((size for size in range(most, most // 2, -1) if images % size == 0), most)


class KeptValues:
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
        self.plan = plan
        self._lossless = lossless
        self._lower = np.asarray(plan.lower if plan else 0, dtype=np.float32)
        self._array: NDArray | None = None
        self._writing = Lock()

    def put(self, start: int, values: tf.Tensor, rounding: str | None = None) -> None:
        """Keep what some images give; two threads may do so at once.

        Args:
            start: number of the first of them.
            values: float32 [n, ...].
            rounding: to the levels of the plan, as `fake_quantize` does; None for values that lie
                on them already.
        """
        if self.plan is not None:
            steps = levels(values, self.plan, rounding or "half_even")
            values = tf.cast(steps - self._lower if self._lower.any() else steps, tf.uint8)
        elif not self._lossless and self._fits_half(values):
            values = tf.cast(values, tf.float16)
        array = values.numpy()
        with self._writing:
            if self._array is None:
                self._array = np.empty((self._images, *array.shape[1:]), array.dtype)
            elif array.dtype.itemsize > self._array.itemsize:
                self._array = self._array.astype(array.dtype)
            self._array[start : start + len(array)] = array

    def read(self, start: int, stop: int) -> tf.Tensor:
        """What the images from one number to another gave, as it was added.

        It is float32 [n, ...], unless the tensor holds integers of its own.
        """
        return self._decoded(tf.constant(self._array[start:stop]))

    def rows(self, start: int, stop: int, places: NDArray[np.int64]) -> tf.Tensor:
        """What those images gave at some places.

        Args:
            start: number of the first image.
            stop: of the one after the last.
            places: int64 [...], positions counted through those images.

        Returns:
            float32 [..., channels], unless the tensor holds integers of its own.
        """
        return self._decoded(tf.constant(_in_rows(self._array[start:stop]).take(places, axis=0)))

    def _decoded(self, values: tf.Tensor) -> tf.Tensor:
        if self.plan is not None:
            steps = tf.cast(values, tf.float32)
            steps = steps + self._lower if self._lower.any() else steps
            return steps * self.plan.scale.astype(np.float32)
        return tf.cast(values, tf.float32) if values.dtype == tf.float16 else values

    def _fits_half(self, values: tf.Tensor) -> bool:
        return (
            values.dtype == tf.float32
            and prod(values.shape[1:]) * self._images > LARGE_TENSOR
            and float(tf.reduce_max(values)) < _LARGEST_HALF
            and float(tf.reduce_min(values)) > -_LARGEST_HALF
        )


@dataclass(frozen=True)
class DerivedValues:
    """The values of one tensor, computed from its inputs whenever they are read, and kept nowhere.

    Attributes:
        inputs: what it is computed from.
        run: gives it, of tensors of its inputs.
        spatial_axes: of its inputs, where each position of it is computed from the same position
            of them, so that rows can be computed alone; None otherwise.
        size: images at a time, where they cannot.
    """

    inputs: Sequence[KeptValues]
    run: Callable[[Sequence[tf.Tensor]], tf.Tensor]
    spatial_axes: int | None
    size: int

    def read(self, start: int, stop: int) -> tf.Tensor:
        """As `KeptValues.read`."""
        return self.run([values.read(start, stop) for values in self.inputs])

    def rows(self, start: int, stop: int, places: NDArray[np.int64]) -> tf.Tensor:
        """As `KeptValues.rows`."""
        if self.spatial_axes is None:
            return self._rows_of_all(start, stop, places)
        inputs = [values.rows(start, stop, places.ravel()) for values in self.inputs]
        ones = [1] * self.spatial_axes
        result = self.run([tf.reshape(rows, [*ones, *rows.shape]) for rows in inputs])
        return tf.reshape(result, [*places.shape, result.shape[-1]])

    def _rows_of_all(self, start: int, stop: int, places: NDArray[np.int64]) -> tf.Tensor:
        found = None
        for first in range(start, stop, self.size):
            values = self.read(first, min(first + self.size, stop)).numpy()
            rows, before = _in_rows(values), prod(values.shape[1:-1]) * (first - start)
            if found is None:
                found = np.empty((*places.shape, rows.shape[-1]), rows.dtype)
            here = (places >= before) & (places < before + len(rows))
            found[here] = rows[places[here] - before]
        return tf.constant(found)


@dataclass(frozen=True)
class Batches:
    """The values of one tensor as batches of one size, the last of which may be smaller.

    Attributes:
        values: where they are read.
        shape: of one image.
        images: how many there are in all.
        size: images in a batch.
        parts: of the images, each of which is sampled for itself.
    """

    values: KeptValues | DerivedValues
    shape: tuple[int, ...]
    images: int
    size: int
    parts: int

    def __len__(self) -> int:
        """The number of batches."""
        return ceil(self.images / self.size)

    def __getitem__(self, position: int) -> tf.Tensor:
        """One batch."""
        start = position * self.size
        return self.values.read(start, min(start + self.size, self.images))

    def __iter__(self) -> Iterator[tf.Tensor]:
        """Each batch in turn."""
        return (self[position] for position in range(len(self)))

    def sample(self, positions: int, maximum_rows: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """A regular sample of the positions of all images, part by part.

        Args:
            positions: of one image.
            maximum_rows: how many are sampled at most.

        Yields:
            The number of a part, and int64 [n], positions counted through its images. A part of
            which nothing is sampled is left out.
        """
        stride = ceil(self.images * positions / maximum_rows)
        for part in range(self.parts):
            start, stop = (image * positions for image in self._part(part))
            chosen = np.arange(-start % stride, stop - start, stride)
            if len(chosen):
                yield part, chosen

    def rows(self, part: int, places: NDArray[np.int64]) -> tf.Tensor:
        """Some rows of a part.

        Args:
            part: its number.
            places: int64 [...], positions counted through its images; -1 for a row of zeros.

        Returns:
            float32 [..., channels].
        """
        rows = self.values.rows(*self._part(part), np.maximum(places, 0))
        inside = places >= 0
        return rows if inside.all() else rows * inside[..., None].astype(np.float32)

    def _part(self, part: int) -> tuple[int, int]:
        """The number of the first image of a part, and of the one after its last."""
        size = ceil(self.images / self.parts)
        return min(part * size, self.images), min((part + 1) * size, self.images)


def _in_rows(values: NDArray) -> NDArray:
    return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
