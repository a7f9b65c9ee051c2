"""Second moments of the patches that a layer reads, against numpy's own patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from kept_batches import batches_of
from tiny_graphs import weighted

from tflite_ptq4.graph import Node
from tflite_ptq4.keras_side.execution import linear
from tflite_ptq4.keras_side.layer_by_layer import input_patches
from tflite_ptq4.keras_side.layer_by_layer.channel_moments import channel_moments
from tflite_ptq4.keras_side.layer_by_layer.input_moments import input_moments
from tflite_ptq4.weights.kernel_layout import group_count, kernel_from_groups, kernel_groups

LAYERS = {
    "pointwise": ("conv2d", (1, 1, 4, 3), {}),
    "same": ("conv2d", (3, 3, 4, 3), {}),
    "valid": ("conv2d", (3, 2, 4, 3), {"padding": "valid"}),
    "strided": ("conv2d", (3, 3, 4, 3), {"strides": (2, 2)}),
    "strided pointwise": ("conv2d", (1, 1, 4, 3), {"strides": (2, 2)}),
    "dilated": ("conv2d", (3, 3, 4, 3), {"dilation_rate": (2, 2)}),
    "grouped": ("conv2d", (3, 3, 2, 6), {"groups": 2}),
    "depthwise": ("depthwise_conv2d", (3, 3, 4, 1), {}),
    "multiplier": ("depthwise_conv2d", (3, 3, 4, 2), {"strides": (2, 2)}),
    "dense": ("dense", (4, 5), {}),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def layer(name: str, rng: np.random.Generator) -> Node:
    kind, shape, changes = LAYERS[name]
    node = weighted("w", "x", rng.normal(size=shape), kind=kind, groups=changes.get("groups", 1))
    node.attributes.update(changes)
    return node


def inputs_of(name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = (40, 4) if name == "dense" else (6, 7, 8, 4)
    exact = rng.normal(1, 1, shape).astype(np.float32)
    return exact, (exact + rng.normal(0.3, 0.2, shape)).astype(np.float32)


def read_rows(node: Node, value: np.ndarray) -> np.ndarray:
    """What each group's weights meet, [g, positions, n]: one column for each unit kernel."""
    blocks = kernel_groups(node)
    groups, weights, outputs = blocks.shape
    rows = []
    for index in range(weights):
        unit = np.zeros(blocks.shape, np.float32)
        unit[:, index] = 1
        kernel = kernel_from_groups(node, unit)
        output = np.asarray(linear(node, value, kernel, np.zeros(node.output_channels, np.float32)))
        rows.append(output.reshape(-1, groups, outputs)[:, :, 0].T)
    return np.stack(rows, axis=2).astype(np.float64)


