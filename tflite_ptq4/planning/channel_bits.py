"""Bits of the channels of one tensor, where the config allocates them: the paper's way or exactly.

Source: arXiv 1810.05723, section 4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.graph import Node
from tflite_ptq4.numerics.bit_allocation import allocate_bits
from tflite_ptq4.planning.clipping import choose_clip
from tflite_ptq4.stats.tensor_statistics import TensorStatistics
from tflite_ptq4.weights.kernel_layout import kernel_matrix
from tflite_ptq4.weights.weight_error import weight_error_table


def allocated_weight_bits(node: Node, config: QuantizationConfig) -> NDArray[np.int64]:
    """Bits of each output channel of a layer, for the least error of its weights.

    Args:
        node: a layer with weights.
        config: says by which method, and how many bits on average.

    Returns:
        int64 [c_out].
    """
    weight = kernel_matrix(node)
    method = config.weight_bit_allocation
    return allocate_bits(
        np.abs(weight).max(axis=0),
        config.mean_weight_bits,
        method=method,
        minimum=config.minimum_bits,
        maximum=config.maximum_bits,
        error_table=weight_error_table(weight, config.maximum_bits) if method == "exact" else None,
    )


def allocated_activation_bits(
    statistics: TensorStatistics,
    config: QuantizationConfig,
    *,
    one_sided: bool,
    reader_energy: NDArray[np.float64] | None,
) -> NDArray[np.int64]:
    """Bits of each channel of an activation, for the least error that its readers see.

    Args:
        statistics: of the tensor, by channel.
        config: says by which method, and how many bits on average.
        one_sided: whether the tensor can hold no negative value.
        reader_energy: float64 [C], how much the readers amplify an error in each channel; None
            where that is not known.

    Returns:
        int64 [C].
    """
    widths = range(config.maximum_bits + 1)
    errors = np.stack(
        [
            choose_clip(statistics, bits, method="laplace", one_sided=one_sided).error
            for bits in widths
        ],
        axis=1,
    )
    clip = choose_clip(statistics, config.activation_bits, method="laplace", one_sided=one_sided)
    method = config.activation_bit_allocation
    return allocate_bits(
        np.maximum(clip.high, -clip.low),
        config.mean_activation_bits,
        method=method,
        minimum=config.minimum_bits,
        maximum=config.maximum_bits,
        weight=reader_energy if method == "exact" else None,
        error_table=errors if method == "exact" else None,
    )
