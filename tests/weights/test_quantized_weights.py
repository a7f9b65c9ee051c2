from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_graphs import graph_of, plain, statistics_of, weighted

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerRule
from tflite_ptq4.graph import Node
from tflite_ptq4.plan import TensorPlan
from tflite_ptq4.planning.planner import build_plan
from tflite_ptq4.weights.kernel_layout import kernel_matrix
from tflite_ptq4.weights.layer_weights import LayerWeights
from tflite_ptq4.weights.quantized_weights import quantize_layer, quantize_weights, weight_scale

PLAIN = QuantizationConfig(bias_correction=False)
KERNELS = {
    "conv": ("conv2d", (3, 3, 4, 6), 1),
    "grouped": ("conv2d", (3, 3, 2, 6), 2),
    "depthwise": ("depthwise_conv2d", (3, 3, 4, 1), 1),
    "multiplier": ("depthwise_conv2d", (3, 3, 4, 2), 1),
    "dense": ("dense", (4, 6), 1),
    "transpose": ("conv2d_transpose", (3, 3, 6, 4), 1),
}
INPUT_CHANNELS = 4
every_kind = pytest.mark.parametrize("kind", KERNELS)


def layer(kind: str, seed: int = 0) -> Node:
    rng = np.random.default_rng(seed)
    operator, shape, groups = KERNELS[kind]
    kernel = rng.normal(0.05, 1, shape) * rng.uniform(0.1, 3, shape[-1])
    channels = weighted("w", "x", kernel, kind=operator).output_channels
    return weighted("w", "x", kernel, rng.normal(size=channels), kind=operator, groups=groups)


