"""Tensors over all images, kept in few bytes."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from tflite_ptq4.keras_side import image_batches
from tflite_ptq4.keras_side.fake_quantization import fake_quantize
from tflite_ptq4.keras_side.image_batches import (
    Batches,
    DerivedValues,
    KeptValues,
    batch_size,
)
from tflite_ptq4.plan import TensorPlan


def plan(bits: list[int], scale: list[float], zero_point: list[int]) -> TensorPlan:
    scale32 = np.asarray(scale, np.float32).astype(np.float64)
    return TensorPlan(
        "t", "t", np.array(bits), scale32, np.array(zero_point), ("mse",) * len(bits), ""
    )


@pytest.mark.parametrize(
    "levels",
    [
        plan([8], [0.0371], [133]),
        plan([4], [0.4], [0]),
        plan([2, 8, 0], [0.5, 0.01, 0.7], [1, 128, -1]),
    ],
    ids=["signed 8 bits", "after a relu", "per channel"],
)
def test_levels_are_kept_without_loss(levels: TensorPlan, rng: np.random.Generator) -> None:
    values = fake_quantize(tf.constant(rng.normal(size=(5, 4, 3)), tf.float32), levels)
    kept = KeptValues(5, levels, lossless=True)
    kept.put(3, values[3:])
    kept.put(0, values[:3])
    for start in range(5):
        for stop in range(start + 1, 6):
            np.testing.assert_array_equal(kept.read(start, stop), values[start:stop])


@pytest.mark.parametrize("large", [False, True])
def test_a_large_float_tensor_is_halved(
    large: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_batches, "LARGE_TENSOR", 11 if large else 12)
    values = tf.constant(rng.normal(size=(2, 6)), tf.float32)
    kept = KeptValues(2, None, lossless=False)
    kept.put(0, values)
    assert kept.read(0, 2).dtype == tf.float32
    # float16 has 11 significant bits: half a unit of the last is 2^-12 of the value, at most 2^-11.
    np.testing.assert_allclose(kept.read(0, 2), values, rtol=2.0**-11 if large else 0)
    assert np.array_equal(kept.read(0, 2), values) is not large


def test_values_that_float16_cannot_hold_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_batches, "LARGE_TENSOR", 1)
    values = tf.constant([[1.0, 7.0e4 + 1.0]])
    kept = KeptValues(1, None, lossless=False)
    kept.put(0, values)
    np.testing.assert_array_equal(kept.read(0, 1), values)


def test_integers_of_a_layer_in_float_stay_integers() -> None:
    kept = KeptValues(2, None, lossless=False)
    kept.put(0, tf.constant([[1], [2]], tf.int64))
    assert kept.read(0, 2).dtype == tf.int64


@pytest.mark.parametrize(
    ("images", "fitting", "size"),
    [(64, 4, 4), (64, 3, 2), (61, 8, 8), (15, 8, 5), (2, 4, 2), (9, 0, 1)],
)
def test_the_largest_tensor_and_the_number_of_images_set_the_batch(
    images: int, fitting: int, size: int
) -> None:
    """Batches are all of one size, where that is more than half of what fits."""
    largest = image_batches.LARGEST_TENSOR_ELEMENTS // max(fitting, 0.5)
    assert batch_size([(None, 10), (None, 2, int(largest) // 2)], images) == size


def test_batches_of_any_size_give_every_image_once() -> None:
    images = tf.reshape(tf.range(14.0), [7, 2])
    kept = KeptValues(7, None, lossless=False)
    kept.put(0, images[:4])
    kept.put(4, images[4:])
    for values in (kept, DerivedValues([kept], lambda inputs: inputs[0], 0, 3)):
        for size, lengths in ((1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (9, [7])):
            batches = Batches(values, (2,), 7, size, 1)
            found = [batches[position] for position in range(len(batches))]
            assert [len(batch) for batch in found] == lengths
            np.testing.assert_array_equal(tf.concat(found, 0), images)


@pytest.mark.parametrize("spatial_axes", [2, None], ids=["row by row", "whole"])
def test_rows_are_those_of_the_whole_tensor(
    spatial_axes: int | None, rng: np.random.Generator
) -> None:
    levels = plan([8], [0.0371], [133])
    values = fake_quantize(tf.constant(rng.normal(size=(12, 3, 4, 2)), tf.float32), levels)
    kept = KeptValues(12, levels, lossless=True)
    kept.put(3, values[3:])
    kept.put(0, values[:3])
    kernel = tf.constant(rng.normal(size=(1, 1, 2, 6)), tf.float32)
    run = partial(_pointwise, kernel)
    derived = DerivedValues([kept], run, spatial_axes, 2)
    places = np.array([[0, 35], [7, -1], [12, 13]])
    for found, whole, channels in ((kept, values, 2), (derived, run([values]), 6)):
        batches = Batches(found, (3, 4, channels), 12, 5, 4)
        expected = np.asarray(whole[3:6]).reshape(-1, channels)[np.maximum(places, 0)]
        expected[places < 0] = 0.0
        np.testing.assert_allclose(batches.rows(1, places), expected, rtol=1e-6)


def _pointwise(kernel: tf.Tensor, inputs: list[tf.Tensor]) -> tf.Tensor:
    return tf.nn.conv2d(inputs[0], kernel, 1, "VALID")


@pytest.mark.parametrize("images", [1, 3, 4, 7])
@pytest.mark.parametrize("maximum", [84, 30, 1])
@pytest.mark.parametrize("parts", [1, 4])
def test_a_sample_is_a_regular_one_of_all_images(images: int, maximum: int, parts: int) -> None:
    """Images of twelve positions."""
    batches = Batches(KeptValues(images, None, lossless=True), (3, 4, 1), images, 2, parts)
    per_part = 12 * math.ceil(images / parts)
    found = [part * per_part + chosen for part, chosen in batches.sample(12, maximum)]
    stride = math.ceil(12 * images / maximum)
    np.testing.assert_array_equal(np.concatenate(found), np.arange(0, 12 * images, stride))
