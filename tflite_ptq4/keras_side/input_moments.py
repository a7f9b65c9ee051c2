"""Moments over the calibration images: of channels, and of what weights are multiplied with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.input_patches import sampled_patches
from tflite_ptq4.kernel_layout import group_count, kernel_groups

NEGLIGIBLE_VARIANCE = 1.0e-9  # of the mean square: float32 sums leave about as much of nothing
NEGLIGIBLE_POWER = 1.0e-30
RESOLUTION = 1.0e-6  # of float32 sums, relative to what is added up


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Centred second moments over the calibration images, one block for each group of a layer.

    Attributes:
        coded: float64 [g, n, n], E[x_q x_q^T] of the quantized input.
        cross: float64 [g, n, c], E[x_q y^T] with y the float layer's output.
        parts: the same two of every other batch, and of the rest; empty where there is one batch.
    """

    coded: NDArray[np.float64]
    cross: NDArray[np.float64]
    parts: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]


class ChannelMoments:
    """Mean and deviation of each channel, over batches that are added one by one."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._count = 0
        self._sum: NDArray[np.float64] | float = 0.0
        self._squares: NDArray[np.float64] | float = 0.0

    def add(self, values: tf.Tensor) -> None:
        """Add a batch, float32 [n, ..., channels]."""
        mean, variance = tf.nn.moments(values, list(range(values.shape.rank - 1)))
        mean = mean.numpy().astype(np.float64)
        count = int(np.prod(values.shape[:-1]))
        self._count += count
        self._sum = self._sum + count * mean
        self._squares = self._squares + count * (variance.numpy().astype(np.float64) + mean**2)

    @property
    def mean(self) -> NDArray[np.float64]:
        """float64 [channels]."""
        return self._sum / self._count

    @property
    def std(self) -> NDArray[np.float64]:
        """float64 [channels], of the population."""
        return np.sqrt(np.maximum(self._squares / self._count - self.mean**2, 0.0))


def input_moments(
    node: Node, exact: Sequence[tf.Tensor], coded: Sequence[tf.Tensor], maximum_rows: int
) -> InputMoments:
    """Moments of the input patches of one layer.

    Args:
        node: a layer with weights, not a transposed convolution.
        exact: batches float32 [images, ...] of its input in the float network.
        coded: the same batches of its input in the quantized network.
        maximum_rows: how many patches are read at most, a regular sample of all.

    Returns:
        Moments in the order of the rows of `kernel_layout.kernel_groups`.
    """
    groups = group_count(node)
    # A group of few inputs has no others to lend its moment the energy that float32 would lose.
    precision = tf.float32 if groups == 1 else tf.float64
    kernel = tf.constant(kernel_groups(node), precision)
    # Centred moments do not depend on a shift of the input; near its mean float32 loses least.
    shifts = [tf.reduce_mean(b[0], list(range(b[0].shape.rank - 1))) for b in (exact, coded)]
    parts = [_Sums(), _Sums()]
    for position, exact_rows, coded_rows in sampled_patches(
        node, exact, coded, maximum_rows=maximum_rows
    ):
        z = tf.cast(_by_group(coded_rows - shifts[1], groups), precision)
        y = tf.matmul(tf.cast(_by_group(exact_rows - shifts[0], groups), precision), kernel)
        parts[position % 2].add(z, y)
    whole = parts[0] + parts[1]
    shift = _by_channel_group(shifts[1], groups)
    coded_moment, cross = whole.centred(shift)
    separate = all(part.count for part in parts)
    return InputMoments(
        coded_moment, cross, tuple(part.centred(shift) for part in parts) if separate else ()
    )


class _Sums:
    """Sums over patches, float64: of z z^T, z y^T, z and y."""

    def __init__(self) -> None:
        self.count = 0
        self.values: list[NDArray[np.float64] | float] = [0.0, 0.0, 0.0, 0.0]

    def add(self, z: tf.Tensor, y: tf.Tensor) -> None:
        """Add patches [g, rows, n], and what the float layer makes of them [g, rows, c]."""
        new = (
            tf.matmul(z, z, transpose_a=True),
            tf.matmul(z, y, transpose_a=True),
            tf.reduce_sum(z, 1),
            tf.reduce_sum(y, 1),
        )
        self.count += int(z.shape[1])
        self.values = [
            old + value.numpy().astype(np.float64)
            for old, value in zip(self.values, new, strict=True)
        ]

    def __add__(self, other: _Sums) -> _Sums:
        """Return the sums over the patches of both."""
        both = _Sums()
        both.count = self.count + other.count
        both.values = [old + new for old, new in zip(self.values, other.values, strict=True)]
        return both

    def centred(
        self, shift: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Moments about the mean, without what rounding leaves of an input that is constant."""
        squares, products, z_mean, y_mean = (value / self.count for value in self.values)
        coded = squares - z_mean[:, :, None] * z_mean[:, None, :]
        cross = products - z_mean[:, :, None] * y_mean[:, None, :]
        variance = np.einsum("gnn->gn", coded)
        of_taps = np.tile(shift, variance.shape[1] // shift.shape[1])
        power = variance + (z_mean + of_taps) ** 2
        lost = np.maximum(z_mean**2 * RESOLUTION, NEGLIGIBLE_POWER)
        constant = variance <= np.maximum(power * NEGLIGIBLE_VARIANCE, lost)
        coded[constant[:, :, None] | constant[:, None, :]] = 0.0
        cross[constant] = 0.0
        return coded, cross


def _by_channel_group(values: tf.Tensor, groups: int) -> NDArray[np.float64]:
    """Values of each input channel [c_in] as [groups, c_in / groups]."""
    return values.numpy().astype(np.float64).reshape(groups, -1)


def _by_group(rows: tf.Tensor, groups: int) -> tf.Tensor:
    """Patches [rows, taps, c_in] as [groups, rows, taps * c_in / groups]."""
    count, taps, channels = rows.shape
    split = tf.reshape(rows, [count, taps, groups, channels // groups])
    return tf.reshape(tf.transpose(split, [2, 0, 1, 3]), [groups, count, -1])
