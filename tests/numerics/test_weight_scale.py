from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.affine import fake_quantize
from tflite_ptq4.numerics.analytic_clipping import gaussian_ratio, laplace_ratio
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.weight_scale import aciq_scale, max_abs_scale, squared_error_scale

SCALES = [max_abs_scale, aciq_scale, squared_error_scale]
BITS = st.integers(2, 8)


@st.composite
def kernels(draw):
    """A kernel [n, C] of a heavy or a light tail, with channels of different size."""
    draws = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 200)), draw(st.integers(1, 5))
    tail = draw(st.sampled_from(["laplace", "normal", "uniform"]))
    return getattr(draws, tail)(size=shape) * draws.exponential(size=shape[1])


def squared_error(weight, scale, bits, importance=1.0):
    grid = IntegerGrid(bits, signed=True, narrow_range=True)
    return (importance * (weight - fake_quantize(weight, scale, 0, grid)) ** 2).sum(axis=0)


def test_max_abs_scale_reaches_the_largest_weight():
    weight = [[1.0, -14.0, 0.0], [-7.0, 2.0, 0.0]]
    np.testing.assert_allclose(max_abs_scale(weight, 4), [7 / 7, 14 / 7, 1.0])
    np.testing.assert_allclose(max_abs_scale(weight, [2, 4, 8]), [7 / 1, 14 / 7, 1.0])


def test_aciq_scale_with_visible_arithmetic():
    # The mean is zero: two weights of magnitude 8 and forty of magnitude 1.
    weight = np.array([[-8.0], [8.0]] + [[-1.0], [1.0]] * 20)
    b = (2 * 8 + 40 * 1) / 42
    sigma = np.sqrt((2 * 64 + 40 * 1) / 42)
    np.testing.assert_allclose(aciq_scale(weight, 4), [laplace_ratio(4) * b / 7])
    np.testing.assert_allclose(
        aciq_scale(weight, 4, density="gaussian"), [gaussian_ratio(4) * sigma / 7]
    )


def test_aciq_scale_widens_by_the_mean_and_stops_at_the_largest_weight():
    weight = np.array([[9.0], [10.0], [11.0]] * 5 + [[30.0]])
    mean = np.mean(weight)
    b = np.mean(np.abs(weight - mean))
    assert mean + laplace_ratio(3) * b < 30.0
    np.testing.assert_allclose(aciq_scale(weight, 3), [(mean + laplace_ratio(3) * b) / 3])
    np.testing.assert_allclose(aciq_scale([[1.0], [-1.0]], 4), [1.0 / 7])


def test_aciq_scale_takes_the_ratio_of_each_channel_s_bits(rng):
    weight = rng.laplace(size=(300, 3))
    together = aciq_scale(weight, [2, 4, 8])
    alone = [aciq_scale(weight[:, [c]], bits)[0] for c, bits in enumerate([2, 4, 8])]
    np.testing.assert_allclose(together, alone)


@pytest.mark.parametrize("density", ["laplace", "normal"])
@pytest.mark.parametrize("elements", [9, 27, 400])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_squared_error_scale_errs_as_little_as_a_dense_search(density, elements, bits, rng):
    weight = getattr(rng, density)(size=(elements, 100))
    searched = np.min(
        [
            squared_error(weight, max_abs_scale(weight, bits) * fraction, bits)
            for fraction in np.linspace(0.05, 1.05, 401)
        ],
        axis=0,
    )
    received = squared_error(weight, squared_error_scale(weight, bits), bits)
    # Summed over channels: the error of nine weights jumps with each that changes its integer, so
    # that on a single channel either search may find a narrow minimum that the other misses.
    assert received.sum() <= 1.01 * searched.sum()


@given(weight=kernels(), bits=BITS)
def test_squared_error_scale_errs_no_more_than_the_others(weight, bits):
    least = squared_error(weight, squared_error_scale(weight, bits), bits)
    unclipped = squared_error(weight, max_abs_scale(weight, bits), bits)
    assert np.all(least <= unclipped * (1 + 1e-9) + 1e-25)


@pytest.mark.parametrize("scale_of", SCALES)
@given(weight=kernels(), bits=BITS)
def test_scale_follows_the_unit_and_not_the_sign_of_the_weights(scale_of, weight, bits):
    # Powers of two keep every digit.
    scale = scale_of(weight, bits)
    np.testing.assert_array_equal(scale_of(8 * weight, bits), 8 * scale)
    np.testing.assert_array_equal(scale_of(-weight, bits), scale)


