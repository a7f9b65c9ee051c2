"""Functions of one value, and SOFTMAX; some of them in float only."""

from __future__ import annotations

import numpy as np
from scipy.special import erf

from integer_reference.rounding import (
    builtin_clipped,
    doubly_rounded,
    round_half_away,
    scale_ratio,
    tabulated,
)
from integer_reference.tensors import Node, operator

_RELU_BOUNDS = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


@operator(*_RELU_BOUNDS)
def _relu(node: Node) -> np.ndarray:
    (x,) = node.values
    bounds = _RELU_BOUNDS[node.name]
    if node.kind(0) == "float":
        return np.clip(x, *map(np.float32, bounds))
    q = doubly_rounded(node.inputs[0].centred(x), scale_ratio(node, node.inputs[0]))
    return builtin_clipped(q + node.output.grid[1], node, bounds)


@operator("LEAKY_RELU")
def _leaky_relu(node: Node) -> np.ndarray:
    (x,) = node.values
    slope = np.float32(node.options.alpha)
    if node.kind(0) == "float":
        return np.where(x >= 0, x, x * slope)
    ratio = scale_ratio(node, node.inputs[0])
    slopes = (ratio, ratio * slope)
    centred, zero_out = node.inputs[0].centred(x), node.output.grid[1]
    if all(2.0**-8 <= abs(factor) <= 2.0**7 for factor in slopes):
        # XNNPACK carries both slopes with 8 fractional bits.
        up, down = (int(np.rint(np.float32(256) * factor)) for factor in slopes)
        q = (centred * np.where(centred > 0, up, down) + 128) >> 8
    else:
        up, down = (doubly_rounded(centred, factor) for factor in slopes)
        q = np.where(centred >= 0, up, down)
    return np.clip(q + zero_out, *node.output.limits)


@operator("PRELU")
def _prelu(node: Node) -> np.ndarray:
    x, slope = node.values
    if node.kind(0, 1) == "float":
        return np.where(x >= 0, x, x * slope)
    ratio = scale_ratio(node, node.inputs[0])
    centred, slopes = node.inputs[0].centred(x), node.inputs[1].centred(slope)
    scale_in, scale_slope, scale_out = (t.grid[0] for t in (*node.inputs, node.output))
    kept = doubly_rounded(centred, ratio)
    bent = doubly_rounded(centred * slopes, scale_in * scale_slope / scale_out)
    q = np.where(centred >= 0, kept, bent) + node.output.grid[1]
    return np.clip(q, *node.output.limits)


@operator("ELU")
def _elu(node: Node) -> np.ndarray:
    return tabulated(node, lambda x: np.where(x < 0, np.expm1(x), x), builtin=True)


