"""Sums, differences, products and extrema of two tensors, and their concatenation."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from integer_reference.rounding import (
    builtin_clipped,
    clipped,
    doubly_rounded,
    float_output,
    fp32_requantized,
    scale_ratio,
)
from integer_reference.tensors import Node, operator


@operator("ADD", "SUB")
def _add_sub(node: Node) -> np.ndarray:
    a, b = node.values
    sign = 1 if node.name == "ADD" else -1
    if node.kind(0, 1) == "float":
        return float_output(a + sign * b, node)
    ratios = [scale_ratio(node, tensor) for tensor in node.inputs]
    if not all(2.0**-10 <= ratio < 2.0**8 for ratio in ratios):
        return _builtin_add_sub(node, sign)
    (_, zero_a), (_, zero_b), (_, zero_out) = (t.grid for t in (*node.inputs, node.output))
    shift = 20 - (int(np.frexp(max(ratios))[1]) - 1)
    # A float32 times a power of two is exact, so this is one rounding to an integer.
    factor_a, factor_b = (int(np.rint(np.float64(ratio) * 2.0**shift)) for ratio in ratios)
    factor_b *= sign
    bias = (1 << (shift - 1)) - factor_a * zero_a - factor_b * zero_b
    total = a.astype(np.int64) * factor_a + b.astype(np.int64) * factor_b + bias
    return clipped((total >> shift) + zero_out, node)


def _builtin_add_sub(node: Node, sign: int) -> np.ndarray:
    """Scales too far apart for XNNPACK: both terms on twice the larger one, with 20 more bits."""
    twice = 2.0 * max(tensor.grid[0] for tensor in node.inputs)
    a, b = (
        doubly_rounded(tensor.centred(value) << 20, tensor.grid[0] / twice)
        for tensor, value in zip(node.inputs, node.values, strict=True)
    )
    scale_out, zero_out = node.output.grid
    q = doubly_rounded(a + sign * b, twice / (2.0**20 * scale_out)) + zero_out
    return _builtin_output(q, node)


def _builtin_output(q: np.ndarray, node: Node) -> np.ndarray:
    if np.abs(q).max(initial=0) > np.iinfo(np.int16).max:
        raise node.unsupported("LiteRT wraps around where a result leaves 16 bits")
    return builtin_clipped(q, node)


@operator("MUL")
def _mul(node: Node) -> np.ndarray:
    a, b = node.values
    if node.kind(0, 1) == "float":
        return float_output(a * b, node)
    product = node.inputs[0].centred(a) * node.inputs[1].centred(b)
    scale_a, scale_b, scale_out = (t.grid[0] for t in (*node.inputs, node.output))
    multiplier = scale_a * scale_b / scale_out
    if 2.0**-16 <= multiplier < 2.0**8:
        return fp32_requantized(product, multiplier, node)
    return _builtin_output(doubly_rounded(product, multiplier) + node.output.grid[1], node)


_FLOAT_JOINS = {
    "SQUARED_DIFFERENCE": lambda a, b: np.square(a - b),
    "GREATER": np.greater,
    "SELECT": np.where,
    "SELECT_V2": np.where,
}


@operator(*_FLOAT_JOINS)
def _float_join(node: Node) -> np.ndarray:
    if any(tensor.is_quantized for tensor in node.inputs):
        raise node.unsupported("only float has a reference")
    return _FLOAT_JOINS[node.name](*node.values)


@operator("MINIMUM", "MAXIMUM")
def _minimum_maximum(node: Node) -> np.ndarray:
    node.require_one_grid(0, 1)
    return (np.minimum if node.name == "MINIMUM" else np.maximum)(*node.values)


@operator("CONCATENATION")
def _concatenation(node: Node) -> np.ndarray:
    node.require_one_grid(*range(len(node.inputs)))
    if node.activation != schema.ActivationFunctionType.NONE:
        raise node.unsupported("LiteRT ignores the fused activation of a CONCATENATION")
    return np.concatenate(node.values, axis=node.options.axis)
