from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import DataError
from tflite_ptq4.numerics.affine import dequantize, quantize
from tflite_ptq4.numerics.bias_correction import (
    bias_from_input_mean,
    mean_shift,
    move_roundings,
    norm_ratio,
)
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.ranges import symmetric_scale


def narrow(bits):
    return IntegerGrid(bits, signed=True, narrow_range=True)


def corrected(weight, quantized):
    """The whole correction, in the two steps of `weight_correction`: the factor, then the mean."""
    scaled = norm_ratio(weight, quantized) * quantized
    return scaled + mean_shift(weight, scaled)


@st.composite
def quantized_kernels(draw):
    """A kernel [n, C], its integers, scale and grid; the clip reaches the largest weight."""
    shape = draw(st.integers(1, 60)), draw(st.integers(1, 5))
    draws = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = draws.laplace(draws.normal(size=shape[1]), size=shape)
    grid = narrow(draw(st.integers(2, 8)))
    scale = symmetric_scale(np.abs(weight).max(axis=0), grid.bits)
    return weight, quantize(weight, scale, 0, grid), scale, grid


@given(kernel=quantized_kernels())
def test_corrected_kernel_has_the_mean_and_norm_of_the_float_one(kernel):
    weight, q, scale, _ = kernel
    quantized = dequantize(q, scale, 0)
    result = corrected(weight, quantized)
    np.testing.assert_allclose(result.mean(axis=0), weight.mean(axis=0), atol=1e-12)
    spread = quantized.std(axis=0) > 1e-9
    np.testing.assert_allclose(result.std(axis=0)[spread], weight.std(axis=0)[spread])


@given(kernel=quantized_kernels())
def test_correction_is_idempotent(kernel):
    weight, q, scale, _ = kernel
    once = corrected(weight, dequantize(q, scale, 0))
    np.testing.assert_allclose(corrected(weight, once), once, atol=1e-12)


def test_kernel_that_quantization_left_alone_needs_no_correction(rng):
    weight = rng.normal(size=(9, 4))
    np.testing.assert_array_equal(mean_shift(weight, weight), np.zeros(4))
    np.testing.assert_array_equal(norm_ratio(weight, weight), np.ones(4))
    np.testing.assert_allclose(corrected(weight, weight), weight, atol=1e-15)


def test_named_channel_with_visible_arithmetic():
    weight = np.array([[-3.0], [1.0], [5.0]])
    quantized = np.array([[-2.0], [0.0], [5.0]])
    # Means 1 and 1; centred -4, 0, 4 and -3, -1, 4; norms sqrt 32 and sqrt 26.
    xi = np.sqrt(32 / 26)
    np.testing.assert_allclose(mean_shift(weight, quantized), [1 - 1], atol=1e-15)
    np.testing.assert_allclose(norm_ratio(weight, quantized), [xi])
    np.testing.assert_allclose(
        corrected(weight, quantized), [[-3 * xi + 1], [-1 * xi + 1], [4 * xi + 1]]
    )


def test_mean_shift_is_what_to_add():
    np.testing.assert_allclose(mean_shift([[1.0, 0.0]], [[0.75, 0.5]]), [0.25, -0.5])


@pytest.mark.parametrize(
    ("weight", "quantized", "expected"),
    [
        pytest.param([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], id="zeros"),
        pytest.param([0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [0.1, 0.1, 0.1], id="constant"),
        pytest.param([0.1, 0.3], [0.0, 0.0], [0.2, 0.2], id="quantized_to_a_constant"),
        pytest.param([0.4], [0.5], [0.4], id="single_element"),
        # Their means are not exactly 0.1 in float64; the rounding is no spread.
        pytest.param([0.1] * 9, [0.7] * 9, [0.1] * 9, id="constant_to_rounding"),
    ],
)
def test_degenerate_channel_keeps_its_spread_and_gets_its_mean(weight, quantized, expected):
    weight, quantized = np.array(weight)[:, None], np.array(quantized)[:, None]
    np.testing.assert_array_equal(norm_ratio(weight, quantized), [1.0])
    result = corrected(weight, quantized)[:, 0]
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-15)


def test_bias_makes_the_mean_output_that_of_the_float_kernel(rng):
    weight = rng.normal(size=(12, 3))
    quantized = np.rint(2 * weight) / 2
    inputs = rng.exponential(size=(500, 12))
    bias = bias_from_input_mean(weight - quantized, inputs.mean(axis=0))
    np.testing.assert_allclose(
        (inputs @ quantized + bias).mean(axis=0), (inputs @ weight).mean(axis=0), atol=1e-12
    )


