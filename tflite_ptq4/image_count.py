"""How many images the corrections go through at an effort, and which ones of those given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.errors import DataError
from tflite_ptq4.image_variations import with_variations

# By the effort of the config. Time and memory grow with the images, what they teach ever less.
LEAST_IMAGES = {"fast": 32, "balanced": 64, "best": 128}
MOST_IMAGES = {"fast": 32, "balanced": 256, "best": 2_048}


def images_for(
    inputs: Sequence[NDArray[np.float32]], effort: str, *, varied: bool
) -> tuple[NDArray[np.float32], ...]:
    """The images that an effort goes through: copies join too few, some stand for too many.

    Args:
        inputs: for each input of a model float32 [n, ...].
        effort: of the config.
        varied: whether varied copies may join.

    Returns:
        The same inputs, each with as many images as all others.
    """
    found = with_variations(inputs, LEAST_IMAGES[effort]) if varied else tuple(inputs)
    chosen = evenly_spread(len(found[0]), MOST_IMAGES[effort])
    if len(chosen) == len(found[0]):
        return found
    return tuple(array[chosen] for array in found)


def evenly_spread(total: int, most: int | None) -> NDArray[np.int64]:
    """The numbers of so many items at most, from the first to the last: int64 [n], ascending.

    Args:
        total: how many items there are.
        most: how many are wanted at most; None for all.

    Raises:
        DataError: `most` is below 1.
    """
    if most is not None and most < 1:
        raise DataError(f"`samples` must be at least 1. Received: {most}. Leave it out for all.")
    if most is None or most >= total:
        return np.arange(total)
    return np.linspace(0, total - 1, most).round().astype(np.int64)
