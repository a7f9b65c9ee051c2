from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.affine import dequantize, fake_quantize
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.ranges import affine_range, number_on_grid, symmetric_scale

LARGEST = 2.0**100
ENDS = st.floats(-LARGEST, LARGEST, width=32)
BITS = st.integers(1, 16)


@pytest.mark.parametrize(
    ("low", "high", "bits", "scale", "zero_point"),
    [
        pytest.param(0.0, 6.0, 4, 6 / 15, 0, id="relu6"),
        pytest.param(-1.0, 1.0, 1, 2 / 1, 0, id="one_bit"),
        pytest.param(-1.0, 2.0, 2, 3 / 3, 1, id="zero_on_the_grid_already"),
        pytest.param(-1.0, 1.0, 4, 2 / 15, 8, id="zero_point_7.5_goes_to_even"),
        pytest.param(-5.0, -1.0, 4, 5 / 15, 15, id="negative_range_is_widened"),
        pytest.param(1.0, 3.0, 4, 3 / 15, 0, id="positive_range_is_widened"),
        pytest.param(0.0, 0.0, 4, 1.0, 0, id="empty"),
    ],
)
def test_affine_range(low, high, bits, scale, zero_point):
    received = affine_range(low, high, bits)
    assert received[0] == pytest.approx(scale, rel=1e-15)
    assert received[1] == zero_point


@given(ends=st.lists(st.tuples(ENDS, ENDS), min_size=1, max_size=20), bits=BITS)
def test_affine_range_covers_its_ends_to_half_a_step_and_zero_exactly(ends, bits):
    low, high = np.sort(np.array(ends), axis=1).T
    scale, zero_point = affine_range(low, high, bits)
    grid = IntegerGrid(bits)
    assert scale.shape == zero_point.shape == low.shape
    assert np.all((zero_point >= grid.qmin) & (zero_point <= grid.qmax))
    assert np.all(fake_quantize(np.zeros_like(low), scale, zero_point, grid) == 0.0)
    # Half a step by the rounded zero point, and the rounding of the ends' product.
    slack = scale * (0.5 + 1e-9)
    assert np.all(dequantize(grid.qmin, scale, zero_point) <= np.minimum(low, 0.0) + slack)
    assert np.all(dequantize(grid.qmax, scale, zero_point) >= np.maximum(high, 0.0) - slack)


@given(high=st.floats(0.0, LARGEST, width=32), bits=BITS)
def test_range_after_a_relu_has_zero_point_zero_and_reaches_its_end(high, bits):
    scale, zero_point = affine_range(0.0, high, bits)
    assert zero_point == 0
    end = dequantize(IntegerGrid(bits).qmax, scale, zero_point)
    # An empty range has scale 1.0, and one too narrow for float32 the smallest scale.
    assert end == pytest.approx(high, rel=1e-12) or high < 1e-30


@given(ends=st.tuples(ENDS, ENDS).map(sorted), bits=BITS)
def test_affine_range_is_elementwise(ends, bits):
    low, high = ends
    scale, zero_point = affine_range([low, 0.0], [high, 1.0], [bits, 4])
    alone = affine_range(low, high, bits)
    assert (scale[0], zero_point[0]) == (alone[0], alone[1])
    assert (scale[1], zero_point[1]) == (1 / 15, 0)


@pytest.mark.parametrize("high", [1e-45, 1e-310, 5e-324])
def test_scale_never_vanishes_in_float32(high):
    for scale in (affine_range(0.0, high, 8)[0], symmetric_scale(high, 8)):
        assert np.float32(scale) >= np.finfo(np.float32).tiny


def test_widest_range_does_not_overflow():
    scale, zero_point = affine_range(-1.7e308, 1.7e308, 4)
    assert scale == pytest.approx(1.7e308 / 15 * 2)
    assert zero_point == 8


@given(
    alpha=st.lists(st.floats(0.0, LARGEST, width=32), min_size=1, max_size=20),
    bits=st.integers(2, 16),
)
def test_symmetric_grid_reaches_alpha_on_both_sides(alpha, bits):
    scale = symmetric_scale(alpha, bits)
    grid = IntegerGrid(bits, signed=True, narrow_range=True)
    wide = np.array(alpha) > 1e-30
    np.testing.assert_allclose(grid.qmax * scale[wide], np.array(alpha)[wide], rtol=1e-15)
    np.testing.assert_allclose(grid.qmin * scale[wide], -np.array(alpha)[wide], rtol=1e-15)


def test_symmetric_scale_of_named_cases():
    np.testing.assert_allclose(symmetric_scale([7.0, 0.0, 1.0], 4), [1.0, 1.0, 1 / 7])
    np.testing.assert_allclose(symmetric_scale([7.0, 7.0], [4, 2]), [7 / 7, 7 / 1])


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, -1.0), (np.nan, 1.0), (0.0, np.inf), ([0.0, 2.0], [1.0, 1.0])]
)
def test_affine_range_refuses_what_is_no_range(low, high):
    with pytest.raises(DataError, match="finite, with low <= high"):
        affine_range(low, high, 4)


@pytest.mark.parametrize("alpha", [-1.0, np.nan, np.inf])
def test_symmetric_scale_refuses_what_is_no_magnitude(alpha):
    with pytest.raises(DataError, match="finite and not negative"):
        symmetric_scale(alpha, 4)


def test_refuses_bits_without_a_grid():
    with pytest.raises(ConfigError, match="from 1 to 31"):
        affine_range(0.0, 1.0, 0)
    with pytest.raises(ConfigError, match="from 2 to 32"):
        symmetric_scale(1.0, 1)


@pytest.mark.parametrize(
    ("value", "least_scale", "expected"),
    [
        pytest.param(3.0, 0.0, (1, 3.0), id="itself"),
        pytest.param(-0.25, 0.0, (-1, 0.25), id="negative"),
        pytest.param(0.0, 0.0, (0, 1.0), id="zero"),
        pytest.param(3.0, 0.5, (1, 3.0), id="larger_than_the_finest_scale"),
        pytest.param(0.75, 1.0, (1, 1.0), id="rounded_up_to_it"),
        pytest.param(-0.25, 1.0, (0, 1.0), id="too_small_to_count"),
    ],
)
def test_number_on_grid(value, least_scale, expected):
    assert number_on_grid(value, least_scale) == expected
