"""Moments over the calibration images: of channels, and of what weights are multiplied with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.input_patches import sampled_patches
from tflite_ptq4.kernel_layout import group_count

NEGLIGIBLE_VARIANCE = 1.0e-9  # of the mean square: float32 sums leave about as much of nothing
NEGLIGIBLE_POWER = 1.0e-30


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Centred second moments over the calibration images, one block for each group of a layer.

    Attributes:
        coded: float64 [g, n, n], E[x_q x_q^T] of the quantized input.
        cross: float64 [g, n, n], E[x_q x_f^T] of quantized and float input.
    """

    coded: NDArray[np.float64]
    cross: NDArray[np.float64]


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
    node: Node, exact: Sequence[tf.Tensor], coded: Sequence[tf.Tensor]
) -> InputMoments:
    """Moments of the input patches of one layer.

    Args:
        node: a layer with weights, not a transposed convolution.
        exact: batches float32 [images, ...] of its input in the float network.
        coded: the same batches of its input in the quantized network.

    Returns:
        Moments in the order of the rows of `kernel_layout.kernel_groups`.
    """
    count = 0
    groups = group_count(node)
    sums = [0.0, 0.0, 0.0, 0.0]
    # Centred moments do not depend on a shift of the input; near its mean float32 loses least.
    shifts = [tf.reduce_mean(b[0], list(range(b[0].shape.rank - 1))) for b in (exact, coded)]
    for exact_rows, coded_rows in sampled_patches(node, exact, coded):
        x = _by_group(exact_rows - shifts[0], groups)
        z = _by_group(coded_rows - shifts[1], groups)
        parts = (
            tf.matmul(z, z, transpose_a=True),
            tf.matmul(z, x, transpose_a=True),
            tf.reduce_sum(z, 1),
            tf.reduce_sum(x, 1),
        )
        sums = [old + new.numpy().astype(np.float64) for old, new in zip(sums, parts, strict=True)]
        count += int(x.shape[1])
    coded_mean, exact_mean = sums[2] / count, sums[3] / count
    centred = sums[0] / count - coded_mean[:, :, None] * coded_mean[:, None, :]
    cross = sums[1] / count - coded_mean[:, :, None] * exact_mean[:, None, :]
    # What is left of a constant input is rounding, and no moment.
    shift = np.tile(
        _by_channel_group(shifts[1], groups), centred.shape[1] * groups // len(shifts[1])
    )
    variance = np.einsum("gnn->gn", centred)
    power = variance + (coded_mean + shift) ** 2
    constant = variance <= np.maximum(power * NEGLIGIBLE_VARIANCE, NEGLIGIBLE_POWER)
    varies = ~(constant[:, :, None] | constant[:, None, :])
    return InputMoments(coded=np.where(varies, centred, 0.0), cross=np.where(varies, cross, 0.0))


def _by_channel_group(values: tf.Tensor, groups: int) -> NDArray[np.float64]:
    """Values of each input channel [c_in] as [groups, c_in / groups]."""
    return values.numpy().astype(np.float64).reshape(groups, -1)


def _by_group(rows: tf.Tensor, groups: int) -> tf.Tensor:
    """Patches [rows, taps, c_in] as [groups, rows, taps * c_in / groups]."""
    count, taps, channels = rows.shape
    split = tf.reshape(rows, [count, taps, groups, channels // groups])
    return tf.reshape(tf.transpose(split, [2, 0, 1, 3]), [groups, count, -1])