@pytest.mark.parametrize("scale_of", SCALES)
def test_each_channel_is_on_its_own(scale_of, rng):
    weight = rng.laplace(size=(30, 4)) * [1.0, 10.0, 0.1, 3.0]
    bits = [2, 3, 4, 8]
    alone = [scale_of(weight[:, [c]], bits[c])[0] for c in range(4)]
    np.testing.assert_allclose(scale_of(weight, bits), alone, rtol=1e-12)


def test_channels_searched_in_several_blocks_are_on_their_own(rng):
    # 40,000 elements leave one channel to a block.
    weight = rng.laplace(size=(40_000, 3))
    alone = [squared_error_scale(weight[:, [c]], 4)[0] for c in range(3)]
    np.testing.assert_allclose(squared_error_scale(weight, 4), alone, rtol=1e-12)


@pytest.mark.parametrize("scale_of", SCALES)
def test_channel_of_zeros_has_scale_one(scale_of):
    weight = np.array([[0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(scale_of(weight, 4), [1.0, 1 / 7])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kernel_that_is_on_a_grid_already_keeps_its_integers(bits, rng):
    qmax = 2 ** (bits - 1) - 1
    q = np.concatenate([rng.integers(-qmax, qmax + 1, size=(50, 3)), np.full((1, 3), qmax)])
    step = np.array([0.3, 1.0, 7.0])
    np.testing.assert_allclose(squared_error_scale(q * step, bits), step, rtol=1e-12)


def test_a_rare_outlier_is_clipped(rng):
    weight = np.vstack([rng.normal(size=(2000, 1)), [[20.0]]])
    assert squared_error_scale(weight, 4)[0] < 0.5 * max_abs_scale(weight, 4)[0]


def test_importance_counts_as_repetition(rng):
    weight = rng.laplace(size=(40, 3))
    times = rng.integers(1, 5, size=40)
    np.testing.assert_allclose(
        squared_error_scale(weight, 4, importance=times),
        squared_error_scale(np.repeat(weight, times, axis=0), 4),
        rtol=1e-9,
    )


def test_importance_per_channel_is_the_importance_of_each_channel(rng):
    weight, importance = rng.laplace(size=(40, 3)), rng.exponential(size=(40, 3))
    alone = [
        squared_error_scale(weight[:, [c]], 4, importance=importance[:, c])[0] for c in range(3)
    ]
    np.testing.assert_allclose(
        squared_error_scale(weight, 4, importance=importance), alone, rtol=1e-12
    )


def test_weights_without_importance_do_not_count():
    weight = np.array([[7.0], [3.0], [-1.0], [500.0]])
    scale = squared_error_scale(weight, 8, importance=[1.0, 1.0, 1.0, 0.0])
    assert squared_error(weight[:3], scale, 8)[0] < squared_error(
        weight[:3], squared_error_scale(weight, 8), 8
    )


def test_channel_without_any_importance_is_not_clipped():
    weight = np.array([[7.0], [-3.0]])
    np.testing.assert_allclose(squared_error_scale(weight, 4, importance=[0.0, 0.0]), [1.0])


@pytest.mark.parametrize("scale_of", SCALES)
@pytest.mark.parametrize("weight", [np.ones(3), np.ones((0, 3)), [[np.nan]], [[np.inf]]])
def test_refuses_what_is_no_kernel(scale_of, weight):
    with pytest.raises(DataError, match=r"\[n, C\]"):
        scale_of(weight, 4)


@pytest.mark.parametrize("scale_of", SCALES)
def test_refuses_bits_without_a_grid(scale_of):
    with pytest.raises(ConfigError, match="`bits` must be"):
        scale_of(np.ones((2, 2)), [4, 0])


def test_refuses_an_unknown_density():
    with pytest.raises(ConfigError, match='"laplace" or "gaussian"'):
        aciq_scale(np.ones((2, 2)), 4, density="cauchy")


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (np.ones(3), "must have the shape"),
        ([1.0, -1.0], "finite and not negative"),
        ([1.0, np.nan], "finite and not negative"),
    ],
)
def test_refuses_an_importance_that_does_not_fit(importance, message):
    with pytest.raises(DataError, match=message):
        squared_error_scale(np.ones((2, 2)), 4, importance=importance)
