"""From reals and from integers to integers, as LiteRT's kernels get there.

XNNPACK multiplies an int32 accumulator by one float32 and rounds once, to even ("fp32"
requantization). The builtin kernels multiply by a 31-bit integer, round, shift, and round again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from integer_reference.tensors import Node, Tensor

ACTIVATION_BOUNDS = {
    schema.ActivationFunctionType.NONE: (-np.inf, np.inf),
    schema.ActivationFunctionType.RELU: (0.0, np.inf),
    schema.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
    schema.ActivationFunctionType.RELU6: (0.0, 6.0),
}


def round_half_away(x: Any) -> Any:
    """To the nearest integer, halves away from zero, as std::round."""
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


# --- XNNPACK ---


def scale_ratio(node: Node, source: Tensor) -> np.float32:
    """float32(s_in / s_out)."""
    return source.grid[0] / node.output.grid[0]


def fp32_requantized(accumulator: np.ndarray, multiplier: np.ndarray, node: Node) -> np.ndarray:
    """clip(rint(float32(acc) * float32(multiplier)) + zp_out) to the fused activation."""
    scaled = accumulator.astype(np.float32) * np.asarray(multiplier, np.float32)
    return clipped(np.rint(scaled).astype(np.int64) + node.output.grid[1], node)


def clipped(q: np.ndarray, node: Node) -> np.ndarray:
    """Within the fused activation: round(bound/scale + zero point) in float32."""
    scale, zero_point = node.output.grid
    limits = np.float32(node.output.limits)
    low, high = (
        int(np.rint(np.clip(np.float32(bound) / scale + np.float32(zero_point), *limits)))
        for bound in ACTIVATION_BOUNDS[node.activation]
    )
    return np.clip(q, low, high)


# --- the builtin kernels ---


def builtin_clipped(
    q: np.ndarray, node: Node, bounds: tuple[float, float] | None = None
) -> np.ndarray:
    """Within the fused activation, or `bounds`: zero point + round_half_away(bound/scale)."""
    scale, zero_point = node.output.grid
    limits = np.float32(node.output.limits)
    low, high = (
        int(np.clip(round_half_away(np.float32(bound) / scale) + zero_point, *limits))
        for bound in bounds or ACTIVATION_BOUNDS[node.activation]
    )
    return np.clip(q, low, high)


def doubly_rounded(x: np.ndarray, multiplier: Any, halves_up: Any = False) -> np.ndarray:
    """x * multiplier by a 31-bit product, rounded twice.

    Args:
        x: int64 integers of 32 bits.
        multiplier: float64, a number or one for each channel on the last axis.
        halves_up: where the second rounding takes halves up, as the vector instructions do, and
            not away from zero, as C++ does; a truth value or one for each channel.
    """
    fixed, left, right = _fixed_point(multiplier)
    product = (x << left) * fixed
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    # C++ division truncates towards zero, unlike a shift.
    high = np.sign(product + nudge) * (np.abs(product + nudge) >> 31)
    remainder = high & ((1 << right) - 1)
    threshold = (((1 << right) - 1) >> 1) + ((high < 0) & ~np.asarray(halves_up))
    return (high >> right) + (remainder > threshold)


def _fixed_point(multiplier: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A factor as (integer of 31 bits, left shift, right shift)."""
    mantissa, exponent = np.frexp(np.asarray(multiplier, np.float64))
    fixed, exponent = (
        round_half_away(mantissa * 2.0**31).astype(np.int64),
        exponent.astype(np.int64),
    )
    carried = fixed == 1 << 31
    fixed, exponent = np.where(carried, fixed >> 1, fixed), exponent + carried
    fixed, exponent = np.where(exponent < -31, 0, fixed), np.where(exponent < -31, 0, exponent)
    return fixed, np.maximum(exponent, 0), np.maximum(-exponent, 0)


# --- functions of one value ---


def tabulated(
    node: Node, function: Callable[[np.ndarray], np.ndarray], *, builtin: bool = False
) -> np.ndarray:
    """A table over the 256 integers: real value, function, integer; to even, or away from zero."""
    (x,) = node.values
    if node.kind(0) == "float":
        return function(x.astype(np.float64)).astype(np.float32)
    (scale_in, zero_in), (scale_out, zero_out) = node.inputs[0].grid, node.output.grid
    low, high = node.inputs[0].limits
    q = np.arange(low, high + 1)
    if builtin:
        real = (scale_in * (q - zero_in).astype(np.float32)).astype(np.float64)
        value = function(real).astype(np.float32)
        steps = round_half_away(value * (np.float32(1) / scale_out))
    else:
        real = (q - zero_in) * np.float64(scale_in)
        steps = np.rint(function(real) / np.float64(scale_out))
    table = np.clip(steps + zero_out, *node.output.limits)
    return table[x.astype(np.int64) - low]


# --- float ---


def float_output(real: np.ndarray, node: Node) -> np.ndarray:
    """float32, within the fused activation."""
    low, high = ACTIVATION_BOUNDS[node.activation]
    return np.clip(real.astype(np.float32), np.float32(low), np.float32(high))
