from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.analytic_clipping import rounding_error
from tflite_ptq4.numerics.bit_allocation import allocate_bits

METHODS = ["exact", "paper"]
ALPHAS = st.lists(
    st.one_of(st.just(0.0), st.floats(2.0**-10, 2.0**10)), min_size=1, max_size=40
).map(np.array)


@st.composite
def problems(draw):
    """Clipping values, an average and the bounds around it."""
    minimum = draw(st.integers(0, 4))
    maximum = draw(st.integers(minimum, 8))
    average = draw(st.floats(minimum, maximum))
    return draw(ALPHAS), average, {"minimum": minimum, "maximum": maximum}


def total_error(alpha, bits):
    return rounding_error(alpha, bits).sum()


@given(problem=problems())
def test_exact_meets_the_average_to_the_bit(problem):
    alpha, average, bounds = problem
    bits = allocate_bits(alpha, average, **bounds)
    assert bits.sum() == round(average * alpha.size)


@pytest.mark.parametrize("method", METHODS)
@given(problem=problems())
def test_bits_are_integers_within_the_bounds(method, problem):
    alpha, average, bounds = problem
    bits = allocate_bits(alpha, average, method=method, **bounds)
    assert bits.dtype == np.int64
    assert bits.shape == alpha.shape
    assert bits.min() >= bounds["minimum"]
    assert bits.max() <= bounds["maximum"]


@pytest.mark.parametrize("method", METHODS)
@given(problem=problems())
def test_a_channel_of_larger_alpha_has_no_fewer_bits(method, problem):
    alpha, average, bounds = problem
    bits = allocate_bits(alpha, average, method=method, **bounds)
    # Of equal alphas, `exact` serves the lower index first; a stable sort keeps that order last.
    assert np.all(np.diff(bits[np.lexsort((-np.arange(alpha.size), alpha))]) >= 0)


@given(
    alpha=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=4).map(np.array),
    average=st.floats(0.0, 4.0),
)
def test_exact_is_the_best_of_all_allocations(alpha, average):
    bits = allocate_bits(alpha, average, maximum=4)
    total = round(average * alpha.size)
    every = itertools.product(range(5), repeat=alpha.size)
    best = min(total_error(alpha, np.array(other)) for other in every if sum(other) == total)
    assert total_error(alpha, bits) <= best * (1 + 1e-12)


@given(problem=problems())
def test_paper_rounds_the_logarithm_of_one_multiple_of_alpha_to_two_thirds(problem):
    alpha, average, bounds = problem
    bits = allocate_bits(alpha, average, method="paper", **bounds)
    inner = (bits > bounds["minimum"]) & (bits < bounds["maximum"])
    if inner.any():
        # log2 k, of each channel, lies within half a bit of bits - (2/3) log2 alpha.
        log2_multiplier = bits[inner] - 2 / 3 * np.log2(alpha[inner])
        assert np.ptp(log2_multiplier) <= 1 + 1e-9


@given(problem=problems())
def test_paper_comes_as_near_to_the_average_as_any_multiplier(problem):
    alpha, average, bounds = problem
    target = round(average * alpha.size)
    bits = allocate_bits(alpha, average, method="paper", **bounds)
    with np.errstate(divide="ignore"):
        exponents = 2 / 3 * np.log2(alpha)
    for log2_multiplier in np.linspace(-10.0, 20.0, 601):
        other = np.clip(np.rint(log2_multiplier + exponents), bounds["minimum"], bounds["maximum"])
        assert abs(bits.sum() - target) <= abs(other.sum() - target)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # Two bits of four: alpha 16 is 4 octaves above 1, and 4 * 2/3 = 2.67 in the paper's rule.
        pytest.param("exact", [2, 6], id="exact_4_octaves_are_4_bits"),
        pytest.param("paper", [3, 5], id="paper_4_octaves_are_2.67_bits"),
    ],
)
def test_spread_of_the_bits(method, expected):
    np.testing.assert_array_equal(allocate_bits([1.0, 16.0], 4, method=method), expected)


@pytest.mark.parametrize("method", METHODS)
def test_equal_channels_get_the_average(method):
    np.testing.assert_array_equal(allocate_bits([3.0] * 5, 4, method=method), [4] * 5)


def test_equal_gains_go_to_the_lowest_index():
    np.testing.assert_array_equal(allocate_bits([1.0] * 4, 4.5), [5, 5, 4, 4])


def test_paper_cannot_part_equal_channels_and_stays_below_when_both_totals_are_equally_near():
    np.testing.assert_array_equal(allocate_bits([1.0] * 4, 4.5, method="paper"), [4] * 4)
    np.testing.assert_array_equal(allocate_bits([1.0] * 4, 4.75, method="paper"), [5] * 4)


