from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tflite_ptq4.stats.histogram import (
    BIN_COUNT,
    BINS_PER_SIGN,
    FIRST_CODE,
    MANTISSA_SHIFT,
    ZERO_BIN,
    bin_edges,
    bin_index,
    channel_histogram,
)

any_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def test_the_sizes_fit_together():
    assert BINS_PER_SIGN == 64 * 8  # exponents from -32 to 31, eight bins each
    assert BIN_COUNT == 2 * BINS_PER_SIGN + 1 == 1025
    assert bin_edges().shape == (BIN_COUNT + 1,)


@pytest.mark.parametrize(
    ("value", "index"),
    [
        (0.0, ZERO_BIN),
        (-0.0, ZERO_BIN),
        (2.0**-32 * (1 - 2**-24), ZERO_BIN),
        (2.0**-32, ZERO_BIN + 1),
        (-(2.0**-32), ZERO_BIN - 1),
        (1.0, ZERO_BIN + 1 + 32 * 8),  # exponent 0 is the 33rd octave
        (1.124, ZERO_BIN + 1 + 32 * 8),
        (1.125, ZERO_BIN + 1 + 32 * 8 + 1),
        (6.0, ZERO_BIN + 1 + 34 * 8 + 4),  # 6 = 2^2 * (1 + 4/8)
        (-6.0, ZERO_BIN - 1 - 34 * 8 - 4),
        (2.0**32, BIN_COUNT - 1),
        (1e38, BIN_COUNT - 1),
        (-1e38, 0),
    ],
)
def test_bin_of_named_values(value: float, index: int):
    assert bin_index(np.float32(value)) == index
    assert bin_index(value) == index


def test_float64_beyond_float32_goes_to_the_outermost_bins():
    assert bin_index([-1e300, 1e300]).tolist() == [0, BIN_COUNT - 1]


@given(arrays(np.float32, st.integers(2, 20), elements=any_float32))
def test_index_is_monotone_and_odd_about_zero(values: np.ndarray):
    ascending = np.sort(values)
    assert (np.diff(bin_index(ascending)) >= 0).all()
    np.testing.assert_array_equal(bin_index(-values), 2 * ZERO_BIN - bin_index(values))


@given(any_float32)
def test_a_value_lies_between_the_edges_of_its_bin(value: float):
    index = int(bin_index(np.float32(value)))
    low, high = bin_edges()[index : index + 2]
    clipped = np.clip(value, bin_edges()[0], bin_edges()[-1])
    assert low <= clipped <= high


def test_edges_are_the_inverse_of_the_index():
    edges = bin_edges()
    positive, negative = edges[ZERO_BIN + 1 : -1], edges[1 : ZERO_BIN + 1]
    # A positive bin owns its lower edge, a negative bin its upper one.
    np.testing.assert_array_equal(bin_index(positive), np.arange(ZERO_BIN + 1, BIN_COUNT))
    np.testing.assert_array_equal(bin_index(negative), np.arange(ZERO_BIN))
    assert (edges[0], edges[-1]) == (-(2.0**32), 2.0**32)


def test_every_bin_is_between_a_sixteenth_and_an_eighth_of_its_values_wide():
    edges = bin_edges()[ZERO_BIN + 1 :]
    relative = np.diff(edges) / edges[:-1]
    assert relative.max() == 1 / 8
    assert relative.min() == 1 / 15  # (16 - 15) / 15, the last bin of an octave


@given(any_float32)
def test_index_is_the_documented_bit_arithmetic(value: float):
    bits = int(np.float32(abs(value)).view(np.uint32))
    code = min((bits >> MANTISSA_SHIFT) - FIRST_CODE, BINS_PER_SIGN - 1)
    expected = ZERO_BIN if code < 0 else (511 - code if value < 0 else 513 + code)
    assert bin_index(np.float32(value)) == expected


def test_channel_histogram_counts_each_channel_on_its_own(rng: np.random.Generator):
    x = rng.normal(size=(100, 3)) * [1, 10, 0]
    counts = channel_histogram(x)
    for channel in range(3):
        expected = np.bincount(bin_index(x[:, channel]), minlength=BIN_COUNT)
        np.testing.assert_array_equal(counts[channel], expected)
    assert counts[2, ZERO_BIN] == 100
