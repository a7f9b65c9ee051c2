"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR."""

from __future__ import annotations

import numpy as np

from integer_reference.tensors import Node, operator

_WEIGHT_BITS = 11


@operator("RESIZE_BILINEAR")
def _resize_bilinear(node: Node) -> np.ndarray:
    x, sides = node.values
    node.require_one_grid(0)
    (top, bottom, down), (left, right, across) = (
        _neighbours(before, int(after), node)
        for before, after in zip(x.shape[1:3], sides, strict=True)
    )
    in_float = node.kind(0) == "float"
    wide = x.astype(np.float64 if in_float else np.int64)
    one = 1.0 if in_float else 1 << _WEIGHT_BITS
    if not in_float:
        down, across = (np.rint(weight * one).astype(np.int64) for weight in (down, across))
    down, across = down[:, None, None], across[:, None]
    rows_above, rows_below = wide[:, top], wide[:, bottom]
    above, below = (
        rows[:, :, left] * one + (rows[:, :, right] - rows[:, :, left]) * across
        for rows in (rows_above, rows_below)
    )
    total = above * one + (below - above) * down
    # XNNPACK rounds q itself, halves up.
    return total if in_float else (total + (1 << 21)) >> 22


def _neighbours(before: int, after: int, node: Node) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along one axis: the two positions that each output lies between, and how far from the first.

    All of it in float32, as XNNPACK computes its table.
    """
    position = np.arange(after, dtype=np.float32)
    if node.options.alignCorners and after > 1:
        place = position * (np.float32(before - 1) / np.float32(after - 1))
    else:
        scale = np.float32(before) / np.float32(after)
        place = position * scale
        if node.options.halfPixelCenters:
            place = place + (np.float32(0.5) * scale - np.float32(0.5))
    place = np.clip(place, np.float32(0), np.float32(before - 1))
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, before - 1), place - first.astype(np.float32)


@operator("RESIZE_NEAREST_NEIGHBOR")
def _resize_nearest(node: Node) -> np.ndarray:
    x, sides = node.values
    node.require_one_grid(0)
    rows, columns = (
        _nearest(before, int(after), node)
        for before, after in zip(x.shape[1:3], sides, strict=True)
    )
    return x[:, rows][:, :, columns]


def _nearest(before: int, after: int, node: Node) -> np.ndarray:
    offset = np.float32(0.5 if node.options.halfPixelCenters else 0.0)
    position = np.arange(after, dtype=np.float32) + offset
    if node.options.alignCorners and after > 1:
        place = position * (np.float32(before - 1) / np.float32(after - 1))
        place = np.floor(place + np.float32(0.5))
    else:
        place = np.floor(position * (np.float32(before) / np.float32(after)))
    return np.clip(place, 0, before - 1).astype(np.int64)
