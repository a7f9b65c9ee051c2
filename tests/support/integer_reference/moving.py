"""Operators that move values, and those that only change how values are stored."""

from __future__ import annotations

import numpy as np

from integer_reference.rounding import clipped, scale_ratio
from integer_reference.tensors import Node, operator


@operator("PAD", "PADV2")
def _pad(node: Node) -> np.ndarray:
    x, widths = node.values[:2]
    fill = 0 if node.output.is_float else node.output.grid[1]
    node.require_one_grid(0)
    if node.name == "PADV2":
        fill = node.values[2].item()
    return np.pad(x, widths.astype(np.int64), constant_values=fill)


@operator("RESHAPE")
def _reshape(node: Node) -> np.ndarray:
    (x,) = node.values[:1]
    shape = list(node.output.shape)
    # A larger batch than the file's goes to the leading dimension.
    if x.size != np.prod(shape):
        shape[0] = -1
    return x.reshape(shape)


@operator("TRANSPOSE")
def _transpose(node: Node) -> np.ndarray:
    node.require_one_grid(0)
    return node.values[0].transpose(node.values[1])


@operator("STRIDED_SLICE")
def _strided_slice(node: Node) -> np.ndarray:
    x, begin, end, strides = node.values
    options = node.options
    node.require_one_grid(0)
    if options.ellipsisMask or options.newAxisMask:
        raise node.unsupported("masks of an ellipsis and of a new axis have no reference")
    return x[
        tuple(
            int(begin[axis])
            if options.shrinkAxisMask >> axis & 1
            else slice(
                None if options.beginMask >> axis & 1 else int(begin[axis]),
                None if options.endMask >> axis & 1 else int(end[axis]),
                int(strides[axis]),
            )
            for axis in range(len(begin))
        )
    ]


@operator("DEPTH_TO_SPACE")
def _depth_to_space(node: Node) -> np.ndarray:
    (x,) = node.values
    node.require_one_grid(0)
    block = node.options.blockSize
    batch, rows, columns, channels = x.shape
    blocks = x.reshape(batch, rows, columns, block, block, channels // block**2)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * block, columns * block, -1)


@operator("QUANTIZE")
def _quantize(node: Node) -> np.ndarray:
    (x,) = node.values
    (source,) = node.inputs
    scale, zero_point = node.output.grid
    if source.is_float:
        return clipped(np.rint(x * (np.float32(1) / scale)) + zero_point, node)
    ratio = scale_ratio(node, source)
    if not 2.0**-8 <= ratio < 2.0**7:
        raise node.unsupported(f"scale ratio {ratio} is outside [2^-8, 2^7), so not in XNNPACK")
    # The int8 converter carries the scale ratio with 8 fractional bits.
    factor = int(np.rint(np.float32(256) * ratio))
    return clipped(((source.centred(x) * factor + 128) >> 8) + zero_point, node)


@operator("DEQUANTIZE")
def _dequantize(node: Node) -> np.ndarray:
    (x,), (source,) = node.values, node.inputs
    if source.is_float:
        return x.astype(np.float32)
    return source.centred(x).astype(np.float32) * source.per_axis(source.scale, x.ndim)
