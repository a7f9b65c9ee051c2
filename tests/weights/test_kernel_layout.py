from __future__ import annotations

import numpy as np
import pytest
from tiny_graphs import weighted

from tflite_ptq4.graph import Node
from tflite_ptq4.weights.kernel_layout import (
    along_outputs,
    group_count,
    input_energy,
    kernel_from_groups,
    kernel_from_matrix,
    kernel_groups,
    kernel_matrix,
)


def _numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


LAYERS = {
    "conv": weighted("conv", "x", _numbered(2, 3, 4, 5)),
    "grouped": weighted("grouped", "x", _numbered(2, 3, 2, 6), groups=3),
    "depthwise": weighted("depthwise", "x", _numbered(2, 3, 4, 1), kind="depthwise_conv2d"),
    "multiplier": weighted("multiplier", "x", _numbered(2, 3, 4, 2), kind="depthwise_conv2d"),
    "dense": weighted("dense", "x", _numbered(7, 5), kind="dense"),
    "transpose": weighted("transpose", "x", _numbered(2, 3, 5, 4), kind="conv2d_transpose"),
}
every_layer = pytest.mark.parametrize("node", LAYERS.values(), ids=LAYERS)


@every_layer
def test_both_layouts_come_back(node: Node) -> None:
    np.testing.assert_array_equal(kernel_from_matrix(node, kernel_matrix(node)), node.kernel)
    np.testing.assert_array_equal(kernel_from_groups(node, kernel_groups(node)), node.kernel)
    other = node.kernel * -2
    np.testing.assert_array_equal(kernel_from_groups(node, kernel_groups(node, other)), other)


@every_layer
def test_a_column_holds_the_weights_of_one_output_channel(node: Node) -> None:
    matrix = kernel_matrix(node)
    assert matrix.shape == (node.kernel.size // node.output_channels, node.output_channels)
    for channel, column in enumerate(matrix.T):
        if node.kind == "depthwise_conv2d":  # output c * multiplier + j, as Keras orders them
            expected = node.kernel[:, :, *divmod(channel, node.kernel.shape[3])]
        elif node.kind == "conv2d_transpose":
            expected = node.kernel[:, :, channel]
        else:
            expected = node.kernel[..., channel]
        np.testing.assert_array_equal(column, expected.ravel())


@pytest.mark.parametrize(
    ("name", "groups", "weights", "outputs"),
    [
        ("conv", 1, 24, 5),  # 2 * 3 * 4 weights each
        ("grouped", 3, 12, 2),  # 2 * 3 * 2
        ("depthwise", 4, 6, 1),  # 2 * 3
        ("multiplier", 4, 6, 2),
        ("dense", 1, 7, 5),
        ("transpose", 1, 24, 5),
    ],
)
def test_groups_read_different_inputs(name: str, groups: int, weights: int, outputs: int) -> None:
    node = LAYERS[name]
    assert group_count(node) == groups
    stacked = kernel_groups(node)
    assert stacked.shape == (groups, weights, outputs)
    for group in range(groups):
        columns = kernel_matrix(node)[:, group * outputs : (group + 1) * outputs]
        np.testing.assert_array_equal(stacked[group], columns)


@every_layer
def test_values_per_output_meet_their_channel(node: Node) -> None:
    factors = np.arange(1.0, node.output_channels + 1)
    scaled = node.kernel * along_outputs(node, factors)
    np.testing.assert_array_equal(kernel_matrix(node, scaled), kernel_matrix(node) * factors)


@every_layer
def test_input_energy_is_the_gain_of_white_noise_on_one_channel(node: Node) -> None:
    """Each weight that reads channel c adds its square, whatever output it belongs to."""
    expected = {
        "conv": lambda k, c: k[:, :, c, :],
        "grouped": lambda k, c: k[:, :, c % 2, (c // 2) * 2 : (c // 2) * 2 + 2],
        "depthwise": lambda k, c: k[:, :, c, :],
        "multiplier": lambda k, c: k[:, :, c, :],
        "dense": lambda k, c: k[c],
        "transpose": lambda k, c: k[..., c],
    }[node.name]
    energy = input_energy(node)
    channels = {"grouped": 6, "dense": 7}.get(node.name, 4)
    assert energy.shape == (channels,)
    for channel in range(channels):
        assert energy[channel] == (expected(node.kernel.astype(float), channel) ** 2).sum()