@operator("GELU")
def _gelu(node: Node) -> np.ndarray:
    def exact(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    def approximate(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    return tabulated(node, approximate if node.options.approximate else exact, builtin=True)


@operator("LOGISTIC")
def _logistic(node: Node) -> np.ndarray:
    return tabulated(node, lambda x: 1 / (1 + np.exp(-x)))


@operator("TANH")
def _tanh(node: Node) -> np.ndarray:
    return tabulated(node, np.tanh)


_FLOAT_FUNCTIONS = {
    "ROUND": np.rint,
    "NEG": np.negative,
    "SIN": np.sin,
    "COS": np.cos,
    "EXP": np.exp,
    "SQUARE": np.square,
}


@operator(*_FLOAT_FUNCTIONS)
def _float_function(node: Node) -> np.ndarray:
    (x,) = node.values
    if node.kind(0) != "float":
        raise node.unsupported("only float has a reference")
    return _FLOAT_FUNCTIONS[node.name](x.astype(np.float64))


@operator("RSQRT")
def _rsqrt(node: Node) -> np.ndarray:
    (x,) = node.values
    if node.kind(0) == "float":
        with np.errstate(divide="ignore"):
            return 1 / np.sqrt(x.astype(np.float64))
    (scale_in, _), (scale_out, zero_out) = node.inputs[0].grid, node.output.grid
    low, high = node.output.limits
    factor = 1.0 / np.float64(np.sqrt(scale_in) * scale_out)
    roots = np.array([_inverse_root(q) for q in range(256)])
    table = doubly_rounded(roots, factor / 2.0**20) + zero_out
    table[0] = high
    return np.clip(table, low, high)[node.inputs[0].centred(x)]


def _inverse_root(q: int) -> int:
    """2^20 / sqrt(q) by Newton's method, y (3 - x y^2) / 2, as gemmlowp's fixed point does it.

    Numbers have 28 fractional bits, x is in [1/4, 1) and begins at y = 1.
    """
    if q <= 1:
        return 1 << 20
    pairs = (31 - q.bit_length()) // 2 - 1  # of bits, until the highest is bit 27 or 28
    x = (q << (2 * pairs)) >> 1
    half_x, three_halves, y = (x + 1) >> 1, 3 << 27, 1 << 28
    for _ in range(5):
        cube = _gemmlowp_product(_gemmlowp_product(y, y), y) << 6
        y = (_gemmlowp_product(three_halves, y) - _gemmlowp_product(half_x, cube)) << 3
    y = _gemmlowp_product(y, 1518500250)  # sqrt(1/2), 31 fractional bits
    shift = pairs - 11 + 20  # of y, with 31 fractional bits, to 2^20 / sqrt(q)
    if shift >= 0:
        return _gemmlowp_product(1 << shift, y)
    half = (1 << -shift) >> 1
    return (_gemmlowp_product(1, y) + half) >> -shift


def _gemmlowp_product(a: int, b: int) -> int:
    """a b / 2^31, to the nearest, of positive numbers."""
    return (a * b + (1 << 30)) >> 31


@operator("HARD_SWISH")
def _hard_swish(node: Node) -> np.ndarray:
    """x relu6(x + 3) / 6 on 16-bit integers: x with 7 more bits, the gate with 15 fractional ones.

    Both factors are 16-bit too, m 2^(e-15), rounded from 31-bit ones.
    """
    (x,) = node.values
    if node.kind(0) == "float":
        return x * np.clip(x + np.float32(3), 0, 6) * np.float32(1 / 6)
    (scale_in, _), (scale_out, zero_out) = node.inputs[0].grid, node.output.grid
    fine = scale_in / np.float32(128)
    output_factor, output_shift = _sixteen_bits(fine / scale_out)
    gate_factor, gate_shift = _sixteen_bits(fine / (np.float32(3) / np.float32(32768)))
    if not -15 <= output_shift <= 0:
        raise node.unsupported(f"a shift by {-output_shift} leaves the 16 bits of the kernel")

    high = node.inputs[0].centred(x) * 128
    gate = high
    if gate_shift > 0:  # in two steps: the last bit only after the product
        gate = _saturated(gate << (gate_shift - 1))
    gate = _high_product(gate, gate_factor)
    if gate_shift > 0:
        gate = _saturated(gate << 1)
    gate = _divided(gate, max(-gate_shift, 0))
    gate = (gate + 32768) >> 1  # [-1, 1] to [0, 1]

    product = gate * _high_product(high, output_factor)
    product = np.sign(product) * (np.abs(product) >> 15)  # this one truncates
    q = _divided(product, -output_shift)
    return np.clip(q + zero_out, *node.output.limits)


def _sixteen_bits(factor: np.float32) -> tuple[int, int]:
    mantissa, exponent = np.frexp(np.float64(factor))
    long = int(round_half_away(mantissa * 2.0**31))
    if long == 1 << 31:
        long, exponent = long >> 1, exponent + 1
    return min((long + (1 << 15)) >> 16, 32767), int(exponent)


def _saturated(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def _high_product(x: np.ndarray, factor: int) -> np.ndarray:
    return (x * factor + (1 << 14)) >> 15


def _divided(x: np.ndarray, bits: int) -> np.ndarray:
    """x / 2^bits, halves away from zero."""
    return np.sign(x) * ((np.abs(x) + ((1 << bits) >> 1)) >> bits)


@operator("SOFTMAX")
def _softmax(node: Node) -> np.ndarray:
    (x,) = node.values
    if node.kind(0) == "float":
        below = (x - x.max(axis=-1, keepdims=True)).astype(np.float64)
        powers = np.exp(below * node.options.beta)
        return powers / powers.sum(axis=-1, keepdims=True)
    scale_in, _ = node.inputs[0].grid
    scale_out, zero_out = node.output.grid
    # The builtin kernel tabulates exp in float32, then sums and rescales in float32.
    below = x.astype(np.int32) - x.max(axis=-1, keepdims=True).astype(np.int32)
    exponent = below.astype(np.float32) * (scale_in * np.float32(node.options.beta))
    powers = np.exp(exponent.astype(np.float64)).astype(np.float32)
    total = np.cumsum(powers, axis=-1, dtype=np.float32)[..., -1:]
    share = powers * (np.float32(1) / (total * scale_out))
    return np.clip(round_half_away(share) + zero_out, *node.output.limits)