def constant_response(kind: str, node: Node, kernel: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The linear output, without bias, where every input channel holds its mean everywhere."""
    kernel = kernel.astype(np.float64)
    if kind == "dense":
        return mean @ kernel
    taps = kernel.sum(axis=(0, 1))  # [c_in / groups, c_out], or [c_in, multiplier]
    if node.kind == "depthwise_conv2d":
        return (mean[:, None] * taps).ravel()
    if node.kind == "conv2d_transpose":
        return taps @ mean
    groups = node.attributes["groups"]
    blocks = np.split(taps, groups, axis=1)
    return np.concatenate(
        [part @ block for part, block in zip(np.split(mean, groups), blocks, strict=True)]
    )


def quantized(node: Node, bits: object, config: QuantizationConfig, mean: object = 0.0):
    channels = node.output_channels
    return quantize_layer(
        node,
        np.broadcast_to(np.asarray(bits, np.int64), (channels,)),
        config,
        input_mean=np.broadcast_to(np.asarray(mean, np.float64), (INPUT_CHANNELS,)),
    )


def channel_means(node: Node, weights: LayerWeights) -> np.ndarray:
    return kernel_matrix(node, weights.dequantized(node).astype(np.float64)).mean(axis=0)


@every_kind
@given(data=st.data())
def test_every_weight_is_the_nearest_level_of_its_channel(kind: str, data: st.DataObject) -> None:
    node = layer(kind, data.draw(st.integers(0, 1000)))
    count = node.output_channels
    bits = np.array(data.draw(st.lists(st.integers(2, 8), min_size=count, max_size=count)))
    weights = quantized(node, bits, PLAIN)
    limit = 2 ** (bits - 1) - 1
    integers = kernel_matrix(node, weights.integers).astype(int)
    assert weights.integers.dtype == np.int8
    assert weights.integers.shape == node.kernel.shape
    assert (np.abs(integers) <= limit).all()
    error = kernel_matrix(node).astype(float) - integers * weights.scale
    inside = np.abs(kernel_matrix(node)) <= limit * weights.scale
    assert (
        np.abs(error)[inside] <= (0.5 + 1e-6) * np.broadcast_to(weights.scale, error.shape)[inside]
    ).all()
    assert (np.abs(integers) == limit)[~inside].all()
    np.testing.assert_array_equal(weights.scale, weights.scale.astype(np.float32))
    np.testing.assert_array_equal(weights.bias, node.bias.astype(float))
    np.testing.assert_array_equal(weights.offset, 0.0)


@every_kind
@pytest.mark.parametrize("bits", [0, 1])
@pytest.mark.parametrize("corrected", [False, True])
def test_a_channel_without_a_grid_becomes_its_mean(kind: str, bits: int, corrected: bool) -> None:
    node = layer(kind)
    mixed = np.full(node.output_channels, 4)
    mixed[[0, 1]] = bits
    config = QuantizationConfig(bias_correction=corrected)
    weights = quantized(node, mixed, config, mean=0.3)
    held = kernel_matrix(node, weights.dequantized(node))
    mean = kernel_matrix(node).astype(float).mean(axis=0)
    assert (mean[:2] != 0).all()
    for channel in (0, 1):
        np.testing.assert_allclose(held[:, channel], mean[channel], rtol=1e-6)
    assert len(np.unique(held[:, 2])) > 2


def test_a_channel_of_0_bits_and_mean_0_becomes_0() -> None:
    node = weighted("w", "x", np.array([[1.0, 2.0], [-1.0, 1.0]]), kind="dense")
    weights = quantize_layer(node, np.array([0, 4]), PLAIN, input_mean=np.zeros(2))
    np.testing.assert_array_equal(weights.dequantized(node)[:, 0], 0.0)


def test_a_dead_channel_keeps_its_bias() -> None:
    """All weights are 0, so the output is the bias, held on a grid of s_input * s_weight."""
    kernel = np.ones((3, 3, 2, 3))
    kernel[..., 1] = kernel[..., 2] = 0
    node = weighted("w", "x", kernel, [1.0, -3.7, 0.0])
    weights = quantized_two_inputs(node)
    for step in (1e-3, 0.1, 1.0):
        stored = weights.stored_bias(tensor_plan(scale=step))
        assert stored[1] == pytest.approx(-3.7, rel=2e-5)
        assert stored[2] == 0


def quantized_two_inputs(node: Node) -> LayerWeights:
    return quantize_layer(node, np.full(3, 4), PLAIN, input_mean=np.zeros(2))


def tensor_plan(*, scale: float | list[float]) -> TensorPlan:
    scales = np.atleast_1d(np.asarray(scale, float))
    return TensorPlan(
        name="x",
        source="x",
        bits=np.full(len(scales), 8),
        scale=scales,
        zero_point=np.zeros(len(scales), np.int64),
        method=("min_max",) * len(scales),
        reason="",
    )


def test_bias_integers_count_steps_of_the_accumulator() -> None:
    weights = LayerWeights(
        integers=np.zeros((1, 4), np.int8),
        scale=np.array([0.5, 0.25, 0.5, 0.5]),
        bias=np.array([3.0, -1.1, 0.5, 1e12]),
        offset=np.zeros(4),
    )
    plan = tensor_plan(scale=2.0)
    # 3 / (2 * 0.5) = 3; -1.1 / (2 * 0.25) = -2.2 -> -2; 0.5 / 1 = 0.5 -> 0 (half to even); clipped
    expected = [3, -2, 0, 2**31 - 1]
    np.testing.assert_array_equal(weights.bias_integers(plan), expected)
    np.testing.assert_array_equal(weights.stored_bias(plan), np.float32([3.0, -1.0, 0.0, 2.0**31]))
    for unrounded in (None, tensor_plan(scale=[2.0, 3.0])):
        np.testing.assert_array_equal(
            weights.stored_bias(unrounded), weights.bias.astype(np.float32)
        )


@every_kind
def test_correction_through_the_bias_keeps_the_expected_output(
    kind: str, rng: np.random.Generator
) -> None:
    node, mean = layer(kind), rng.normal(1, 1, INPUT_CHANNELS)
    weights = quantized(node, 3, QuantizationConfig(mean_correction="bias"), mean)
    exact = constant_response(kind, node, node.kernel, mean) + node.bias
    held = constant_response(kind, node, weights.dequantized(node), mean)
    np.testing.assert_allclose(held + weights.bias, exact, atol=1e-5)
    assert np.abs(held + node.bias - exact).max() > 1e-2  # and it is not so without


@every_kind
def test_moved_roundings_keep_the_mean_on_the_grid(kind: str) -> None:
    node = layer(kind)
    config = QuantizationConfig(
        mean_correction="roundings", variance_correction=False, weight_scale="max_abs"
    )
    weights = quantized(node, 4, config)
    count = node.kernel.size // node.output_channels
    missing = np.abs(channel_means(node, weights) - kernel_matrix(node).astype(float).mean(axis=0))
    assert (missing <= weights.scale / (2 * count) * (1 + 1e-5)).all()
    assert np.abs(weights.integers).max() <= 7
    np.testing.assert_array_equal(weights.offset, 0.0)
    nearest = quantized(node, 4, PLAIN.replace(weight_scale="max_abs"))
    moves = np.abs(weights.integers.astype(int) - nearest.integers)
    assert moves.max() == 1


@every_kind
def test_the_papers_correction_keeps_mean_and_deviation_of_each_channel(kind: str) -> None:
    node = layer(kind)
    weights = quantized(node, 5, QuantizationConfig(mean_correction="weights"))
    held = kernel_matrix(node, weights.dequantized(node)).astype(float)
    exact = kernel_matrix(node).astype(float)
    np.testing.assert_allclose(held.mean(axis=0), exact.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(held.std(axis=0), exact.std(axis=0), rtol=1e-5)
    assert (weights.offset != 0).any()


@every_kind
def test_the_papers_correction_is_its_formula(kind: str) -> None:
    """xi_c (Wq_c - E Wq_c) + E W_c, arXiv 1810.05723, section 5."""
    node = layer(kind)
    exact = kernel_matrix(node).astype(float)
    nearest = kernel_matrix(node, quantized(node, 5, PLAIN).dequantized(node)).astype(float)
    centred = nearest - nearest.mean(axis=0)
    xi = np.linalg.norm(exact - exact.mean(axis=0), axis=0) / np.linalg.norm(centred, axis=0)
    weights = quantized(node, 5, QuantizationConfig(mean_correction="weights"))
    held = kernel_matrix(node, weights.dequantized(node))
    np.testing.assert_allclose(held, xi * centred + exact.mean(axis=0), rtol=1e-5, atol=1e-6)


@every_kind
def test_each_part_of_the_correction_can_be_switched_off(kind: str) -> None:
    node, nearest = layer(kind), quantized(layer(kind), 3, PLAIN, mean=1.0)
    variance_only = quantized(node, 3, QuantizationConfig(mean_correction="none"), mean=1.0)
    np.testing.assert_array_equal(variance_only.integers, nearest.integers)
    np.testing.assert_array_equal(variance_only.bias, nearest.bias)
    assert (variance_only.scale != nearest.scale).any()
    mean_only = quantized(node, 3, QuantizationConfig(variance_correction=False), mean=1.0)
    np.testing.assert_array_equal(mean_only.integers, nearest.integers)
    np.testing.assert_array_equal(mean_only.scale, nearest.scale)
    assert (mean_only.bias != nearest.bias).any()


def test_one_scale_per_tensor_survives_the_correction() -> None:
    config = QuantizationConfig(weight_granularity="per_tensor")
    weights = quantized(layer("conv"), 4, config, mean=0.5)
    assert len(set(weights.scale)) == 1


@pytest.mark.parametrize("method", ["squared_error", "max_abs", "laplace", "gaussian"])
def test_every_scale_method_covers_the_bulk_of_the_weights(
    method: str, rng: np.random.Generator
) -> None:
    weight = rng.laplace(size=(500, 1)) * [0.1, 1, 10]
    scale = weight_scale(weight, np.full(3, 4), PLAIN.replace(weight_scale=method))
    np.testing.assert_allclose(scale[1:] / scale[:-1], 10, rtol=0.02)
    largest = np.abs(weight).max(axis=0)
    assert (scale * 7 <= largest * (1 + 1e-6)).all()
    if method == "max_abs":
        np.testing.assert_allclose(scale * 7, largest, rtol=1e-6)
    else:
        assert (scale * 7 < 0.99 * largest).all()  # they clip


def test_only_what_the_plan_quantizes_and_with_the_mean_of_its_own_input(
    rng: np.random.Generator,
) -> None:
    kernels = rng.normal(size=(3, 3, 3, 2, 2))
    graph = graph_of(
        weighted("first", "image", kernels[0], activation="relu"),
        weighted("kept", "first", kernels[1], activation="relu"),
        plain("pool", "max_pool", "kept"),
        weighted("last", "pool", kernels[2]),
    )
    config = QuantizationConfig(rules=(LayerRule(match="kept", quantize=False),))
    statistics = statistics_of(graph)
    plan = build_plan(graph, statistics, config)
    weights = quantize_weights(graph, plan, statistics)
    assert list(weights) == ["first", "last"]
    last = graph.producer["last"]
    expected = quantize_layer(last, np.full(2, 8), config, input_mean=statistics["pool"].mean)
    np.testing.assert_array_equal(weights["last"].bias, expected.bias)
    np.testing.assert_array_equal(weights["last"].integers, expected.integers)
