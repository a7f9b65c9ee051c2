"""Moments over the calibration images of what the weights of a layer are multiplied with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.image_batches import Batches
from tflite_ptq4.keras_side.layer_by_layer.input_patches import sampled_places
from tflite_ptq4.weights.kernel_layout import group_count, kernel_groups

PIECES = 2  # of each half of the images, that two threads can share
NEGLIGIBLE_VARIANCE = 1.0e-9  # of the mean square: float32 sums leave about as much of nothing
NEGLIGIBLE_POWER = 1.0e-30
RESOLUTION = 1.0e-6  # of float32 sums, relative to what is added up


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Centred second moments over the calibration images, one block for each group of a layer.

    Attributes:
        coded: float64 [g, n, n], E[x_q x_q^T] of the quantized input.
        cross: float64 [g, n, c], E[x_q y^T] with y the float layer's output; None after the refit.
        parts: float32, the same two of every other part of the images, and of the rest; empty
            where one part is all that there is.
        coded_mean: float64 [g, n], E x_q.
        output_mean: float64 [g, c], E y, y without the bias.
        output_variance: float64 [g, c].
    """

    coded: NDArray[np.float64]
    cross: NDArray[np.float64] | None
    parts: tuple[tuple[NDArray[np.float32], NDArray[np.float32] | None], ...]
    coded_mean: NDArray[np.float64]
    output_mean: NDArray[np.float64]
    output_variance: NDArray[np.float64]

    def without_cross(self) -> InputMoments:
        """Return what is needed after the refit, as of a wide layer `cross` takes much memory."""
        parts = tuple((coded, None) for coded, _ in self.parts)
        return replace(self, cross=None, parts=parts)


def input_moments(
    node: Node,
    exact: Batches,
    coded: Batches,
    maximum_rows: int,
    *,
    share: Callable[..., Iterable] = map,
) -> InputMoments:
    """Moments of the input patches of one layer.

    Args:
        node: a layer with weights, not a transposed convolution.
        exact: batches float32 [images, ...] of its input in the float network.
        coded: the same batches of its input in the quantized network.
        maximum_rows: how many patches are read at most, a regular sample of all.
        share: calls a function for each of many pieces, and gives the results in their order.

    Returns:
        Moments in the order of the rows of `kernel_layout.kernel_groups`.
    """
    groups = group_count(node)
    # A group of few inputs has no others to lend its moment the energy that float32 would lose.
    precision = tf.float32 if groups == 1 else tf.float64
    blocks = kernel_groups(node)
    kernel = tf.constant(blocks, precision)
    chunks = list(sampled_places(node, exact, maximum_rows=maximum_rows))
    # Centred moments do not depend on a shift of the input; near its mean float32 loses least.
    shifts = [tf.reduce_mean(batches.rows(*chunks[0]), [0, 1]) for batches in (exact, coded)]

    def sums(some: list[tuple[int, NDArray[np.int64]]]) -> _Sums:
        total = _Sums()
        for chunk in some:
            x, z = (
                tf.cast(_by_group(batches.rows(*chunk) - shift, groups), precision)
                for batches, shift in zip((exact, coded), shifts, strict=True)
            )
            total += _Sums.of(z, tf.matmul(x, kernel))
        return total

    parts = []
    for other in range(2):
        half = [chunk for chunk in chunks if chunk[0] % 2 == other]
        # Few pieces, as the sums of each are as large as those of all.
        pieces = [half[piece::PIECES] for piece in range(PIECES)]
        parts.append(sum(share(sums, pieces), _Sums()))
    whole = parts[0] + parts[1]
    of_exact, of_coded = (_along_taps(shift, blocks) for shift in shifts)
    centred = []
    if all(part.count for part in parts):
        while parts:  # each is let go of: of a wide layer they take much memory
            coded_part, cross_part = parts.pop(0).centred(of_coded)
            centred.append((coded_part.astype(np.float32), cross_part.astype(np.float32)))
    return InputMoments(
        *whole.centred(of_coded),
        parts=tuple(centred),
        coded_mean=whole.mean("z") + of_coded,
        output_mean=whole.mean("y") + np.einsum("gn,gnc->gc", of_exact, blocks),
        output_variance=np.maximum(whole.mean("yy") - whole.mean("y") ** 2, 0.0),
    )


@dataclass(frozen=True)
class _Sums:
    """Sums over patches of z z^T, z y^T, z, y and y^2, in the type of z and y."""

    count: int = 0
    values: Mapping[str, tf.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, z: tf.Tensor, y: tf.Tensor) -> _Sums:
        """The sums of patches [g, rows, n], of which the float layer makes y [g, rows, c]."""
        return cls(
            int(z.shape[1]),
            {
                "zz": _gram(z),
                "zy": tf.matmul(z, y, transpose_a=True),
                "z": tf.reduce_sum(z, 1),
                "y": tf.reduce_sum(y, 1),
                "yy": tf.reduce_sum(tf.square(y), 1),
            },
        )

    def mean(self, name: str) -> NDArray[np.float64]:
        """One of the sums over the count."""
        mean = self.values[name].numpy().astype(np.float64)
        mean /= self.count
        return mean

    def __add__(self, other: _Sums) -> _Sums:
        """Return the sums over the patches of both."""
        if not (self.count and other.count):
            return self if self.count else other
        values = {name: value + other.values[name] for name, value in self.values.items()}
        return _Sums(self.count + other.count, values)

    def centred(
        self, shift: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Moments about the mean, without what rounding leaves of an input that is constant.

        Args:
            shift: float64 [g, n], by which z lies below the input.
        """
        z_mean, y_mean = self.mean("z"), self.mean("y")
        coded, cross = self.mean("zz"), self.mean("zy")
        coded -= z_mean[:, :, None] * z_mean[:, None, :]
        cross -= z_mean[:, :, None] * y_mean[:, None, :]
        variance = np.einsum("gnn->gn", coded)
        power = variance + (z_mean + shift) ** 2
        lost = np.maximum(z_mean**2 * RESOLUTION, NEGLIGIBLE_POWER)
        constant = variance <= np.maximum(power * NEGLIGIBLE_VARIANCE, lost)
        coded[constant[:, :, None] | constant[:, None, :]] = 0.0
        cross[constant] = 0.0
        return coded, cross


def _gram(z: tf.Tensor) -> tf.Tensor:
    """z^T z of each group."""
    if len(z) > 1:
        return tf.matmul(z, z, transpose_a=True)
    # BLAS computes one half of a symmetric product; TensorFlow computes both.
    rows = z[0].numpy()
    return tf.constant((rows.T @ rows)[None])


def _along_taps(shift: tf.Tensor, blocks: NDArray) -> NDArray[np.float64]:
    """Values of each input channel [c_in] as one for each input of a group, [g, n]."""
    by_group = shift.numpy().astype(np.float64).reshape(len(blocks), -1)
    return np.tile(by_group, blocks.shape[1] // by_group.shape[1])


def _by_group(rows: tf.Tensor, groups: int) -> tf.Tensor:
    """Patches [rows, taps, c_in] as [groups, rows, taps * c_in / groups]."""
    count, taps, channels = rows.shape
    split = tf.reshape(rows, [count, taps, groups, channels // groups])
    return tf.reshape(tf.transpose(split, [2, 0, 1, 3]), [groups, count, -1])
