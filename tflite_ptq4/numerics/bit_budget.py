"""Bits above the usual where they lower the error most, under a constraint on their average."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflite_ptq4.errors import DataError


def raise_bits(
    error: ArrayLike,
    size: ArrayLike,
    bits: ArrayLike,
    *,
    average: float,
    widths: Sequence[int],
) -> NDArray[np.float64]:
    """Raise bit widths one step at a time, each where the error falls most for a bit.

        small  sum of e_i 4^-(m_i - b_i)   with   sum of n_i m_i <= average * sum of n_i

    as one bit more makes the squared error of rounding four times smaller. A step that the budget
    no longer holds is passed over for the next best one.

    Args:
        error: float [K] >= 0, what rounding item i to b_i bits costs; 0 leaves the item as it is.
        size: float [K] > 0, numbers n_i that item i holds.
        bits: float [K], the usual widths b_i.
        average: mean bits of a number of all items that may not be exceeded.
        widths: to which an item can be raised, in rising order.

    Returns:
        float64 [K], the widths m_i >= b_i. Of equal steps the lowest index takes its own first.

    Raises:
        DataError: the arrays differ in length, or hold what is negative or not finite.

    Source: the error of uniform rounding, arXiv 1810.05723, section 3; the rule of equal slopes is
        that of section 4, between layers in place of channels.
    """
    error, size, bits = (np.asarray(values, np.float64) for values in (error, size, bits))
    if not error.shape == size.shape == bits.shape or error.ndim != 1:
        raise DataError(
            "`error`, `size` and `bits` must hold one value for each item. "
            f"Received: shapes {error.shape}, {size.shape} and {bits.shape}."
        )
    if not all(np.all(np.isfinite(values) & (values >= 0)) for values in (error, size, bits)):
        raise DataError(
            "`error`, `size` and `bits` must be finite and not negative. Received: values down to "
            f"{min(values.min(initial=0.0) for values in (error, size, bits))}. Check the images "
            "that they were measured on."
        )
    raised = bits.copy()
    left = average * size.sum() - float(bits @ size)

    def step(item: int) -> tuple[float, int, int] | None:
        """The next step of an item: what it gains for a bit, negative, the item, and the width."""
        width = next((width for width in widths if width > raised[item]), None)
        if width is None:
            return None
        before, after = 4.0 ** (bits[item] - raised[item]), 4.0 ** (bits[item] - width)
        slope = error[item] * (before - after) / ((width - raised[item]) * size[item])
        return -slope, item, width

    # The least of a heap is the largest gain, and of equal gains the lowest index.
    steps = [found for item in np.flatnonzero(error > 0) if (found := step(item)) is not None]
    heapq.heapify(steps)
    while steps:
        _, item, width = heapq.heappop(steps)
        if (width - raised[item]) * size[item] > left:
            continue  # nor will it, or a further one of this item, fit later
        left -= (width - raised[item]) * size[item]
        raised[item] = width
        if (found := step(item)) is not None:
            heapq.heappush(steps, found)
    return raised
