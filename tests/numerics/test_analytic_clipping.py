from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError
from tflite_ptq4.numerics.affine import fake_quantize
from tflite_ptq4.numerics.analytic_clipping import (
    gaussian_error,
    gaussian_ratio,
    laplace_error,
    laplace_ratio,
    rounding_error,
)
from tflite_ptq4.numerics.grid import IntegerGrid

DRAWS = 200_000
DENSITIES = {
    "laplace": (laplace_error, laplace_ratio),
    "gaussian": (gaussian_error, gaussian_ratio),
}


def standard_draws(name, rng):
    return {"laplace": rng.laplace, "gaussian": rng.normal}[name](size=DRAWS)


def measured_squared_error(x, low, high, bits):
    """Squared error of each draw on 2^bits levels, of which the ends lie on `low` and `high`."""
    step = (high - low) / (2**bits - 1)
    return (x - low - fake_quantize(x - low, step, 0, IntegerGrid(bits))) ** 2


def expected_on_that_grid(error, alpha, bits, two_sided_bits):
    """The formula with the step 2 alpha / 2^bits made that of 2^bits - 1 intervals."""
    rounding = rounding_error(alpha, two_sided_bits)
    return error(alpha, 1.0, two_sided_bits) + rounding * ((2**bits / (2**bits - 1)) ** 2 - 1)


@pytest.mark.parametrize(
    ("bits", "laplace", "gaussian"),
    [
        (2, 2.83, 1.71),
        (3, 3.90, 2.15),
        (4, 5.03, 2.56),
        (5, 6.20, 2.94),
        (6, 7.41, 3.29),
        (7, 8.65, 3.62),
        (8, 9.90, 3.92),
    ],
)
def test_ratios_are_those_of_the_paper(bits, laplace, gaussian):
    # The paper prints two decimals.
    assert laplace_ratio(bits) == pytest.approx(laplace, abs=0.0051)
    assert gaussian_ratio(bits) == pytest.approx(gaussian, abs=0.0051)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("bits", range(1, 17))
def test_ratio_is_the_minimum_of_its_formula(name, bits):
    error, ratio = DENSITIES[name]
    best = ratio(bits)
    around = error(best * np.array([1 - 1e-3, 1.0, 1 + 1e-3]), 1.0, bits)
    assert around[1] < min(around[0], around[2])
    # The formula is convex in alpha, so that a local minimum is the only one.
    everywhere = error(np.linspace(0.0, 30.0, 301), 1.0, bits)
    assert around[1] <= everywhere.min()


@pytest.mark.parametrize("ratio", [laplace_ratio, gaussian_ratio])
def test_one_sided_ratio_is_the_two_sided_one_at_one_bit_more(ratio):
    for bits in range(1, 16):
        assert ratio(bits, one_sided=True) == ratio(bits + 1)
    assert ratio(16, one_sided=True) > ratio(16)


def test_one_sided_laplace_at_four_bits_is_the_value_of_the_paper():
    assert laplace_ratio(4, one_sided=True) == pytest.approx(6.20, abs=0.0051)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("clip", [0.7, 1.0, 1.5])
def test_formula_is_the_measured_error_of_draws(name, bits, clip, rng):
    error, ratio = DENSITIES[name]
    alpha = clip * ratio(bits)
    measured = measured_squared_error(standard_draws(name, rng), -alpha, alpha, bits)
    # Five standard errors of the mean, and the formula's own approximation: it takes the density
    # as flat within a step, where it changes by about step / spread; the first order cancels
    # between neighbours and the second enters the variance by a twelfth.
    sampling = 5 * measured.std() / np.sqrt(DRAWS)
    flatness = (2 * alpha / 2**bits) ** 2 / 12 * measured.mean()
    expected = expected_on_that_grid(error, alpha, bits, bits)
    assert abs(measured.mean() - expected) <= sampling + flatness


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("bits", [4, 6])
def test_one_sided_formula_is_the_measured_error_of_rectified_draws(name, bits, rng):
    error, ratio = DENSITIES[name]
    alpha = ratio(bits, one_sided=True)
    positive = np.abs(standard_draws(name, rng))
    measured = measured_squared_error(positive, 0.0, alpha, bits)
    sampling = 5 * measured.std() / np.sqrt(DRAWS)
    # The density jumps at zero, so that the first order does not cancel in the lowest half step.
    flatness = (alpha / 2**bits) ** 2 / 4 * measured.mean()
    expected = expected_on_that_grid(error, alpha, bits, bits + 1)
    assert abs(measured.mean() - expected) <= sampling + flatness


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_ratio_is_near_the_best_clip_of_draws(name, bits, rng):
    ratio = DENSITIES[name][1]
    x = standard_draws(name, rng)

    def error_of(alpha):
        return measured_squared_error(x, -alpha, alpha, bits).mean()

    searched = min(error_of(ratio(bits) * factor) for factor in np.linspace(0.5, 1.6, 45))
    # The grid has 2^bits - 1 intervals where the paper counts 2^bits: it shifts the optimum, where
    # the error is flat. At 3 bits the rounding term is (8/7)^2 = 1.31 of the formula's.
    assert error_of(ratio(bits)) <= 1.02 * searched


@given(alpha=st.floats(0.0, 100.0), spread=st.floats(1e-3, 10.0), bits=st.integers(0, 16))
def test_error_scales_with_the_square_of_the_unit(alpha, spread, bits):
    for error, _ in DENSITIES.values():
        # A power of two keeps every digit.
        assert error(8 * alpha, 8 * spread, bits) == 64 * error(alpha, spread, bits)


@given(alpha=st.floats(0.0, 100.0), spread=st.floats(1e-3, 10.0), bits=st.integers(0, 15))
def test_a_further_bit_quarters_the_rounding_error(alpha, spread, bits):
    for error, _ in DENSITIES.values():
        gained = error(alpha, spread, bits) - error(alpha, spread, bits + 1)
        scale = error(alpha, spread, bits)
        assert gained == pytest.approx(0.75 * rounding_error(alpha, bits), abs=1e-14 * scale)


def test_error_without_a_clip_is_all_of_the_density():
    # E[X^2] is 2 b^2 for Laplace and sigma^2 for Gaussian.
    assert laplace_error(0.0, 3.0, 4) == pytest.approx(2 * 3.0**2)
    assert gaussian_error(0.0, 3.0, 4) == pytest.approx(3.0**2)


@pytest.mark.parametrize("error", [laplace_error, gaussian_error])
def test_density_without_spread_only_rounds(error):
    np.testing.assert_array_equal(error([0.0, 3.0], 0.0, 2), [0.0, 3.0**2 / (3 * 4**2)])


def test_error_broadcasts():
    assert laplace_error(np.ones((3, 1)), np.ones(2), 4).shape == (3, 2)
    assert gaussian_error(np.ones((3, 1)), np.ones(2), np.array([4, 8])).shape == (3, 2)


@pytest.mark.parametrize("ratio", [laplace_ratio, gaussian_ratio])
@pytest.mark.parametrize("bits", [0, 17, 2.5])
def test_ratio_refuses_bits_out_of_range(ratio, bits):
    with pytest.raises(ConfigError, match="integer from 1 to 16"):
        ratio(bits)
