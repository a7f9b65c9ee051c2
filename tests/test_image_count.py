"""Which images the corrections go through at an effort."""

from __future__ import annotations

import numpy as np
import pytest

from tflite_ptq4.image_count import LEAST_IMAGES, MOST_IMAGES, evenly_spread, images_for


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [(5, 3, [0, 2, 4]), (5, 5, [0, 1, 2, 3, 4]), (2, 9, [0, 1]), (9, 2, [0, 8]), (9, 1, [0])],
)
def test_images_are_evenly_spread(count: int, most: int, chosen: list[int]) -> None:
    np.testing.assert_array_equal(evenly_spread(count, most), chosen)


@pytest.mark.parametrize(
    ("effort", "given", "used"),
    [
        ("fast", 8, 32),
        ("fast", 31, 32),
        ("fast", 32, 32),
        ("fast", 64, 32),
        ("balanced", 64, 64),
        ("balanced", 100, 100),
        ("balanced", 1000, 256),
        ("best", 100, 200),
    ],
)
def test_an_effort_goes_through_so_many_images(effort: str, given: int, used: int) -> None:
    images = np.arange(given * 32, dtype=np.float32).reshape(given, 4, 4, 2)
    labels = np.arange(given, dtype=np.float32)[:, None]
    found, beside = images_for([images, labels], effort, varied=True)
    assert len(found) == len(beside) == used
    found, beside = images_for([images, labels], effort, varied=False)
    assert len(found) == min(given, used)
    np.testing.assert_array_equal(found, images[beside[:, 0].astype(int)])


def test_of_too_many_copies_every_image_is_seen() -> None:
    """Of 20 images and a mirrored copy of each, 32 of the 40: each image or its copy."""
    images = np.random.default_rng(0).normal(size=(20, 4, 6, 1)).astype(np.float32)
    (found,) = images_for([images], "fast", varied=True)
    assert len(found) == 32
    for image in images:
        both = (image, image[:, ::-1])
        assert any(np.array_equal(own, other) for own in both for other in found)


def test_enough_is_never_too_many() -> None:
    assert all(LEAST_IMAGES[effort] <= MOST_IMAGES[effort] for effort in MOST_IMAGES)
