from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.ridge_refit import RIDGES, held_out_ridge, ridge_refit

sizes = st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)
ridges = st.floats(1e-3, 10.0)


def draw_layer(seed: int, groups: int, inputs: int, channels: int) -> tuple[np.ndarray, ...]:
    """Return the kernel, and centred float and quantized inputs [G, samples, n]."""
    rng = np.random.default_rng(seed)
    float_input = rng.normal(size=(groups, 30, inputs)) * rng.uniform(0.2, 3.0, size=inputs)
    quantized_input = np.rint(float_input + 0.3 * rng.normal(size=float_input.shape))
    float_input -= float_input.mean(axis=1, keepdims=True)
    quantized_input -= quantized_input.mean(axis=1, keepdims=True)
    return rng.normal(size=(groups, inputs, channels)), float_input, quantized_input


def moments(
    weight: np.ndarray, float_input: np.ndarray, quantized_input: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    transposed = quantized_input.swapaxes(1, 2) / quantized_input.shape[1]
    return transposed @ quantized_input, transposed @ (float_input @ weight)


@pytest.mark.parametrize(
    ("second_moment", "cross_moment", "ridge", "expected"),
    [
        # One input: 1 + (S_qy - S_qq) / (S_qq + ridge * S_qq)
        pytest.param(2.0, 1.0, 0.0, 1.0 - 1.0 / 2.0, id="least-squares: S_qy / S_qq"),
        pytest.param(2.0, 1.0, 0.5, 1.0 - 1.0 / 3.0, id="ridge-keeps-it-near"),
        pytest.param(2.0, 3.0, 0.5, 1.0 + 1.0 / 3.0, id="shrunken-input-is-made-up-for"),
        pytest.param(2.0, 2.0, 0.5, 1.0, id="equal-moments"),
        pytest.param(0.0, 0.0, 0.5, 1.0, id="dead-input"),
    ],
)
def test_one_input_by_hand(second_moment, cross_moment, ridge, expected):
    refitted = ridge_refit(
        np.ones((1, 1, 1)),
        np.full((1, 1, 1), second_moment),
        np.full((1, 1, 1), cross_moment),
        ridge,
    )
    assert refitted.dtype == np.float64
    np.testing.assert_allclose(refitted.item(), expected)


@given(sizes, seeds, ridges)
def test_unchanged_input_leaves_the_kernel(size, seed, ridge):
    weight, _, quantized_input = draw_layer(seed, *size)
    unchanged = moments(weight, quantized_input, quantized_input)
    np.testing.assert_allclose(ridge_refit(weight, *unchanged, ridge), weight, rtol=1e-9, atol=1e-9)


@given(sizes, seeds, ridges)
def test_solves_the_penalised_least_squares_problem(size, seed, ridge):
    """The ridge as extra samples: rows sqrt(lambda) I that ask for the float kernel."""
    weight, float_input, quantized_input = draw_layer(seed, *size)
    second_moment, cross_moment = moments(weight, float_input, quantized_input)
    refitted = ridge_refit(weight, second_moment, cross_moment, ridge)
    samples = float_input.shape[1]
    for group in range(size[0]):
        strength = ridge * np.trace(second_moment[group]) / size[1]
        pull = np.sqrt(strength * samples) * np.eye(size[1])
        inputs = np.vstack([quantized_input[group], pull])
        outputs = np.vstack([float_input[group] @ weight[group], pull @ weight[group]])
        expected = np.linalg.lstsq(inputs, outputs)[0]
        np.testing.assert_allclose(refitted[group], expected, rtol=1e-7, atol=1e-9)


@given(sizes, seeds, ridges)
def test_output_is_never_farther_from_the_float_output(size, seed, ridge):
    weight, float_input, quantized_input = draw_layer(seed, *size)
    refitted = ridge_refit(weight, *moments(weight, float_input, quantized_input), ridge)
    wanted = float_input @ weight
    before = np.sum((quantized_input @ weight - wanted) ** 2, axis=1)
    after = np.sum((quantized_input @ refitted - wanted) ** 2, axis=1)
    assert np.all(after <= before * (1 + 1e-9) + 1e-12)


def test_undoes_an_invertible_mixing_of_the_inputs(rng):
    weight, float_input, _ = draw_layer(1, 2, 4, 3)
    mixing = np.eye(4) + 0.2 * rng.normal(size=(4, 4))
    second_moment, cross_moment = moments(weight, float_input, float_input @ mixing)
    refitted = ridge_refit(weight, second_moment, cross_moment, ridge=0.0)
    np.testing.assert_allclose(mixing @ refitted, weight, atol=1e-10)


def test_batch_of_groups_equals_each_group_alone(rng):
    weight, float_input, quantized_input = draw_layer(2, 5, 9, 1)
    second_moment, cross_moment = moments(weight, float_input, quantized_input)
    together = ridge_refit(weight, second_moment, cross_moment)
    for group in range(5):
        one = slice(group, group + 1)
        alone = ridge_refit(weight[one], second_moment[one], cross_moment[one])
        np.testing.assert_allclose(together[one], alone, rtol=1e-12)


def test_dead_input_keeps_its_weight_whatever_its_noise():
    weight, float_input, quantized_input = draw_layer(3, 1, 4, 2)
    second_moment, cross_moment = moments(weight, float_input, quantized_input)
    second_moment[:, 2], second_moment[:, :, 2], cross_moment[:, 2] = 0.0, 0.0, 1e-9
    refitted = ridge_refit(weight, second_moment, cross_moment)
    np.testing.assert_array_equal(refitted[:, 2], weight[:, 2])
    assert np.all(refitted[:, [0, 1, 3]] != weight[:, [0, 1, 3]])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"weight": np.ones((1, 3, 2))}, DataError, r"\[G, n, C\]"),
        ({"cross_moment_qy": np.ones((1, 2, 3))}, DataError, "cross_moment_qy"),
        ({"cross_moment_qy": np.full((1, 2, 2), np.nan)}, DataError, "cross_moment_qy"),
        ({"second_moment_qq": np.ones((1, 2, 2)), "ridge": 0.0}, DataError, "invertible"),
        ({"ridge": -1.0}, ConfigError, "ridge"),
        ({"ridge": np.nan}, ConfigError, "ridge"),
    ],
)
def test_rejects(changed, error, message):
    arguments = {
        "weight": np.ones((1, 2, 2)),
        "second_moment_qq": np.eye(2)[None],
        "cross_moment_qy": np.eye(2)[None],
    }
    with pytest.raises(error, match=message):
        ridge_refit(**(arguments | changed))