def test_bias_of_a_depthwise_kernel_takes_each_channel_s_own_input(rng):
    error, input_mean = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    expected = [error[:, c] @ input_mean[:, c] for c in range(3)]
    np.testing.assert_allclose(bias_from_input_mean(error, input_mean), expected)


def test_bias_of_one_mean_for_all_inputs_is_the_paper_s_mean_shift(rng):
    weight = rng.normal(size=(9, 3))
    quantized = np.rint(weight)
    bias = bias_from_input_mean(weight - quantized, np.full(9, 2.0))
    np.testing.assert_allclose(bias, 9 * 2.0 * mean_shift(weight, quantized), atol=1e-12)


@given(kernel=quantized_kernels())
def test_moved_roundings_leave_a_mean_error_below_half_a_step_over_n(kernel):
    weight, q, scale, grid = kernel
    moved = dequantize(move_roundings(weight, q, scale, grid), scale, 0)
    bound = scale / (2 * len(weight))
    assert np.all(np.abs(mean_shift(weight, moved)) <= bound * (1 + 1e-9))


@given(kernel=quantized_kernels())
def test_a_moved_rounding_is_the_other_neighbour_of_its_weight_on_the_grid(kernel):
    weight, q, scale, grid = kernel
    moved = move_roundings(weight, q, scale, grid)
    assert moved.dtype == np.int32
    assert moved.min() >= grid.qmin
    assert moved.max() <= grid.qmax
    assert np.all(np.abs(moved - q) <= 1)
    assert np.all(np.abs(weight / scale - moved) < 1 + 1e-9)


@given(kernel=quantized_kernels())
def test_moving_roundings_is_idempotent(kernel):
    weight, q, scale, grid = kernel
    once = move_roundings(weight, q, scale, grid)
    np.testing.assert_array_equal(move_roundings(weight, once, scale, grid), once)


def test_the_remainders_nearest_to_half_are_moved():
    weight = np.array([[0.1, 0.4, 0.3, 0.45, 0.2], [-0.1, -0.4, -0.3, -0.45, -0.2]]).T
    q = np.zeros((5, 2), np.int32)
    # The remainders sum to +-1.45 steps: one rounding moves, that of +-0.45.
    expected = [[0, 0], [0, 0], [0, 0], [1, -1], [0, 0]]
    np.testing.assert_array_equal(move_roundings(weight, q, np.ones(2), narrow(4)), expected)


def test_equal_remainders_are_moved_from_the_first_on():
    weight = np.full((4, 1), 0.25)
    moved = move_roundings(weight, np.zeros((4, 1), int), np.ones(1), narrow(4))
    np.testing.assert_array_equal(moved, [[1], [0], [0], [0]])


def test_no_rounding_moves_off_the_grid():
    # Both clipped weights lack 3 steps and cannot rise; 0.4 alone can.
    weight = np.array([[10.0], [10.0], [0.4], [-0.4]])
    q = np.array([[7], [7], [0], [0]])
    moved = move_roundings(weight, q, np.ones(1), narrow(4))
    np.testing.assert_array_equal(moved, [[7], [7], [1], [0]])


def test_each_channel_has_its_own_bits():
    weight = np.array([[1.45, 1.45], [0.4, 0.4]])
    q = np.array([[1, 1], [0, 0]])
    moved = move_roundings(weight, q, np.ones(2), narrow([2, 4]))
    # 0.85 steps lack; at 2 bits the first weight is at the end of its grid, so the second rises.
    np.testing.assert_array_equal(moved, [[1, 2], [1, 0]])


def test_channel_of_zeros_stays():
    zeros = np.zeros((4, 1), int)
    np.testing.assert_array_equal(move_roundings(zeros, zeros, np.ones(1), narrow(4)), zeros)


@pytest.mark.parametrize("function", [mean_shift, norm_ratio])
@pytest.mark.parametrize(
    "shapes", [((2, 3), (3, 2)), ((6,), (6,)), ((0, 3), (0, 3))], ids=["differ", "flat", "empty"]
)
def test_refuses_kernels_that_are_not_elements_by_channels(function, shapes):
    with pytest.raises(DataError, match=r"\[n, C\]"):
        function(np.ones(shapes[0]), np.ones(shapes[1]))


@pytest.mark.parametrize("input_shape", [(3,), (2, 2), ()])
def test_bias_refuses_means_that_do_not_meet_the_kernel(input_shape):
    with pytest.raises(DataError, match="`input_mean` must have the shape"):
        bias_from_input_mean(np.ones((2, 3)), np.ones(input_shape))
