from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import DataError
from tflite_ptq4.numerics.affine import dequantize, fake_quantize, quantize
from tflite_ptq4.numerics.grid import IntegerGrid

SCALES = st.floats(2.0**-20, 2.0**20)
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50).map(np.array)


@st.composite
def quantizers(draw):
    """A scale, a grid and a zero point on that grid."""
    grid = IntegerGrid(draw(st.integers(1, 16)), signed=draw(st.booleans()))
    return draw(SCALES), draw(st.integers(grid.qmin, grid.qmax)), grid


def test_named_cases_with_visible_arithmetic():
    # x / 0.5 + 3 = -1, 3, 3.5 (to even: 0.5 -> 0, so 3), 4.5 (1.5 -> 2, so 5), 15, 23.
    x = [-2.0, 0.0, 0.25, 0.75, 6.0, 10.0]
    q = quantize(x, 0.5, 3, IntegerGrid(4))
    assert q.dtype == np.int32
    np.testing.assert_array_equal(q, [0, 3, 3, 5, 15, 15])
    np.testing.assert_array_equal(dequantize(q, 0.5, 3), [-1.5, 0.0, 0.0, 1.0, 6.0, 6.0])


def test_ties_go_to_the_even_integer():
    grid = IntegerGrid(4, signed=True, narrow_range=True)
    x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
    np.testing.assert_array_equal(quantize(x, 1.0, 0, grid), [-2, -2, 0, 0, 2, 2])


@given(quantizer=quantizers())
def test_grid_points_are_fixed_points(quantizer):
    scale, zero_point, grid = quantizer
    # All the integers of a small grid, a sample with both ends of a large one.
    q = np.unique(np.linspace(grid.qmin, grid.qmax, 257).astype(np.int32))
    points = dequantize(q, scale, zero_point)
    np.testing.assert_array_equal(quantize(points, scale, zero_point, grid), q)
    np.testing.assert_array_equal(fake_quantize(points, scale, zero_point, grid), points)


@given(x=NUMBERS, quantizer=quantizers())
def test_fake_quantization_is_idempotent(x, quantizer):
    once = fake_quantize(x, *quantizer)
    np.testing.assert_array_equal(fake_quantize(once, *quantizer), once)


@given(x=NUMBERS, quantizer=quantizers())
def test_fake_quantization_is_dequantized_quantization(x, quantizer):
    scale, zero_point, grid = quantizer
    expected = dequantize(quantize(x, scale, zero_point, grid), scale, zero_point)
    np.testing.assert_array_equal(fake_quantize(x, scale, zero_point, grid), expected)


@given(x=NUMBERS, quantizer=quantizers())
def test_error_is_at_most_half_a_step_inside_the_clip(x, quantizer):
    scale, zero_point, grid = quantizer
    low, high = dequantize([grid.qmin, grid.qmax], scale, zero_point)
    inside = np.clip(x, low, high)
    error = np.abs(inside - fake_quantize(inside, scale, zero_point, grid))
    # Beside a tie, the rounding of x / scale may decide: a part in 2^52 of x.
    assert np.all(error <= scale / 2 + 2.0**-51 * np.abs(inside))


@given(x=NUMBERS, quantizer=quantizers())
def test_fake_quantization_is_monotone(x, quantizer):
    assert np.all(np.diff(fake_quantize(np.sort(x), *quantizer)) >= 0)


@given(quantizer=quantizers())
def test_zero_is_represented_exactly(quantizer):
    scale, zero_point, grid = quantizer
    assert quantize(0.0, scale, zero_point, grid) == zero_point
    assert fake_quantize(0.0, scale, zero_point, grid) == 0.0


@given(x=NUMBERS, quantizer=quantizers())
def test_integers_stay_on_the_grid(x, quantizer):
    grid = quantizer[2]
    q = quantize(np.append(x, [-np.inf, np.inf]), *quantizer)
    assert q.min() == grid.qmin
    assert q.max() == grid.qmax


def test_each_channel_has_its_scale_zero_point_and_bits():
    x = np.array([[1.0, 1.0, 100.0], [-1.0, 3.0, 100.0]])
    q = quantize(x, [0.5, 1.0, 1.0], [2, 0, 0], IntegerGrid([4, 1, 2]))
    #       1/0.5 + 2, 1, 100 -> 3;  -1/0.5 + 2, 3 -> 1, 100 -> 3
    np.testing.assert_array_equal(q, [[4, 1, 3], [0, 1, 3]])


def test_keeps_the_shape_and_the_argument(rng):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    before = x.copy()
    assert fake_quantize(x, 0.1, 8, IntegerGrid(4)).shape == x.shape
    np.testing.assert_array_equal(x, before)


def test_result_has_the_type_asked_for():
    x = np.array([0.31], np.float32)
    assert fake_quantize(x, 0.1, 0, IntegerGrid(4)).dtype == np.float64
    single = fake_quantize(x, 0.1, 0, IntegerGrid(4), dtype=np.float32)
    assert single.dtype == np.float32
    assert single[0] == np.float32(0.1 * 3)
    assert dequantize([3], 0.1, 0, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0]])
def test_refuses_a_scale_that_is_no_step(scale):
    with pytest.raises(DataError, match="positive and finite"):
        quantize([1.0, 1.0], scale, 0, IntegerGrid(4))


@pytest.mark.parametrize("function", [quantize, fake_quantize])
def test_refuses_nan_and_counts_it(function):
    with pytest.raises(DataError, match="2 NaN of 3 values"):
        function([np.nan, 1.0, np.nan], 1.0, 0, IntegerGrid(4))
