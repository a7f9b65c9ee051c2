"""Kernels in the layouts of TFLite's operators, and where operators keep them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.schema import BuiltinOperator, OperatorT
from tflite_ptq4.errors import ReadbackError, TargetError
from tflite_ptq4.graph import Node
from tflite_ptq4.tflite_fields import OPERATOR_NAMES
from tflite_ptq4.weights.kernel_layout import kernel_matrix

# The axis of the output channels, along which the scales lie.
WEIGHT_AXES = {
    BuiltinOperator.CONV_2D: 0,
    BuiltinOperator.DEPTHWISE_CONV_2D: 3,
    BuiltinOperator.FULLY_CONNECTED: 0,
    BuiltinOperator.TRANSPOSE_CONV: 0,
}

# Where the image, the kernel and the bias stand among an operator's inputs.
_INPUT_PLACES = {BuiltinOperator.TRANSPOSE_CONV: (2, 1, 3)}


def input_places(builtin: int) -> tuple[int, int, int]:
    """Places of the image, the kernel and the bias among the inputs of a weighted operator."""
    return _INPUT_PLACES.get(builtin, (0, 1, 2))


def with_weights(operator: OperatorT, builtin: int, kernel: int, bias: int) -> None:
    """Give a weighted operator another kernel and bias.

    Args:
        operator: changed in place.
        builtin: its code.
        kernel: the tensor of the kernel.
        bias: the tensor of the bias.
    """
    _, kernel_place, bias_place = input_places(builtin)
    inputs = [int(index) for index in operator.inputs]
    inputs += [-1] * (bias_place + 1 - len(inputs))
    inputs[kernel_place], inputs[bias_place] = kernel, bias
    operator.inputs = np.asarray(inputs, dtype=np.int32)


def weights_for_operator(node: Node, values: NDArray, builtin: int, shape: NDArray) -> NDArray:
    """A kernel in the layout of a TFLite operator.

        CONV_2D             [c_out, kh, kw, c_in / groups]
        DEPTHWISE_CONV_2D   [1, kh, kw, c_out]
        FULLY_CONNECTED     [c_out, c_in]
        TRANSPOSE_CONV      [c_out, kh, kw, c_in]

    Args:
        node: the layer.
        values: array in the layout of `node.kernel`.
        builtin: the operator that computes the layer in the file.
        shape: the shape of the operator's weights in the file.

    Returns:
        The values, of that shape.

    Raises:
        TargetError: another operator computes the layer.
    """
    if builtin not in WEIGHT_AXES:
        raise TargetError(
            f"Layer {node.name!r} ({node.layer_type}) must convert to one operator with weights. "
            f"Received: {OPERATOR_NAMES[builtin]} from TFLiteConverter. Leave the layer in float "
            f"with a rule: match: {node.name!r}, quantize: false."
        )
    matrix = kernel_matrix(node, values)
    if WEIGHT_AXES[builtin] == 0:
        matrix = matrix.T
    return np.ascontiguousarray(matrix).reshape(shape)


def require_own_weights(node: Node, builtin: int, found: NDArray, stand_in: float | None) -> None:
    """Be sure that an operator of the float file is the layer's.

    Args:
        node: the layer.
        builtin: the operator that computes it.
        found: the float weights of the operator.
        stand_in: the number in place of every weight, None for the folded weights themselves.

    Raises:
        TargetError: another operator computes the layer.
        ReadbackError: the weights are not this layer's.
    """
    kernel = node.kernel if stand_in is None else np.full(node.kernel.shape, stand_in, np.float32)
    if not np.array_equal(weights_for_operator(node, kernel, builtin, found.shape), found):
        raise ReadbackError(
            f"The converted file must hold the folded weights of layer {node.name!r}. Received: "
            "others. Please report this model."
        )
