"""Mean and variance of each channel of a tensor over the calibration images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Of each channel of a tensor.

    Attributes:
        mean: float64 [channels].
        variance: float64 [channels], >= 0, of the population.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """float64 [channels], of the population."""
        return np.sqrt(self.variance)


def channel_moments(batches: Iterable[tf.Tensor]) -> ChannelMoments:
    """The moments over all batches.

    Args:
        batches: float32 [n, ..., channels] each.
    """
    count, total, squares = 0, 0.0, 0.0
    for values in batches:
        mean, variance = tf.nn.moments(values, list(range(values.shape.rank - 1)))
        mean = mean.numpy().astype(np.float64)
        rows = int(np.prod(values.shape[:-1]))
        count += rows
        total = total + rows * mean
        squares = squares + rows * (variance.numpy().astype(np.float64) + mean**2)
    mean = total / count
    return ChannelMoments(mean, np.maximum(squares / count - mean**2, 0.0))
