from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tflite_ptq4.pictures import BARS, bits_picture, clip_picture, histogram_bars
from tflite_ptq4.plan import TensorPlan
from tflite_ptq4.stats.histogram import channel_histogram, linear_counts
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

CLIP_COLOUR, BAR_COLOUR, CLIPPED_COLOUR = (192, 32, 32), (96, 144, 196), (232, 168, 96)


def planned(scale: list[float], bits: int = 4, zero_point: int = 0) -> TensorPlan:
    return TensorPlan(
        name="conv",
        source="conv",
        bits=np.full(len(scale), bits),
        scale=np.array(scale),
        zero_point=np.full(len(scale), zero_point),
        method=("mse",) * len(scale),
        reason="",
    )


def columns(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """The columns in which a colour occurs."""
    return np.flatnonzero((np.asarray(picture) == colour).all(axis=-1).any(axis=0))


# --- bars of one width ---


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50))
def test_no_value_is_lost(values: list[float]) -> None:
    statistics = TensorStatistics.from_array(np.array(values, np.float32)[:, None])
    edges, counts = histogram_bars(statistics)
    assert len(edges) == BARS + 1
    assert counts.min() >= 0
    assert counts.sum() == pytest.approx(len(values))


@given(st.integers(2, 9), st.floats(0.5, 20))
def test_a_value_moves_by_less_than_its_bin(bars: int, size: float) -> None:
    """A bin is at most an eighth of the values in it wide, in relative terms."""
    values = np.linspace(-size, size, 400, dtype=np.float32)
    edges = np.linspace(-size, size, bars + 1)
    counts = linear_counts(channel_histogram(values[:, None])[0], edges)
    exact, _ = np.histogram(values, edges)
    per_value = 400 / (2 * size)
    near = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:])) / 8 * per_value + 2
    assert (np.abs(counts - exact) <= 2 * near).all()


def test_a_tensor_of_one_value() -> None:
    edges, counts = histogram_bars(TensorStatistics.from_array(np.full((7, 2), 3.0)))
    assert (edges[0], edges[-1], counts.sum()) == (2.5, 3.5, 14)
    filled = np.flatnonzero(counts)
    assert edges[filled[0]] + 1 / BARS >= 3.0 and edges[filled[-1]] <= 3.25  # the bin of 3


# --- pictures ---


def test_the_clip_is_drawn_where_it_lies() -> None:
    """Values from 0 to 10, clipped at 15 * 0.5 = 7.5; the axis is 576 pixels long from 44."""
    values = np.linspace(0, 10, 2001)[:, None]
    picture = clip_picture(TensorStatistics.from_array(values), planned([0.5]))
    low, high = 44, 44 + 576 * 0.75
    lines = columns(picture, CLIP_COLOUR)
    assert all(min(abs(x - low), abs(x - high)) <= 2 for x in lines)
    assert abs(lines.min() - low) <= 2 and abs(lines.max() - high) <= 2
    assert (
        columns(picture, BAR_COLOUR).max() <= high + 1 < columns(picture, CLIPPED_COLOUR).min() + 3
    )


def test_the_clip_of_each_channel_is_drawn() -> None:
    values = np.linspace(0, 10, 2001)[:, None] * [1.0, 0.5]
    picture = clip_picture(TensorStatistics.from_array(values), planned([0.5, 0.25]))
    for expected in (0.75, 0.375):
        assert np.abs(columns(picture, CLIP_COLOUR) - (44 + 576 * expected)).min() <= 2


def test_bits_are_bars_in_the_order_of_the_channels() -> None:
    """Of 8 bits at most, a channel of 2 has a quarter of the height, one of none has no bar."""
    picture = np.asarray(bits_picture("conv", np.array([8, 0, 2, 4])))
    heights = (picture == BAR_COLOUR).all(axis=-1).sum(axis=0)
    middles = [44 + 576 * share // 8 for share in (1, 3, 5, 7)]
    assert heights[middles].tolist() == pytest.approx([178, 0, 44, 89], abs=1)


def test_a_bar_of_next_to_nothing_is_one_pixel() -> None:
    """One value in a bin as wide as twelve bars, beside 2^50 zeros."""
    zeros = TensorStatistics.from_array(np.zeros((1, 1)))
    for _ in range(50):
        zeros = zeros.merge(zeros)
    statistics = zeros.merge(TensorStatistics.from_array([[0.9], [1.0]]))
    drawn = np.asarray(clip_picture(statistics, planned([1 / 15])))
    assert (drawn[211, 44 + 576 * 15 // 16] == BAR_COLOUR).all()
    assert not (drawn[210, 44 + 576 * 15 // 16] == BAR_COLOUR).all()


def test_any_name_can_be_drawn() -> None:
    assert bits_picture("слой/卷积 <b>", np.array([4])).size == (640, 240)
