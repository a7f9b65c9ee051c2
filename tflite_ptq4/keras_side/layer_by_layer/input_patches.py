"""What a kernel sees at sampled output positions, gathered without computing the other ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.image_batches import Batches

_CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Windows:
    """Where a kernel looks at each output position; one entry per spatial axis.

    Attributes:
        sizes: of the input.
        outputs: number of output positions.
        kernel: taps.
        strides: between output positions.
        rates: between taps.
        before: padding in front.
    """

    sizes: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    rates: tuple[int, ...]
    before: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, sizes: tuple[int, ...]) -> Windows:
        """The windows of a convolution, or of a Dense layer, which looks at one position.

        Args:
            node: a layer with weights, not a transposed convolution.
            sizes: the spatial sizes of its input.
        """
        rank = len(sizes)
        if node.kind == "dense":
            ones, zeros = (1,) * rank, (0,) * rank
            return cls(sizes, sizes, ones, ones, ones, zeros)
        kernel, strides, rates = (
            tuple(int(entry) for entry in values[2 - rank : 2])
            for values in (
                node.kernel.shape,
                node.attributes["strides"],
                node.attributes["dilation_rate"],
            )
        )
        outputs, before = [], []
        for size, taps, stride, rate in zip(sizes, kernel, strides, rates, strict=True):
            reach = (taps - 1) * rate + 1
            same = node.attributes["padding"] == "same"
            count = ceil(size / stride) if same else (size - reach) // stride + 1
            outputs.append(count)
            before.append(max(0, (count - 1) * stride + reach - size) // 2 if same else 0)
        return cls(sizes, tuple(outputs), kernel, strides, rates, tuple(before))

    @property
    def positions(self) -> int:
        """Output positions per image."""
        return prod(self.outputs)

    @property
    def taps(self) -> int:
        """Taps of the kernel."""
        return prod(self.kernel)

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the taps lie in a batch of flattened images.

        Args:
            rows: int64 [n], output positions, counted through the images of a batch.

        Returns:
            int64 [n, taps], positions counted through the images of the batch; -1 for taps outside
            an image.
        """
        image, inside = np.divmod(rows, self.positions)
        place = np.broadcast_to(image[:, None], (len(rows), self.taps))
        within = np.ones(place.shape, dtype=bool)
        for axis, (output, tap) in enumerate(
            zip(_unravelled(inside, self.outputs), _taps(self.kernel), strict=True)
        ):
            at = output[:, None] * self.strides[axis] + tap * self.rates[axis] - self.before[axis]
            within &= (at >= 0) & (at < self.sizes[axis])
            place = place * self.sizes[axis] + at
        return np.where(within, place, -1)


def sampled_places(
    node: Node, inputs: Batches, *, maximum_rows: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Where a regular sample of the patches of a layer lies, in chunks.

    Args:
        node: a layer with weights, not a transposed convolution.
        inputs: the batches float32 [images, ..., c_in] of the tensor that it reads.
        maximum_rows: how many patches the sample holds at most.

    Yields:
        The number of a part of the images, and int64 [rows, taps], positions counted through its
        images; -1 where the kernel looks at padding.
    """
    windows = Windows.of(node, inputs.shape[:-1])
    step = max(1, _CHUNK_ELEMENTS // (windows.taps * inputs.shape[-1]))
    for part, chosen in inputs.sample(windows.positions, maximum_rows):
        for start in range(0, len(chosen), step):
            yield part, windows.places(chosen[start : start + step])


def _unravelled(rows: NDArray[np.int64], sizes: tuple[int, ...]) -> tuple[NDArray, ...]:
    return np.unravel_index(rows, sizes) if sizes else ()


def _taps(kernel: tuple[int, ...]) -> tuple[NDArray, ...]:
    return _unravelled(np.arange(prod(kernel)), kernel)
