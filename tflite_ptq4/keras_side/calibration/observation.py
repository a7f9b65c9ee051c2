"""Statistics of many tensors, accumulated inside a TensorFlow graph.

Every update reads each tensor of one batch and adds to variables of fixed size: nothing grows with
the number of images. The range covers every value. Moments and histogram cover every value of a
small network; where a network computes more than `SAMPLED_ELEMENTS` values per image, they cover a
regular grid of positions in each large tensor, the same for every image, so that they merge
exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, gcd, prod

import numpy as np
import tensorflow as tf

from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.stats.histogram import (
    BIN_COUNT,
    BINS_PER_SIGN,
    FIRST_CODE,
    MANTISSA_SHIFT,
    ZERO_BIN,
)
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

SAMPLED_ELEMENTS = 1_000_000

_MAGNITUDE_MASK = 0x7FFFFFFF

Shape = tuple[int | None, ...]


def sampling_strides(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Distance between the sampled positions of each tensor, in positions of its flattened image.

    One bound on the positions per tensor, the largest power of two that keeps the whole sample
    within `SAMPLED_ELEMENTS`, gives every stride. A stride has no factor in common with the width,
    so that the sample does not stay in a few columns.

    Args:
        shapes: for each tensor its shape [batch, ..., channels].

    Returns:
        1 where every position is read: everywhere in a small network, and wherever the spatial
        shape is not fixed.
    """
    bound = 1 << 20
    while True:
        strides = {name: _stride(shape, bound) for name, shape in shapes.items()}
        total = sum(_elements(shape) // strides[name] for name, shape in shapes.items())
        if total <= SAMPLED_ELEMENTS or bound == 1:
            return strides
        bound //= 2


def _stride(shape: Shape, bound: int) -> int:
    spatial = shape[1:-1]
    if not spatial or None in spatial:
        return 1
    stride = ceil(prod(spatial) / bound)
    while stride > 1 and gcd(stride, spatial[-1]) != 1:
        stride += 1
    return stride


def _elements(shape: Shape) -> int:
    return prod(size or 1 for size in shape[1:])


class TensorAccumulator:
    """Variables that gather the statistics of a fixed set of named tensors.

    Args:
        shapes: for each tensor its shape [batch, ..., channels]; the last axis is known.
        nonnegative: tensors that can hold no negative value.
    """

    def __init__(self, shapes: Mapping[str, Shape], nonnegative: frozenset[str]) -> None:
        self.names = tuple(shapes)
        channels = {name: int(shape[-1]) for name, shape in shapes.items()}
        self._channels = channels
        self._strides = sampling_strides(shapes)
        self._nonnegative = nonnegative
        total = sum(channels.values())
        self._count = tf.Variable(tf.zeros(len(self.names), tf.int64), trainable=False)
        self._images = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._minimum = tf.Variable(tf.fill([total], np.float32(np.inf)), trainable=False)
        self._maximum = tf.Variable(tf.fill([total], np.float32(-np.inf)), trainable=False)
        # sum x, sum x^2, count of x > 0, sum and sum of squares of the positive part
        self._sums = tf.Variable(tf.zeros([5, total], tf.float64), trainable=False)
        self._histograms = {
            name: tf.Variable(tf.zeros([size * self._bins(name)], tf.int32), trainable=False)
            for name, size in channels.items()
        }

    @property
    def images(self) -> int:
        """How many images have been seen."""
        return int(self._images.numpy())

    def reset(self) -> None:
        """Forget every batch."""
        self._count.assign(tf.zeros_like(self._count))
        self._images.assign(0)
        self._minimum.assign(tf.fill(self._minimum.shape, np.float32(np.inf)))
        self._maximum.assign(tf.fill(self._maximum.shape, np.float32(-np.inf)))
        for variable in (self._sums, *self._histograms.values()):
            variable.assign(tf.zeros_like(variable))

    def update(self, tensors: Mapping[str, tf.Tensor]) -> None:
        """Add one batch; runs inside a `tf.function`.

        Args:
            tensors: float32 tensors [batch, ..., channels], one for each name.
        """
        batch = tf.shape(tensors[self.names[0]])[0]
        counts, measures = [], []
        for name in self.names:
            rows = tf.reshape(tensors[name], [-1, self._channels[name]])
            sample = self._sample(name, tensors[name])
            measure = _measure_nonnegative if name in self._nonnegative else _measure_any
            measured, bins = measure(rows, sample)
            counts.append(tf.shape(sample)[0])
            measures.append(measured)
            self._histograms[name].assign_add(bins)
        measured = tf.concat(measures, 1)
        self._images.assign_add(tf.cast(batch, tf.int64))
        self._count.assign_add(tf.cast(tf.stack(counts), tf.int64))
        self._minimum.assign(tf.minimum(self._minimum, measured[0]))
        self._maximum.assign(tf.maximum(self._maximum, measured[1]))
        self._sums.assign_add(tf.cast(measured[2:], tf.float64))

    def first_not_finite(self) -> str | None:
        """The first tensor, in the order of execution, that has held NaN or Inf."""
        seen = (self._sums[0], self._minimum, self._maximum)
        finite = np.logical_and.reduce([np.isfinite(values.numpy()) for values in seen])
        if finite.all():
            return None
        channel = int(np.argmin(finite))
        ends = np.cumsum([self._channels[name] for name in self.names])
        return self.names[int(np.searchsorted(ends, channel, side="right"))]

    def result(self) -> dict[str, TensorStatistics]:
        """What has been gathered, tensor by tensor.

        Raises:
            StatisticsError: no batch has been seen.
        """
        if self.images == 0:
            raise StatisticsError(
                "Calibration must see at least one batch. Received: none. Pass the callback to "
                "`model.predict(images, callbacks=[calibration])` with at least one image."
            )
        sums, counts = self._sums.numpy(), self._count.numpy()
        minimum, maximum = self._minimum.numpy(), self._maximum.numpy()
        found: dict[str, TensorStatistics] = {}
        start = 0
        for name, count in zip(self.names, counts, strict=True):
            part = slice(start, start + self._channels[name])
            start = part.stop
            found[name] = _statistics(
                int(count), minimum[part], maximum[part], sums[:, part], self._histogram(name)
            )
        return found

    def _bins(self, name: str) -> int:
        return BINS_PER_SIGN + 1 if name in self._nonnegative else BIN_COUNT

    def _sample(self, name: str, tensor: tf.Tensor) -> tf.Tensor:
        """The sampled positions of a tensor [batch, ..., C] as rows [n, C]."""
        channels, stride = self._channels[name], self._strides[name]
        if stride > 1:
            positions = prod(tensor.shape[1:-1])
            # A gather copies whole rows of channels; a strided slice goes element by element.
            rows = np.arange(0, positions, stride, dtype=np.int32)
            tensor = tf.gather(tf.reshape(tensor, [-1, positions, channels]), rows, axis=1)
        return tf.reshape(tensor, [-1, channels])

    def _histogram(self, name: str) -> np.ndarray:
        counts = self._histograms[name].numpy().reshape(self._channels[name], self._bins(name))
        missing = BIN_COUNT - counts.shape[1]
        return np.pad(counts, ((0, 0), (missing, 0)))


_ROWS = tf.TensorSpec((None, None), tf.float32)


# Traced once for all tensors: a graph of their own for each takes longer to make than to run.
@tf.function(input_signature=(_ROWS, _ROWS), autograph=False)
def _measure_any(rows: tf.Tensor, sample: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What is added up of a batch of one tensor.

    Args:
        rows: float32 [n, C], every position.
        sample: float32 [m, C], the sampled ones.

    Returns:
        float32 [7, C], minimum and maximum of the rows, and of the sample what `_sums` has; int32
        [C * bins], the histogram of the sample as in `stats.histogram.bin_index`.
    """
    positive = tf.nn.relu(sample)
    sums = [*_total_and_squares(sample), _positives(sample), *_total_and_squares(positive)]
    pattern = tf.bitcast(sample, tf.int32)
    distance = _distance(pattern & _MAGNITUDE_MASK)
    signed = tf.where(pattern < 0, -distance, distance)
    return _with_range(rows, sums), _bin_counts(signed, BIN_COUNT, ZERO_BIN)


@tf.function(input_signature=(_ROWS, _ROWS), autograph=False)
def _measure_nonnegative(rows: tf.Tensor, sample: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`_measure_any` for a tensor without negative values, of whose histogram it leaves those out.

    Args:
        rows: as there.
        sample: as there.

    Returns:
        As there.
    """
    total, squares = _total_and_squares(sample)
    sums = [total, squares, _positives(sample), total, squares]
    distance = _distance(tf.bitcast(sample, tf.int32))
    return _with_range(rows, sums), _bin_counts(distance, BINS_PER_SIGN + 1, 0)


def _with_range(rows: tf.Tensor, sums: list[tf.Tensor]) -> tf.Tensor:
    return tf.stack([tf.reduce_min(rows, 0), tf.reduce_max(rows, 0), *sums])


def _total_and_squares(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.reduce_sum(values, 0), tf.reduce_sum(values * values, 0)


def _positives(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(values > 0, tf.float32), 0)


def _distance(pattern: tf.Tensor) -> tf.Tensor:
    """From bit patterns of magnitudes to bins, counted from that of zero."""
    distance = tf.bitwise.right_shift(pattern, MANTISSA_SHIFT) - (FIRST_CODE - 1)
    return tf.minimum(tf.maximum(distance, 0), BINS_PER_SIGN)


def _bin_counts(distance: tf.Tensor, bins: int, origin: int) -> tf.Tensor:
    """How many values lie in each of the bins of each channel: int32 [C * bins]."""
    channels = tf.shape(distance)[1]
    offsets = tf.range(channels) * bins + origin
    return tf.raw_ops.DenseBincount(
        input=tf.reshape(distance + offsets, [-1]),
        size=channels * bins,
        weights=np.zeros(0, np.int32),
        binary_output=False,
    )


def _statistics(
    count: int,
    minimum: np.ndarray,
    maximum: np.ndarray,
    sums: np.ndarray,
    histogram: np.ndarray,
) -> TensorStatistics:
    """Sums as counts, means and squared deviations."""
    total, squares, positives, positive_total, positive_squares = sums
    positive_count = np.rint(positives).astype(np.int64)
    positive_mean = positive_total / np.maximum(positive_count, 1)
    mean = total / count
    return TensorStatistics(
        count=np.full(len(total), count),
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        m2=np.maximum(squares - count * mean**2, 0.0),
        positive_count=positive_count,
        positive_mean=positive_mean,
        positive_m2=np.maximum(positive_squares - positive_count * positive_mean**2, 0.0),
        histogram=histogram,
    )