def test_an_infinite_ridge_leaves_the_kernel() -> None:
    weight, float_input, quantized_input = draw_layer(4, 2, 3, 2)
    fitted = moments(weight, float_input, quantized_input)
    np.testing.assert_array_equal(ridge_refit(weight, *fitted, np.inf), weight)


def halves(
    weight: np.ndarray, float_input: np.ndarray, quantized_input: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    middle = float_input.shape[1] // 2
    return [
        moments(weight, float_input[:, part], quantized_input[:, part])
        for part in (slice(middle), slice(middle, None))
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # One input of weight 1 and S_qq = 1; the refit to S_qy = c is 1 + (c - 1) / (1 + ridge),
        # and its change d costs d^2 - 2 d (c' - 1) on the other half, least for d = c' - 1.
        pytest.param(2.0, 2.0, 0.1, id="halves that agree: as little ridge as there is"),
        pytest.param(2.0, 1.5, 0.3, id="d = 0.77 for 0.5, and 0.38 for 1"),
        pytest.param(2.0, 0.0, np.inf, id="halves that contradict: none"),
        pytest.param(1.0, 1.0, np.inf, id="nothing to learn: none"),
    ],
)
def test_the_held_out_ridge_by_hand(first: float, second: float, expected: float) -> None:
    one = np.ones((1, 1, 1))
    assert held_out_ridge(one, [(one, first * one), (one, second * one)]) == expected


@given(sizes, seeds)
def test_the_held_out_ridge_errs_least_on_the_samples_left_out(size, seed):
    """By the definition: fit to one half, and compare outputs on the samples of the other."""
    weight, float_input, quantized_input = draw_layer(seed, *size)
    parts = halves(weight, float_input, quantized_input)
    middle = float_input.shape[1] // 2
    left_out = [slice(middle, None), slice(middle)]

    def error(ridge: float) -> float:
        total = 0.0
        for part, rest in zip(parts, left_out, strict=True):
            refitted = ridge_refit(weight, *part, ridge)
            gap = quantized_input[:, rest] @ refitted - float_input[:, rest] @ weight
            total += np.sum(gap**2) / gap.shape[1]
        return float(total)

    chosen = held_out_ridge(weight, parts)
    assert error(chosen) <= min(map(error, (*RIDGES, np.inf))) + 1e-9
