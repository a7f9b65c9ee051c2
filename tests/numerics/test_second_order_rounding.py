from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.affine import quantize
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.second_order_rounding import (
    damped_moment,
    output_error,
    output_error_scale,
    second_order_rounding,
)
from tflite_ptq4.numerics.weight_scale import max_abs_scale

sizes = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 5))
seeds = st.integers(0, 2**32 - 1)


def correlated_moment(rng: np.random.Generator, groups: int, inputs: int) -> np.ndarray:
    """Second moment of rectified, mixed inputs: unequal diagonal, strong correlations."""
    mixing = rng.normal(size=(groups, inputs, inputs)) + rng.normal(size=(groups, inputs, 1))
    x = np.maximum(rng.normal(size=(groups, 4 * inputs + 8, inputs)) @ mixing, 0.0)
    x -= x.mean(axis=1, keepdims=True)
    return x.swapaxes(1, 2) @ x / x.shape[1]


def draw_layer(seed: int, groups: int, inputs: int, channels: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    weight = rng.laplace(size=(groups, inputs, channels))
    scale = np.abs(weight).max(axis=1) * rng.uniform(0.08, 0.2, size=(groups, channels)) + 1e-3
    return weight, correlated_moment(rng, groups, inputs), scale


def nearest(weight: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    grid = IntegerGrid(bits, signed=True, narrow_range=True)
    return quantize(weight, scale[:, None, :], 0, grid)


def brain_surgeon(
    weight: np.ndarray, moment: np.ndarray, scale: np.ndarray, limit: int
) -> np.ndarray:
    """Optimal brain quantization as published: one group, explicit inverse, row by row removal."""
    inverse, weight = np.linalg.inv(moment), weight.copy()
    remaining = list(np.argsort(-np.diagonal(moment), kind="stable"))
    q = np.zeros(weight.shape, np.int32)
    while remaining:
        j = remaining.pop(0)
        q[j] = np.clip(np.rint(weight[j] / scale), -limit, limit)
        error = (weight[j] - scale * q[j]) / inverse[j, j]
        weight[remaining] -= np.outer(inverse[remaining, j], error)
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return q


class TestRoundingByHand:
    # e = w - q; the output error is H00 e0^2 + 2 H01 e0 e1 + H11 e1^2. The larger diagonal is
    # rounded first, and its error reaches the other weight times H01 / H11 (or H01 / H00).
    @pytest.mark.parametrize(
        ("moment", "weight", "expected"),
        [
            # q0 = round(0.4) = 0, q1 = round(0.4 + (1 / 1) * 0.4) = round(0.8) = 1
            pytest.param([[2, 1], [1, 1]], [0.4, 0.4], [0, 1], id="error-moves-the-second-up"),
            # q0 = round(0.6) = 1, q1 = round(0.6 + 1 * (0.6 - 1)) = round(0.2) = 0
            pytest.param([[2, 1], [1, 1]], [0.6, 0.6], [1, 0], id="error-moves-the-second-down"),
            # q0 = round(0.4) = 0, q1 = round(0.4 - 1 * 0.4) = 0
            pytest.param([[2, -1], [-1, 1]], [0.4, 0.4], [0, 0], id="negative-correlation"),
            # q1 first: round(0.4) = 0, then q0 = round(0.3 + (1 / 1) * 0.4) = round(0.7) = 1
            pytest.param([[1, 1], [1, 2]], [0.3, 0.4], [1, 0], id="larger-diagonal-first"),
            # q0 = clip(round(9), -7, 7) = 7, q1 = round(0.2 + 1 * (9 - 7)) = round(2.2) = 2
            pytest.param([[2, 1], [1, 1]], [9.0, 0.2], [7, 2], id="clipping-error-is-carried"),
            # q0 = round(-9) -> -7, q1 = round(-6 + 1 * (-9 + 7)) = -8 -> -7: no -8 on the grid
            pytest.param([[2, 1], [1, 1]], [-9.0, -6.0], [-7, -7], id="narrow-range"),
            pytest.param([[2, 0], [0, 0]], [0.4, 0.6], [0, 1], id="dead-input-to-nearest"),
            pytest.param([[0, 0], [0, 0]], [0.4, 0.6], [0, 1], id="no-live-input"),
        ],
    )
    def test_two_inputs_four_bits(self, moment, weight, expected):
        q = second_order_rounding(
            np.reshape(weight, (1, 2, 1)), np.array([moment]), np.ones((1, 1)), 4, damping=0.0
        )
        assert q.dtype == np.int32
        assert q.ravel().tolist() == expected

    def test_output_error_of_the_first_case(self):
        moment = np.array([[[2.0, 1.0], [1.0, 1.0]]])
        # 2 * 0.4^2 + 2 * 1 * 0.4 * 0.4 + 1 * 0.4^2 = 0.32 + 0.32 + 0.16
        to_nearest = output_error(np.reshape([0.4, 0.4], (1, 2, 1)), moment)
        # 2 * 0.4^2 - 2 * 1 * 0.4 * 0.6 + 1 * 0.6^2 = 0.32 - 0.48 + 0.36
        carried = output_error(np.reshape([0.4, -0.6], (1, 2, 1)), moment)
        np.testing.assert_allclose([to_nearest.item(), carried.item()], [0.80, 0.20])

    def test_damping_weakens_what_is_carried(self):
        # mean diagonal 1.5; 0.4 * H01 / (1 + 2 * 1.5) = 0.1, and round(0.4 + 0.1 * 0.9) = 0
        moment = np.array([[[2.0, 1.0], [1.0, 1.0]]])
        weight = np.full((1, 2, 1), 0.4)
        q = second_order_rounding(weight, moment, np.ones((1, 1)), 4, damping=2.0)
        assert q.ravel().tolist() == [0, 0]


class TestRoundingProperties:
    @given(sizes, seeds, st.integers(2, 8))
    def test_equals_optimal_brain_quantization(self, size, seed, bits):
        weight, moment, scale = draw_layer(seed, *size)
        q = second_order_rounding(weight, moment, scale, bits)
        damped = damped_moment(moment, 0.01)
        for group in range(size[0]):
            expected = brain_surgeon(
                weight[group], damped[group], scale[group], 2 ** (bits - 1) - 1
            )
            np.testing.assert_array_equal(q[group], expected)

    @given(sizes, seeds)
    def test_stays_on_the_grid_of_each_channel(self, size, seed):
        weight, moment, scale = draw_layer(seed, *size)
        bits = np.random.default_rng(seed).integers(2, 9, size=scale.shape)
        q = second_order_rounding(weight, moment, scale / 4, bits)
        assert np.all(np.abs(q) <= (2 ** (bits - 1) - 1)[:, None, :])

    @given(sizes, seeds, st.floats(0.0, 1.0))
    def test_uncorrelated_inputs_are_rounded_to_nearest(self, size, seed, damping):
        weight, _, scale = draw_layer(seed, *size)
        variance = np.random.default_rng(seed).uniform(0.1, 9.0, size=size[:2])
        moment = variance[:, :, None] * np.eye(size[1])
        q = second_order_rounding(weight, moment, scale, 4, damping)
        np.testing.assert_array_equal(q, nearest(weight, scale, 4))

    @given(sizes, seeds)
    def test_batch_of_groups_equals_each_group_alone(self, size, seed):
        weight, moment, scale = draw_layer(seed, *size)
        together = second_order_rounding(weight, moment, scale, 4)
        for group in range(size[0]):
            one = slice(group, group + 1)
            alone = second_order_rounding(weight[one], moment[one], scale[one], 4)
            np.testing.assert_array_equal(together[one], alone)

    @given(sizes, seeds)
    def test_order_of_the_inputs_does_not_matter(self, size, seed):
        weight, moment, scale = draw_layer(seed, *size)
        permutation = np.random.default_rng(seed).permutation(size[1])
        shuffled = second_order_rounding(
            weight[:, permutation], moment[:, permutation][:, :, permutation], scale, 4
        )
        np.testing.assert_array_equal(
            shuffled, second_order_rounding(weight, moment, scale, 4)[:, permutation]
        )

    @given(sizes, seeds, st.integers(-20, 20))
    def test_units_of_the_input_and_of_the_weight_do_not_matter(self, size, seed, exponent):
        weight, moment, scale = draw_layer(seed, *size)
        expected = second_order_rounding(weight, moment, scale, 4)
        unit = 2.0**exponent
        np.testing.assert_array_equal(
            second_order_rounding(weight * unit, moment / unit, scale * unit, 4), expected
        )

    @given(sizes, seeds)
    def test_points_of_the_grid_stay(self, size, seed):
        _, moment, scale = draw_layer(seed, *size)
        q = np.random.default_rng(seed).integers(-7, 8, size=size)
        again = second_order_rounding(q * scale[:, None, :], moment, scale, 4)
        np.testing.assert_array_equal(again, q)

    @given(sizes, seeds)
    def test_dead_input_is_rounded_to_nearest_whatever_its_noise(self, size, seed):
        weight, moment, scale = draw_layer(seed, *size)
        dead = seed % size[1]
        moment[:, dead, dead] = 0.0
        q = second_order_rounding(weight, moment, scale, 4)
        np.testing.assert_array_equal(q[:, dead], nearest(weight, scale, 4)[:, dead])

    @pytest.mark.parametrize("inputs", [63, 64, 65, 150])
    def test_blocks_do_not_show(self, inputs):
        weight, moment, scale = draw_layer(inputs, 1, inputs, 3)
        expected = brain_surgeon(weight[0], damped_moment(moment, 0.01)[0], scale[0], 7)
        np.testing.assert_array_equal(second_order_rounding(weight, moment, scale, 4)[0], expected)

    def test_output_error_is_clearly_below_that_of_nearest_rounding(self, rng):
        weight = rng.laplace(size=(40, 36, 8))
        moment = correlated_moment(rng, 40, 36)
        scale = output_error_scale(weight, moment, 4)

        def error(q: np.ndarray) -> np.ndarray:
            return output_error(weight - scale[:, None, :] * q, moment)

        second_order = error(second_order_rounding(weight, moment, scale, 4))
        to_nearest = error(nearest(weight, scale, 4))
        assert second_order.sum() < 0.8 * to_nearest.sum()
        assert np.mean(second_order < to_nearest) > 0.8

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_rank_one_moment_is_rounded_with_finite_error(self, rng, dtype):
        # All inputs are equal, so only the sum of each channel matters: it is kept to one step.
        weight = rng.uniform(-3, 3, size=(1, 200, 5))
        moment = np.ones((1, 200, 200), dtype) * dtype(1e-6)
        q = second_order_rounding(weight, moment, np.ones((1, 5)), 4)
        assert np.all(np.abs(weight.sum(axis=1) - q.sum(axis=1)) <= 1.0)


class TestOutputErrorScale:
    @given(sizes, seeds)
    def test_no_candidate_is_better(self, size, seed):
        weight, moment, _ = draw_layer(seed, *size)
        fractions = [1.0, 0.8, 0.5, 0.3]
        scale = output_error_scale(weight, moment, 4, fractions)

        def error(scale: np.ndarray) -> np.ndarray:
            return output_error(weight - scale[:, None, :] * nearest(weight, scale, 4), moment)

        for fraction in fractions:
            assert np.all(error(scale) <= error(np.abs(weight).max(axis=1) / 7 * fraction))

    def test_bits_go_with_their_channel(self, rng):
        weight, moment = rng.normal(size=(3, 6, 2)), correlated_moment(rng, 3, 6)
        bits = np.array([[2, 4], [8, 3], [4, 4]])
        together = output_error_scale(weight, moment, bits)
        for group, channel in np.ndindex(3, 2):
            alone = output_error_scale(
                weight[group, None, :, channel, None], moment[group, None], bits[group, channel]
            )
            assert together[group, channel] == alone.item()

    def test_largest_weight_on_an_input_that_does_not_count_is_clipped(self):
        # Input 1 is dead. 0.8 / 7 puts 0.8 on the grid; 8 / 7 rounds 0.8 to 1.14.
        scale = output_error_scale(
            np.reshape([0.8, 8.0], (1, 2, 1)), np.array([np.diag([1.0, 0.0])]), 4, [1.0, 0.1]
        )
        np.testing.assert_allclose(scale, [[0.8 / 7]])

    def test_first_of_equal_candidates(self):
        # One weight: 1.0 is exact at every fraction that has it on the grid.
        scale = output_error_scale(np.ones((1, 1, 1)), np.ones((1, 1, 1)), 2, [1.0, 0.5])
        assert scale.item() == max_abs_scale(np.ones((1, 1)), 2).item() == 1.0

    def test_channel_of_zeros(self):
        assert output_error_scale(np.zeros((1, 3, 1)), np.eye(3)[None], 4).item() == 1.0

    @pytest.mark.parametrize("fractions", [[], [0.5, 0.0], [-1.0], [np.nan], [[1.0]]])
    def test_rejects_fractions(self, fractions):
        with pytest.raises(ConfigError, match="`fractions` must be"):
            output_error_scale(np.ones((1, 1, 1)), np.ones((1, 1, 1)), 4, fractions)


class TestDampedMoment:
    def test_by_hand(self):
        # mean diagonal (4 + 2 + 0) / 3 = 2, of which a half is added to each input that varies
        moment = np.array([[[4.0, 1.0, 0.1], [1.0, 2.0, 0.1], [0.1, 0.1, 0.0]]])
        expected = [[[5.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 1.0]]]
        np.testing.assert_array_equal(damped_moment(moment, 0.5), expected)

    def test_leaves_its_argument(self, rng):
        moment = correlated_moment(rng, 2, 3)
        before = moment.copy()
        damped_moment(moment, 1.0)
        np.testing.assert_array_equal(moment, before)


class TestRejects:
    def call(self, **changed: object) -> None:
        arguments = {
            "weight": np.ones((2, 3, 4)),
            "second_moment": np.stack([np.eye(3)] * 2),
            "scale": np.ones((2, 4)),
            "bits": 4,
        }
        second_order_rounding(**(arguments | changed))

    def test_the_unchanged_call_passes(self):
        self.call()

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"weight": np.ones((3, 4))}, r"\[G, n, C\]"),
            ({"weight": np.ones((2, 5, 4))}, r"\[G, n, C\]"),
            ({"weight": np.ones((2, 3, 0))}, r"\[G, n, C\]"),
            ({"weight": np.full((2, 3, 4), np.nan)}, "24 values of 24"),
            ({"second_moment": np.eye(3)}, r"\[G, n, n\]"),
            ({"second_moment": np.ones((2, 3, 2))}, r"\[G, n, n\]"),
            ({"second_moment": np.full((2, 3, 3), np.inf)}, "finite"),
            ({"second_moment": -np.stack([np.eye(3)] * 2)}, "not negative"),
            ({"second_moment": 2 - np.stack([np.eye(3)] * 2)}, "definite"),
            ({"scale": np.ones((2, 3))}, r"\[2, 4\]"),
            ({"scale": np.zeros((2, 4))}, "positive"),
            ({"bits": np.full((3, 4), 4)}, r"\[2, 4\]"),
        ],
    )
    def test_data(self, changed, message):
        with pytest.raises(DataError, match=message):
            self.call(**changed)

    @pytest.mark.parametrize("changed", [{"bits": 1}, {"damping": -0.1}, {"damping": np.nan}])
    def test_configuration(self, changed):
        with pytest.raises(ConfigError):
            self.call(**changed)