def centred(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = (rows - rows.mean(axis=1, keepdims=True) for rows in (left, right))
    return np.swapaxes(left, 1, 2) @ right / left.shape[1]


@every_layer
def test_moments_are_those_of_the_patches(name: str, rng: np.random.Generator) -> None:
    node = layer(name, rng)
    exact, coded = inputs_of(name, rng)
    found = input_moments(node, batches_of(exact), batches_of(coded), 1 << 20)
    x, z = read_rows(node, exact), read_rows(node, coded)
    count = node.kernel.size // node.output_channels
    kernel = kernel_groups(node)
    assert found.coded.shape == (group_count(node), count, count)
    assert found.cross.shape == kernel.shape
    assert found.coded.dtype == found.cross.dtype == np.float64
    np.testing.assert_allclose(found.coded, centred(z, z), atol=2e-5)
    np.testing.assert_allclose(found.cross, centred(z, x @ kernel_groups(node)), atol=2e-5)


@every_layer
def test_chunks_change_nothing(
    name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = layer(name, rng)
    tensors = [batches_of(value) for value in inputs_of(name, rng)]
    whole = input_moments(node, *tensors, 1 << 20)
    monkeypatch.setattr(input_patches, "_CHUNK_ELEMENTS", 1)
    pieces = input_moments(node, *tensors, 1 << 20)
    np.testing.assert_allclose(pieces.coded, whole.coded, atol=1e-5)
    np.testing.assert_allclose(pieces.cross, whole.cross, atol=1e-5)


@pytest.mark.parametrize("name", ["same", "depthwise", "dense"])
@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_a_bounded_sample_is_a_regular_one(
    name: str, chunk: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third row over all images, wherever the chunks end."""
    node = layer(name, rng)
    exact, coded = inputs_of(name, rng)
    x, z = read_rows(node, exact)[:, ::3], read_rows(node, coded)[:, ::3]
    monkeypatch.setattr(input_patches, "_CHUNK_ELEMENTS", chunk)
    found = input_moments(node, batches_of(exact), batches_of(coded), x.shape[1])
    np.testing.assert_allclose(found.coded, centred(z, z), atol=2e-5)
    np.testing.assert_allclose(found.cross, centred(z, x @ kernel_groups(node)), atol=2e-5)


def test_a_constant_input_has_no_moments() -> None:
    node = layer("same", np.random.default_rng(0))
    node.attributes["padding"] = "valid"
    value = np.full((2, 7, 8, 4), 3.0)
    found = input_moments(node, batches_of(value), batches_of(value), 1 << 20)
    np.testing.assert_allclose(found.coded, 0.0, atol=1e-6)
    assert (np.diagonal(found.coded, axis1=1, axis2=2) >= 0).all()


def test_moments_below_the_resolution_of_float32_are_none() -> None:
    """A channel that is 10 in the first batch, 10.001 in a corner of it, and 0 in all others."""
    node = layer("depthwise", np.random.default_rng(0))
    value = np.random.default_rng(1).normal(size=(64, 7, 8, node.kernel.shape[2]))
    value[..., 0] = 0.0
    value[0, ..., 0] = 10.0
    value[0, 0, 0, 0] = 10.001
    node.attributes["padding"] = "valid"
    batches = batches_of(value, 1)
    found = input_moments(node, batches, batches, 1 << 20)
    for coded, _ in (*found.parts, (found.coded, found.cross)):
        eigenvalues = np.linalg.eigvalsh(coded)
        assert np.all(eigenvalues[:, 0] >= -1e-3 * np.trace(coded, axis1=1, axis2=2))


def test_batches_change_nothing(rng: np.random.Generator) -> None:
    node = layer("same", rng)
    exact, coded = inputs_of("same", rng)
    whole = input_moments(node, batches_of(exact), batches_of(coded), 1 << 20)
    parts = input_moments(node, batches_of(exact, 4), batches_of(coded, 4), 1 << 20)
    np.testing.assert_allclose(parts.coded, whole.coded, atol=1e-5)
    np.testing.assert_allclose(parts.cross, whole.cross, atol=1e-5)


def test_the_parts_are_every_other_quarter_and_the_rest(rng: np.random.Generator) -> None:
    node = layer("same", rng)
    exact, coded = inputs_of("same", rng)
    batches = [batches_of(value, 2) for value in (exact, coded)]
    first, second = input_moments(node, *batches, 1 << 20).parts
    for part, chosen in ((first, [0, 1, 4, 5]), (second, [2, 3])):
        alone = input_moments(
            node, *(batches_of(value[chosen]) for value in (exact, coded)), 1 << 20
        )
        np.testing.assert_allclose(part[0], alone.coded, atol=1e-5)
        np.testing.assert_allclose(part[1], alone.cross, atol=1e-5)
    one_image = [batches_of(value[:1]) for value in (exact, coded)]
    assert input_moments(node, *one_image, 1 << 20).parts == ()
    together = [replace(value, parts=1) for value in batches]
    assert input_moments(node, *together, 1 << 20).parts == ()


def test_channel_moments_of_uneven_batches(rng: np.random.Generator) -> None:
    values = rng.normal(3.0, 2.0, (7, 4, 5, 3)).astype(np.float32)
    moments = channel_moments(map(tf.constant, (values[:4], values[4:6], values[6:])))
    np.testing.assert_allclose(moments.mean, values.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(moments.std, values.std(axis=(0, 1, 2)), rtol=1e-5)


@every_layer
def test_means_and_variances_are_those_of_the_layer(name: str, rng: np.random.Generator) -> None:
    node = layer(name, rng)
    exact, coded = inputs_of(name, rng)
    found = input_moments(node, batches_of(exact), batches_of(coded), 1 << 20)
    output = np.asarray(linear(node, exact, node.kernel, np.zeros(node.output_channels, "float32")))
    output = output.reshape(-1, node.output_channels).astype(np.float64)
    np.testing.assert_allclose(found.output_mean.ravel(), output.mean(axis=0), atol=2e-5)
    np.testing.assert_allclose(found.output_variance.ravel(), output.var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.coded_mean, read_rows(node, coded).mean(axis=1), atol=2e-5)


def test_what_rounding_leaves_of_a_constant_channel_is_no_moment(rng: np.random.Generator) -> None:
    """E[x^2] - E[x]^2 of a constant in float32 is about 1e-8 of the square, not zero."""
    node = layer("dense", rng)
    exact, coded = inputs_of("dense", rng)
    for value in (exact, coded):
        value[..., 0] = 0.1 + 1e-9 * rng.normal(size=value.shape[:-1])
    found = input_moments(node, batches_of(exact), batches_of(coded), 1 << 20)
    assert not found.coded[:, 0].any() and not found.coded[:, :, 0].any()
    assert not found.cross[:, 0].any()
    assert (np.diagonal(found.coded[:, 1:, 1:], axis1=1, axis2=2) > 0).all()
