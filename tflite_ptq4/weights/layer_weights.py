"""The quantized weights of one layer: integers, scales and bias, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.graph import Node
from tflite_ptq4.numerics.affine import dequantize
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.plan import TensorPlan
from tflite_ptq4.weights.kernel_layout import along_outputs, kernel_from_matrix

LEAST_GRID_BITS = 2  # a symmetric grid of one bit holds zero alone


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The quantized weights of one layer: W ~ scale * integers + offset, per output channel.

    Attributes:
        integers: int8, in the layout of `graph.Node.kernel`.
        scale: float64 [c_out], each a float32 value.
        bias: float64 [c_out], with every correction in it.
        offset: float64 [c_out], what the paper's own correction of the mean adds to every weight of
            a channel; zeros wherever weights lie on the integer grid.
        unrounded: float32, in the layout of the kernel, what the integers were rounded from, with
            the factors of later corrections; None where it was not kept.
    """

    integers: NDArray[np.int8]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    offset: NDArray[np.float64]
    unrounded: NDArray[np.float32] | None = None

    def dequantized(self, node: Node) -> NDArray[np.float32]:
        """The kernel that the integers stand for, float32 in the layout of `node.kernel`."""
        offset = along_outputs(node, self.offset)
        return (dequantize(self.integers, along_outputs(node, self.scale), 0) + offset).astype(
            np.float32
        )

    def bias_integers(self, input_plan: TensorPlan) -> NDArray[np.int32]:
        """The bias on the grid of the accumulator, whose step is s_input * s_weight."""
        steps = np.rint(self.bias / (input_plan.scale * self.scale))
        limit = np.iinfo(np.int32)
        return np.clip(steps, limit.min, limit.max).astype(np.int32)

    def stored_bias(self, input_plan: TensorPlan | None) -> NDArray[np.float32]:
        """The bias as an integer file holds it; unrounded where the input has no single scale."""
        if input_plan is None or input_plan.per_channel:
            return self.bias.astype(np.float32)
        return (self.bias_integers(input_plan) * (input_plan.scale * self.scale)).astype(np.float32)


def weight_grid(bits: NDArray[np.int64]) -> IntegerGrid:
    """The symmetric grid of a kernel, int bits per output channel."""
    return IntegerGrid(np.maximum(bits, LEAST_GRID_BITS), signed=True, narrow_range=True)


def layer_weights(
    node: Node,
    weight: NDArray[np.float64],
    integers: NDArray[np.int32],
    scale: NDArray[np.float64],
) -> LayerWeights:
    """Integers and scales of a layer, with the bias that it has, as one value.

    Args:
        node: the layer.
        weight: float64 [n, C] that the integers stand for, the float kernel or one near it.
        integers: int32 [n, C].
        scale: float64 [C].
    """
    dead = (weight == 0).all(axis=0)
    # The bias of a dead channel lies on the grid of a scale that nothing else determines.
    of_bias = max(float(np.abs(node.bias).max()), 1e-6) / 2**15
    scale = np.where(dead, of_bias if dead.all() else scale[~dead].max() / 2**12, scale)
    return LayerWeights(
        integers=kernel_from_matrix(node, integers).astype(np.int8),
        scale=as_float32(scale),
        bias=node.bias.astype(np.float64),
        offset=np.zeros(len(scale)),
        unrounded=node.kernel,
    )


def hold_bias(node: Node, weights: LayerWeights, input_plan: TensorPlan | None) -> LayerWeights:
    """Widen the scale of channels whose bias the accumulator cannot hold, and round again.

        s_w >= |b| / (s_input 2^30)

    The weights of such a channel are next to nothing beside its bias: a BatchNormalization that
    has all but switched the channel off. The other half of the accumulator is for the products.

    Args:
        node: the layer.
        weights: its quantized weights.
        input_plan: of the tensor that it reads.

    Returns:
        The weights, with another scale only where the bias asks for it.
    """
    if input_plan is None or input_plan.per_channel:
        return weights
    scale = np.maximum(weights.scale, as_float32(np.abs(weights.bias) / input_plan.scale / 2**30))
    ratio = along_outputs(node, weights.scale / scale)
    return replace(weights, integers=np.rint(weights.integers * ratio).astype(np.int8), scale=scale)


def as_float32(values: NDArray) -> NDArray[np.float64]:
    """The nearest float32 values, which a file holds scales in, as float64."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)
