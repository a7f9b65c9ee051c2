"""How much the outputs of a network lose when one layer alone is quantized: the numbers of a layer.

For random signs v, each +1 or -1 with equal odds,

    E (v . J e)^2 = |J e|^2

(Hutchinson): with g = J^T v from one backward pass, g . e tells for every layer at once what its
own error e does to the outputs, to first order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.graph import Node
from tflite_ptq4.numerics.closeness import ratio_db
from tflite_ptq4.plan import TensorPlan
from tflite_ptq4.weights.kernel_layout import kernel_matrix
from tflite_ptq4.weights.layer_weights import LayerWeights
from tflite_ptq4.weights.weight_correction import output_shift


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer, and nothing else, does to the outputs of the network.

    Attributes:
        weights: relative squared error of the outputs, |error|^2 / |outputs|^2, of quantizing the
            weights; None where none are quantized.
        activation: the same of rounding the layer's output; None where it is not rounded.
        by_channel: `weights`, had only the weights of one output channel been quantized, for each
            of them; empty without weights.
    """

    weights: float | None = None
    activation: float | None = None
    by_channel: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """Both together: the errors are taken as independent."""
        return (self.weights or 0.0) + (self.activation or 0.0)

    @property
    def sqnr_db(self) -> float | None:
        """The SQNR of the outputs with this layer alone quantized; None without any error."""
        value = ratio_db(1.0, self.total)
        return value if math.isfinite(value) else None


def random_signs(
    rng: np.random.Generator, shape: tuple[int, ...], size: float
) -> NDArray[np.float32]:
    """Numbers +size and -size with equal odds.

    Args:
        rng: where they come from.
        shape: of the array.
        size: their magnitude.
    """
    return np.where(rng.random(shape) < 0.5, -size, size).astype(np.float32)


def weights_alone(
    node: Node,
    weights: LayerWeights,
    input_plan: TensorPlan | None,
    config: QuantizationConfig,
    input_mean: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel and bias of a layer that is quantized while all layers before it stay in float.

        W + (Wq - Wu), Wu being what the integers were rounded from

    The refit and the matching of a layer's output make up for the errors of the layers before it.
    In a network without those errors, they would be errors themselves: in ResNet-20 the deployed
    weights of the last layer alone cost two thousand times what quantizing that layer alone does.
    What is left is the error of the rounding; where the recipe corrects means, its mean is zero.

    Args:
        node: the layer.
        weights: its quantized weights, with what they were rounded from.
        input_plan: of the tensor that it reads, None where that is not quantized.
        config: what the weights were made with.
        input_mean: float64 [c_in], expected input in the float network.

    Returns:
        float32, the kernel in the layout of `node.kernel`, and the bias [c_out].
    """
    error = weights.dequantized(node).astype(np.float64) - weights.unrounded
    kernel = (node.kernel + error).astype(np.float32)
    if config.bias_correction or config.output_matching:
        shift = output_shift(node, -kernel_matrix(node, error), input_mean)
        return kernel, (node.bias + shift).astype(np.float32)
    return kernel, weights.stored_bias(input_plan)