@pytest.mark.parametrize("method", METHODS)
def test_channels_of_zeros_take_the_minimum_while_others_can_use_the_bits(method):
    bits = allocate_bits([0.0, 1.0, 0.0, 1.0], 4, method=method, minimum=2, maximum=6)
    np.testing.assert_array_equal(bits, [2, 6, 2, 6])


def test_exact_gives_bits_to_channels_of_zeros_when_no_other_can_take_them():
    np.testing.assert_array_equal(allocate_bits([0.0, 1.0], 6, maximum=8), [4, 8])


def test_paper_leaves_channels_of_zeros_at_the_minimum_even_then():
    np.testing.assert_array_equal(allocate_bits([0.0, 1.0], 6, method="paper"), [0, 8])
    np.testing.assert_array_equal(allocate_bits([0.0, 0.0], 6, method="paper", minimum=2), [2, 2])


@pytest.mark.parametrize("method", METHODS)
def test_weight_acts_as_a_factor_on_the_square_of_alpha(method, rng):
    alpha, weight = rng.exponential(size=30), rng.exponential(size=30)
    np.testing.assert_array_equal(
        allocate_bits(alpha, 4.3, method=method, weight=weight),
        allocate_bits(alpha * np.sqrt(weight), 4.3, method=method),
    )


def test_table_of_the_formula_changes_nothing(rng):
    alpha = rng.exponential(size=30)
    table = rounding_error(alpha[:, None], np.arange(9))
    np.testing.assert_array_equal(
        allocate_bits(alpha, 3.7, error_table=table), allocate_bits(alpha, 3.7)
    )


def test_measured_errors_take_the_place_of_alpha():
    # Alpha prefers channel 1; by the table only channel 0 gains.
    table = [[9.0, 3.0, 1.0], [5.0, 5.0, 5.0]]
    bits = allocate_bits([1.0, 100.0], 1, maximum=2, error_table=table)
    np.testing.assert_array_equal(bits, [2, 0])


def test_a_gain_that_needs_two_bits_is_seen():
    # Channel 0 gains nothing by its first bit and 10 by two, 5 a bit; channel 1 gains 4, then 3.
    table = [[10.0, 10.0, 0.0], [7.0, 3.0, 0.0]]
    bits = allocate_bits([1.0, 1.0], 1, maximum=2, error_table=table)
    np.testing.assert_array_equal(bits, [2, 0])


def test_errors_that_grow_with_the_bits_still_meet_the_average():
    table = [[1.0, 2.0, 4.0], [1.0, 2.0, 3.0]]
    bits = allocate_bits([1.0, 1.0], 1.5, maximum=2, error_table=table)
    assert bits.sum() == 3
    np.testing.assert_array_equal(bits, [1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"average_bits": 9}, "between the bounds", id="above_maximum"),
        pytest.param({"average_bits": 1, "minimum": 2}, "between the bounds", id="below_minimum"),
        pytest.param({"average_bits": np.nan}, "between the bounds", id="average_nan"),
        pytest.param({"average_bits": 4, "minimum": -1}, "0 <= minimum", id="negative_minimum"),
        pytest.param({"average_bits": 4, "method": "best"}, '"exact" or "paper"', id="method"),
        pytest.param(
            {"average_bits": 4, "method": "paper", "error_table": np.ones((2, 9))},
            'method="exact"',
            id="table_for_paper",
        ),
    ],
)
def test_refuses_a_request_that_cannot_be_met(arguments, message):
    with pytest.raises(ConfigError, match=message):
        allocate_bits([1.0, 2.0], **arguments)


@pytest.mark.parametrize(
    ("alpha", "arguments", "message"),
    [
        pytest.param([], {}, "one clipping value per channel", id="no_channels"),
        pytest.param([[1.0]], {}, "one clipping value per channel", id="two_dimensional"),
        pytest.param([1.0, -1.0], {}, "`alpha` must be finite", id="negative_alpha"),
        pytest.param([1.0, np.nan], {}, "`alpha` must be finite", id="alpha_nan"),
        pytest.param([1.0], {"weight": [1.0, 1.0]}, r"must have shape \(1,\)", id="long_weight"),
        pytest.param(
            [1.0], {"error_table": [[1.0] * 8]}, r"must have shape \(1, 9\)", id="short_table"
        ),
        pytest.param(
            [1.0], {"error_table": [[np.inf] * 9]}, "`error_table` must be finite", id="table_inf"
        ),
    ],
)
def test_refuses_arrays_that_do_not_fit(alpha, arguments, message):
    with pytest.raises(DataError, match=message):
        allocate_bits(alpha, 4, **arguments)
