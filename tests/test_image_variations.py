"""Mirrored and shifted copies: which there are, what is in them, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from tflite_ptq4.image_variations import REACH, with_variations


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(3, 16, 24, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("least", "times"), [(0, 1), (3, 1), (4, 2), (6, 2), (7, 3), (12, 4), (13, 5)]
)
def test_every_image_gets_as_many_copies(images: np.ndarray, least: int, times: int) -> None:
    (varied,) = with_variations([images], least)
    assert varied.shape == (3 * times, 16, 24, 2)
    assert varied.dtype == np.float32
    np.testing.assert_array_equal(varied[::times], images)


def test_enough_images_are_not_copied(images: np.ndarray) -> None:
    assert with_variations([images], 3)[0] is images


def test_the_first_copy_is_the_mirror_image(images: np.ndarray) -> None:
    (varied,) = with_variations([images], 6)
    np.testing.assert_array_equal(varied[1::2], images[:, :, ::-1])


@pytest.mark.parametrize("copy", [2, 3, 4, 5])
def test_a_further_copy_is_shifted(images: np.ndarray, copy: int) -> None:
    (varied,) = with_variations([images], 18)
    for number, image in enumerate(images):
        found = varied[6 * number + copy]
        if copy % 2:
            found = found[:, ::-1]
        assert sum(np.array_equal(found, candidate) for candidate in _shifted(image)) == 1


def _shifted(image: np.ndarray) -> list[np.ndarray]:
    """An image at each shift within reach, by padding and cutting."""
    down, right = (int(REACH * size) for size in image.shape[:2])
    padded = np.pad(image, ((down, down), (right, right), (0, 0)), mode="reflect")
    return [
        padded[top : top + image.shape[0], left : left + image.shape[1]]
        for top in range(2 * down + 1)
        for left in range(2 * right + 1)
    ]


def test_copies_of_one_image_differ(images: np.ndarray) -> None:
    (varied,) = with_variations([images[:1]], 8)
    assert len({image.tobytes() for image in varied}) == 8


def test_inputs_vary_together_and_what_is_no_image_is_repeated(images: np.ndarray) -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(3, 2)
    twice, repeated, same = with_variations([images, numbers, images], 12)
    np.testing.assert_array_equal(repeated, np.repeat(numbers, 4, axis=0))
    np.testing.assert_array_equal(twice, same)


@pytest.mark.parametrize("shape", [(3, 40), (3, 40, 2), (3, 4, 40, 8), (3, 8, 8, 8)])
def test_without_any_image_nothing_is_copied(rng: np.random.Generator, shape: tuple) -> None:
    array = rng.normal(size=shape).astype(np.float32)
    assert with_variations([array], 12)[0] is array


def test_the_copies_are_the_same_each_time(images: np.ndarray) -> None:
    once, again = (with_variations([images], 30)[0] for _ in range(2))
    np.testing.assert_array_equal(once, again)
