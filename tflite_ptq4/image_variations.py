"""More images from few: mirrored and shifted copies, where a network is only held against itself.

The corrections compare the quantized network with the float one, so an image needs no label, and
need not be one that the network was trained for: a mirrored photograph shows every layer a new
input, as another photograph would, though not as new a one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REACH = 0.125  # of a side, by which a copy is shifted at most


def with_variations(
    inputs: Sequence[NDArray[np.float32]], least: int
) -> tuple[NDArray[np.float32], ...]:
    """Return each image followed by varied copies of it, as many as it takes to have enough.

    The first copy is mirrored left to right, the second shifted, the third both, and so on, each
    shift a new one. What a shift uncovers is filled with the reflection of the image at its edge.
    A copy stands beside its image, so that both are held out together.

    Args:
        inputs: for each input of a model float32 [n, ...]. Images are [n, height, width, channels]
            with fewer channels than pixels on either side; other inputs are repeated as they are.
        least: how many images are enough.

    Returns:
        For each input float32 [n * k, ...] with the lowest k for which n * k >= least; the inputs
        themselves where they are enough, or where none of them holds images.
    """
    count = len(inputs[0])
    times = -(-least // count)
    if times <= 1 or not any(_holds_images(array) for array in inputs):
        return tuple(inputs)
    rng = np.random.default_rng(0)
    copies = [[array] for array in inputs]
    for copy in range(1, times):
        mirrored = copy % 2 == 1
        shifts = rng.uniform(-REACH, REACH, (count, 2)) if copy > 1 else np.zeros((count, 2))
        for found, array in zip(copies, inputs, strict=True):
            found.append(_varied(array, mirrored, shifts) if _holds_images(array) else array)
    return tuple(
        np.stack(found, axis=1).reshape(count * times, *found[0].shape[1:]) for found in copies
    )


def _holds_images(array: NDArray[np.float32]) -> bool:
    return array.ndim == 4 and array.shape[3] < min(array.shape[1:3])


def _varied(
    images: NDArray[np.float32], mirrored: bool, shifts: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Each image mirrored, if so, and shifted by fractions [n, 2] of its height and width."""
    height, width = images.shape[1:3]
    varied = np.empty_like(images)
    for number, (image, (down, right)) in enumerate(zip(images, shifts, strict=True)):
        rows, columns = _reflected(height, down), _reflected(width, right)
        varied[number] = image[rows][:, columns[::-1] if mirrored else columns]
    return varied


def _reflected(size: int, shift: float) -> NDArray[np.int64]:
    """For each position along a side the one that a shift by a fraction of the side puts there."""
    places = np.abs(np.arange(size) - round(shift * size))
    return np.where(places < size, places, 2 * (size - 1) - places)
