"""Pools, and reductions over whole axes."""

from __future__ import annotations

import numpy as np

from integer_reference.rounding import builtin_clipped, clipped, float_output
from integer_reference.tensors import Node, operator
from integer_reference.weighted import windows


@operator("MAX_POOL_2D")
def _max_pool(node: Node) -> np.ndarray:
    (x,) = node.values
    kind = node.kind(0)
    lowest = -np.inf if kind == "float" else np.iinfo(x.dtype).min
    size = (node.options.filterHeight, node.options.filterWidth)
    largest = windows(x, size, node.options, lowest).max(axis=(-2, -1))
    if kind == "float":
        return float_output(largest, node)
    node.require_one_grid(0)
    return clipped(largest, node)


@operator("AVERAGE_POOL_2D")
def _average_pool(node: Node) -> np.ndarray:
    (x,) = node.values
    size = (node.options.filterHeight, node.options.filterWidth)
    # Padded positions count neither in the sum nor in the divisor.
    count = windows(np.ones_like(x, np.int64), size, node.options).sum(axis=(-2, -1))
    if node.kind(0) == "float":
        total = windows(x.astype(np.float64), size, node.options).sum(axis=(-2, -1))
        return float_output(total / count, node)
    node.require_one_grid(0)
    total = windows(x.astype(np.int64), size, node.options).sum(axis=(-2, -1))
    # The builtin kernel rounds half away from zero on q itself, zero point included.
    return builtin_clipped(np.sign(total) * ((np.abs(total) + count // 2) // count), node)


@operator("MEAN")
def _mean(node: Node) -> np.ndarray:
    x, axes = node.values
    axes = tuple(int(axis) % x.ndim for axis in np.ravel(axes))
    keep = bool(node.options.keepDims)
    if node.kind(0) == "float":
        return x.astype(np.float64).mean(axis=axes, keepdims=keep)
    (scale_in, zero_in), (scale_out, zero_out) = node.inputs[0].grid, node.output.grid
    total = x.astype(np.int64).sum(axis=axes, keepdims=keep)
    count = int(np.prod([x.shape[axis] for axis in axes]))
    multiplier = scale_in / scale_out * (np.float32(1) / np.float32(count))
    # Unlike the convolutions, both zero points enter in float32 before the rounding.
    offset = np.float32(zero_out) - np.float32(zero_in * count) * multiplier
    return clipped(np.rint(total.astype(np.float32) * multiplier + offset), node)


@operator("SUM")
def _sum(node: Node) -> np.ndarray:
    x, axes = node.values
    if node.kind(0) != "float":
        raise node.unsupported("only float has a reference")
    axes = tuple(int(axis) % x.ndim for axis in np.ravel(axes))
    return x.astype(np.float64).sum(axis=axes, keepdims=bool(node.options.keepDims))


@operator("REDUCE_MAX")
def _reduce_max(node: Node) -> np.ndarray:
    x, axes = node.values
    node.require_one_grid(0)
    axes = tuple(int(axis) % x.ndim for axis in np.ravel(axes))
    return x.max(axis=axes, keepdims=bool(node.options.keepDims))
