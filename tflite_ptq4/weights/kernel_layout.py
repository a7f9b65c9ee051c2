"""Kernels of every kind of layer in the two layouts that the numerics work on.

matrix  [n, c_out]      the n weights of each output channel in a column
groups  [g, n, c / g]   the same, where g groups of outputs read different inputs
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflite_ptq4.graph import Node


def kernel_matrix(node: Node, kernel: NDArray | None = None) -> NDArray:
    """The kernel as a matrix [n, c_out]: one column for each output channel.

    Args:
        node: an operator with weights.
        kernel: an array in the layout of `node.kernel`; the node's own where None.
    """
    kernel = node.kernel if kernel is None else kernel
    if node.kind == "depthwise_conv2d":
        return kernel.reshape(-1, kernel.shape[2] * kernel.shape[3])
    if node.kind == "conv2d_transpose":
        return np.swapaxes(kernel, 2, 3).reshape(-1, kernel.shape[2])
    return kernel.reshape(-1, kernel.shape[-1])


def kernel_from_matrix(node: Node, matrix: NDArray) -> NDArray:
    """The inverse of `kernel_matrix`: the matrix in the layout of `node.kernel`.

    Args:
        node: an operator with weights.
        matrix: [n, c_out].
    """
    if node.kind == "conv2d_transpose":
        height, width, outputs, inputs = node.kernel.shape
        return np.swapaxes(matrix.reshape(height, width, inputs, outputs), 2, 3)
    return matrix.reshape(node.kernel.shape)


def group_count(node: Node) -> int:
    """How many groups of outputs read different inputs: the channels of a depthwise kernel."""
    if node.kind == "depthwise_conv2d":
        return node.kernel.shape[2]
    return int(node.attributes.get("groups", 1))


def kernel_groups(node: Node, kernel: NDArray | None = None) -> NDArray:
    """The kernel as groups [g, n, c_out / g], the outputs of a group side by side.

    Args:
        node: an operator with weights.
        kernel: an array in the layout of `node.kernel`; the node's own where None.
    """
    matrix = kernel_matrix(node, kernel)
    groups = group_count(node)
    return np.moveaxis(matrix.reshape(len(matrix), groups, -1), 1, 0)


def kernel_from_groups(node: Node, groups: NDArray) -> NDArray:
    """The inverse of `kernel_groups`: the groups in the layout of `node.kernel`.

    Args:
        node: an operator with weights.
        groups: [g, n, c_out / g].
    """
    matrix = np.moveaxis(groups, 0, 1).reshape(groups.shape[1], -1)
    return kernel_from_matrix(node, matrix)


def along_outputs(node: Node, values: ArrayLike) -> NDArray:
    """Values per output channel [c_out] in a shape that broadcasts against `node.kernel`.

    Args:
        node: an operator with weights.
        values: [c_out].
    """
    values = np.asarray(values)
    if node.kind == "depthwise_conv2d":
        return values.reshape(node.kernel.shape[2:])
    if node.kind == "conv2d_transpose":
        return values[:, None]
    return values


def input_energy(node: Node) -> NDArray[np.float64]:
    """Sum of the squared weights that each input channel meets, float64 [c_in].

    White noise of variance v on channel c adds v times this to the sum of the output variances.
    """
    squares = node.kernel.astype(np.float64) ** 2
    if node.kind == "depthwise_conv2d":
        return squares.sum(axis=(0, 1, 3))
    if node.kind == "dense":
        return squares.sum(axis=1)
    if node.kind == "conv2d_transpose":
        return squares.sum(axis=(0, 1, 2))
    groups = group_count(node)
    by_group = squares.reshape(*squares.shape[:3], groups, -1).sum(axis=(0, 1, 4))
    return by_group.T.reshape(-1)
