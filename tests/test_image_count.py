"""Which images the corrections go through at an effort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import DataError
from tflite_ptq4.image_count import LEAST_IMAGES, MOST_IMAGES, evenly_spread, images_for


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [(5, 3, [0, 2, 4]), (5, 5, [0, 1, 2, 3, 4]), (2, 9, [0, 1]), (9, 2, [0, 8]), (9, 1, [0])],
)
def test_images_are_evenly_spread(count: int, most: int, chosen: list[int]) -> None:
    np.testing.assert_array_equal(evenly_spread(count, most), chosen)


@given(st.integers(1, 300), st.integers(1, 300))
def test_those_chosen_are_distinct_and_one_gap_is_like_another(total: int, most: int) -> None:
    chosen = evenly_spread(total, most)
    assert len(chosen) == min(total, most)
    assert chosen[0] == 0
    assert chosen[-1] == (total - 1 if most > 1 else 0)
    gaps = np.diff(chosen)
    assert gaps.min(initial=total) >= 1
    assert np.ptp(gaps) <= 1 if len(gaps) else True


def test_all_are_chosen_where_no_number_is_given() -> None:
    np.testing.assert_array_equal(evenly_spread(4, None), [0, 1, 2, 3])
    with pytest.raises(DataError, match="at least 1"):
        evenly_spread(4, 0)


@pytest.mark.parametrize(
    ("effort", "count", "used"),
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
def test_an_effort_goes_through_so_many_images(effort: str, count: int, used: int) -> None:
    images = np.arange(count * 32, dtype=np.float32).reshape(count, 4, 4, 2)
    labels = np.arange(count, dtype=np.float32)[:, None]
    found, beside = images_for([images, labels], effort, varied=True)
    assert len(found) == len(beside) == used
    found, beside = images_for([images, labels], effort, varied=False)
    assert len(found) == min(count, used)
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
