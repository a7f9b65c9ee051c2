"""CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV and FULLY_CONNECTED.

XNNPACK takes them with int8 weights, and FULLY_CONNECTED with INT4 weights of even width. The rest
runs in the builtin kernels: a matrix product in vectors, but scalar code for groups, and for what
blocks of 8 leave of the channels of a depthwise or transposed convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.lib.stride_tricks import sliding_window_view

from integer_reference.rounding import (
    builtin_clipped,
    doubly_rounded,
    float_output,
    fp32_requantized,
)
from integer_reference.tensors import Node, Tensor, operator


def windows(
    x: np.ndarray,
    size: tuple[int, int],
    options: Any,
    fill: float = 0,
    dilation: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """[N,H,W,C] -> [N,outH,outW,C,kh,kw], SAME padding (more at the end) filled with `fill`."""
    stride = (options.strideH, options.strideW)
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    pads = [(0, 0)] * 4
    if options.padding == schema.Padding.SAME:
        for axis in (0, 1):
            length = x.shape[1 + axis]
            steps = -(-length // stride[axis])
            total = max((steps - 1) * stride[axis] + reach[axis] - length, 0)
            pads[1 + axis] = (total // 2, total - total // 2)
    padded = np.pad(x, pads, constant_values=fill)
    views = sliding_window_view(padded, reach, axis=(1, 2))
    return views[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def _conv_2d(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    options = node.options
    dilation = (options.dilationHFactor, options.dilationWFactor)
    views = windows(x, w.shape[1:3], options, dilation=dilation)
    groups = x.shape[-1] // w.shape[-1]
    columns = np.split(views, groups, axis=3)
    kernels = np.split(w.transpose(3, 1, 2, 0).reshape(-1, w.shape[0]), groups, axis=1)
    return np.concatenate(
        [c.reshape(*views.shape[:3], -1) @ k for c, k in zip(columns, kernels, strict=True)],
        axis=-1,
    )


def _depthwise_conv_2d(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    options = node.options
    dilation = (options.dilationHFactor, options.dilationWFactor)
    views = windows(x, w.shape[1:3], options, dilation=dilation)
    # Output channel c * multiplier + m reads input channel c.
    kernel = w.reshape(*w.shape[1:3], x.shape[-1], -1)
    product = np.einsum("nhwcij,ijcm->nhwcm", views, kernel, optimize=True)
    return product.reshape(*views.shape[:3], -1)


def _fully_connected(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    product = x.reshape(-1, w.shape[1]) @ w.T
    return product.reshape(*x.shape[:-1], -1) if node.options.keepNumDims else product


def _transpose_conv(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Each input position adds its kernel to the outputs that a convolution would read it from."""
    sides = node.values[0][1:3].tolist()
    stride = (node.options.strideH, node.options.strideW)
    kernel = w.shape[1:3]
    reach = [(n - 1) * s + k for n, s, k in zip(x.shape[1:3], stride, kernel, strict=True)]
    # Outputs beyond the reach of every kernel hold the bias alone.
    room = [max(r, side) for r, side in zip(reach, sides, strict=True)]
    total = np.zeros((len(x), *room, len(w)))
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            rows = slice(row, row + (x.shape[1] - 1) * stride[0] + 1, stride[0])
            columns = slice(column, column + (x.shape[2] - 1) * stride[1] + 1, stride[1])
            total[:, rows, columns] += x @ w[:, row, column].T
    top, left = (
        max(r - side, 0) // 2 if node.options.padding == schema.Padding.SAME else 0
        for r, side in zip(reach, sides, strict=True)
    )
    return total[:, top : top + sides[0], left : left + sides[1]]


# The accumulator of each operator, and the places of its image, weights and bias.
_PRODUCTS = {
    "CONV_2D": (_conv_2d, (0, 1, 2)),
    "DEPTHWISE_CONV_2D": (_depthwise_conv_2d, (0, 1, 2)),
    "FULLY_CONNECTED": (_fully_connected, (0, 1, 2)),
    "TRANSPOSE_CONV": (_transpose_conv, (2, 1, 3)),
}


@operator(*_PRODUCTS)
def _weighted(node: Node) -> np.ndarray:
    product, (image, weights, bias_place) = _PRODUCTS[node.name]
    x, w = node.values[image], node.values[weights]
    bias = node.values[bias_place] if len(node.values) > bias_place else None
    bias = 0 if bias is None else bias
    if node.kind(image, weights) == "float":
        total = product(node, x.astype(np.float64), w.astype(np.float64))
        return float_output(total + bias, node)
    source, kernel = node.inputs[image], node.inputs[weights]
    # Sums of int8 products stay far below 2^53, so float64 (and its fast matmul) is exact.
    total = product(
        node, source.centred(x).astype(np.float64), kernel.centred(w).astype(np.float64)
    )
    total += bias
    if _in_xnnpack(node, kernel, w):
        multiplier = source.grid[0] * kernel.scale / node.output.grid[0]
        return fp32_requantized(total, multiplier, node)
    multiplier = np.float64(source.grid[0]) * kernel.scale / np.float64(node.output.grid[0])
    q = doubly_rounded(total.astype(np.int64), multiplier, _in_vectors(node, x, w))
    return builtin_clipped(q + node.output.grid[1], node)


def _in_xnnpack(node: Node, kernel: Tensor, w: np.ndarray) -> bool:
    if node.name == "TRANSPOSE_CONV" and node.options.padding == schema.Padding.SAME:
        # Between kernels that do not reach one another there would be a padding below zero.
        return w.shape[1] >= node.options.strideH and w.shape[2] >= node.options.strideW
    return not kernel.packed or (node.name == "FULLY_CONNECTED" and w.shape[-1] % 2 == 0)


def _in_vectors(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Which output channels a builtin kernel rounds with vector instructions, on x86-64."""
    channels = np.arange(node.output.shape[-1])
    if node.name in ("DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        return channels < len(channels) // 8 * 8
    grouped = node.name == "CONV_2D" and x.shape[-1] != w.shape[-1]
    return np.full_like(channels, not grouped, dtype=bool)
