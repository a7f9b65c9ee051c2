from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tflite_ptq4.errors import ConfigError, StatisticsError
from tflite_ptq4.numerics.affine import fake_quantize
from tflite_ptq4.numerics.analytic_clipping import gaussian_ratio, laplace_ratio
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.ranges import affine_range
from tflite_ptq4.planning.clipping import AUTO, CLIP_METHODS, ClipChoice, choose_clip, step_range
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

values = st.one_of(st.just(0.0), st.just(6.0), st.floats(-50, 50, width=32))


def measured_error(x: np.ndarray, choice: ClipChoice, bits: int) -> float:
    """Squared error of really quantizing the values with the chosen clip."""
    scale, zero_point = affine_range(choice.low, choice.high, bits)
    return float(np.mean((fake_quantize(x, scale, zero_point, IntegerGrid(bits)) - x) ** 2))


@given(
    arrays(np.float64, (12, 3), elements=values), st.sampled_from([1, 2, 4, 8, 16]), st.booleans()
)
def test_auto_is_no_worse_than_any_candidate(x: np.ndarray, bits: int, one_sided: bool):
    stats = TensorStatistics.from_array(x)
    auto = choose_clip(stats, bits, method=AUTO, one_sided=one_sided)
    assert tuple(auto.candidates) == CLIP_METHODS
    for method in CLIP_METHODS:
        alone = choose_clip(stats, bits, method=method, one_sided=one_sided)
        assert alone.method == (method,) * 3
        np.testing.assert_array_equal(auto.candidates[method], alone.error)
        assert (auto.error <= alone.error).all()
        chosen = np.array(auto.method) == method
        np.testing.assert_array_equal(auto.low[chosen], alone.low[chosen])
        np.testing.assert_array_equal(auto.high[chosen], alone.high[chosen])


@given(
    arrays(np.float64, (12, 3), elements=values),
    st.sampled_from([1, 4, 8]),
    st.booleans(),
    st.sampled_from((*CLIP_METHODS, AUTO)),
)
def test_clips_contain_zero_and_stay_in_the_range(x, bits: int, one_sided: bool, method: str):
    choice = choose_clip(
        TensorStatistics.from_array(x), bits, method=method, one_sided=one_sided, percentile=90
    )
    lowest = np.zeros(3) if one_sided else np.minimum(x.min(axis=0), 0)
    assert (lowest <= choice.low).all() and (choice.low <= 0).all()
    assert (choice.high >= 0).all() and (choice.high <= np.maximum(x.max(axis=0), 0)).all()
    assert (choice.error >= 0).all()


@pytest.mark.parametrize(
    ("draw", "method", "ratio"),
    [
        (lambda rng, n: rng.laplace(scale=2, size=n), "laplace", laplace_ratio),
        (lambda rng, n: rng.normal(scale=2, size=n), "gaussian", gaussian_ratio),
    ],
    ids=["laplace", "gaussian"],
)
class TestKnownDensity:
    """100,000 draws: the scale is known to about 0.3 % (one standard error), plus 0.2 % of bins."""

    def test_two_sided(self, draw, method: str, ratio, rng: np.random.Generator):
        stats = TensorStatistics.from_array(draw(rng, 100_000)[:, None])
        choice = choose_clip(stats, 3, method=method, one_sided=False)
        assert choice.high[0] == pytest.approx(2 * ratio(3), rel=0.015)
        assert choice.low[0] == pytest.approx(-2 * ratio(3), rel=0.015)

    def test_a_shifted_density_is_clipped_around_its_mean(
        self, draw, method: str, ratio, rng: np.random.Generator
    ):
        stats = TensorStatistics.from_array(draw(rng, 100_000)[:, None] + 1.5)
        choice = choose_clip(stats, 2, method=method, one_sided=False)
        assert choice.high[0] == pytest.approx(1.5 + 2 * ratio(2), rel=0.015)
        assert choice.low[0] == pytest.approx(1.5 - 2 * ratio(2), rel=0.03)

    def test_one_sided_uses_the_scale_before_the_relu(
        self, draw, method: str, ratio, rng: np.random.Generator
    ):
        x = np.maximum(draw(rng, 100_000), 0)[:, None]
        choice = choose_clip(TensorStatistics.from_array(x), 2, method=method, one_sided=True)
        assert choice.low[0] == 0
        assert choice.high[0] == pytest.approx(2 * ratio(2, one_sided=True), rel=0.015)

    def test_statistics_before_the_relu_give_the_same_clip(
        self, draw, method: str, ratio, rng: np.random.Generator
    ):
        x = draw(rng, 1000)[:, None]
        for name in (method, "mse", "percentile"):
            before = choose_clip(TensorStatistics.from_array(x), 4, method=name, one_sided=True)
            after = choose_clip(
                TensorStatistics.from_array(np.maximum(x, 0)), 4, method=name, one_sided=True
            )
            np.testing.assert_allclose(before.high, after.high, rtol=1e-12)
            np.testing.assert_allclose(before.error, after.error, rtol=1e-12)

    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_the_expected_error_is_the_error_measured(
        self, draw, method: str, ratio, bits: int, rng: np.random.Generator
    ):
        x = draw(rng, 100_000)
        stats = TensorStatistics.from_array(x[:, None])
        choice = choose_clip(stats, bits, method=AUTO, one_sided=False)
        # The clipped values are few, and each is known to a bin, 1/8 of it: a few percent.
        assert choice.error[0] == pytest.approx(measured_error(x, choice, bits), rel=0.05)


def test_min_max_is_the_range():
    x = np.array([[-3.0, 1.0], [5.0, 2.0]])
    choice = choose_clip(TensorStatistics.from_array(x), 4, method="min_max", one_sided=False)
    assert choice.low.tolist() == [-3, 0]
    assert choice.high.tolist() == [5, 2]


def test_percentile_leaves_out_the_tails(rng: np.random.Generator):
    x = rng.uniform(-1, 1, size=50_000)
    choice = choose_clip(
        TensorStatistics.from_array(x[:, None]),
        4,
        method="percentile",
        one_sided=False,
        percentile=90,
    )
    # 10 % of the width 2 at either end; values are known to half a bin, 1/16 of 0.8.
    assert choice.high[0] == pytest.approx(0.8, abs=0.05)
    assert choice.low[0] == pytest.approx(-0.8, abs=0.05)


def test_a_saturated_relu6_keeps_its_end():
    # Half of the values are exactly 6, in the bin [6, 6.5): they are all at its lower edge.
    x = np.concatenate([np.full(500, 6.0), np.linspace(0, 6, 500)])
    stats = TensorStatistics.from_array(x[:, None])
    choice = choose_clip(stats, 4, method=AUTO, one_sided=True)
    assert choice.high[0] == pytest.approx(6, rel=0.01)
    # Step 6 / 15 = 0.4 for the uniform half, nothing for the other.
    assert choice.error[0] == pytest.approx(0.5 * 0.4**2 / 12, rel=0.1)


def test_zero_bits_replace_a_channel_by_its_mean():
    x = np.array([[1.0, -1.0], [3.0, 5.0]])
    choice = choose_clip(TensorStatistics.from_array(x), [0, 4], method="min_max", one_sided=False)
    assert choice.method == ("mean", "min_max")
    assert (choice.low[0], choice.high[0]) == (2, 2)
    assert choice.error[0] == (1**2 + 1**2) / 2
    assert choice.candidates["min_max"][0] == choice.error[0]
    assert (choice.low[1], choice.high[1]) == (-1, 5)


def test_all_channels_may_have_zero_bits():
    stats = TensorStatistics.from_array(np.array([[-2.0], [4.0]]))
    two_sided = choose_clip(stats, 0, method=AUTO, one_sided=False)
    assert (two_sided.method, two_sided.low[0], two_sided.error[0]) == (("mean",), 1, 9)
    # After the ReLU the values are 0 and 4.
    one_sided = choose_clip(stats, 0, method=AUTO, one_sided=True)
    assert (one_sided.low[0], one_sided.error[0]) == (2, 4)


@pytest.mark.parametrize("method", [*CLIP_METHODS, AUTO])
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_constant_and_dead_channels_are_exact(method: str, one_sided: bool, bits: int):
    x = np.tile([0.0, 2.5, 1e-20, -1.25], (9, 1))
    choice = choose_clip(TensorStatistics.from_array(x), bits, method=method, one_sided=one_sided)
    assert (choice.low[0], choice.high[0]) == (0, 0)
    assert choice.high[1] == pytest.approx(2.5, rel=1e-12)
    assert choice.low[3] == pytest.approx(0 if one_sided else -1.25, rel=1e-12)
    np.testing.assert_allclose(choice.error, 0, atol=1e-24)


def test_bits_of_each_channel_are_its_own(rng: np.random.Generator):
    x = rng.laplace(size=(2000, 3))
    stats = TensorStatistics.from_array(x)
    together = choose_clip(stats, np.array([2, 4, 8]), method=AUTO, one_sided=False)
    for channel, bits in enumerate([2, 4, 8]):
        alone = choose_clip(
            TensorStatistics.from_array(x[:, [channel]]), bits, method=AUTO, one_sided=False
        )
        assert together.method[channel] == alone.method[0]
        assert together.high[channel] == pytest.approx(alone.high[0], rel=1e-12)
        assert together.error[channel] == pytest.approx(alone.error[0], rel=1e-12)


@pytest.mark.parametrize("bits", [-1, 17, 4.0, [4, 4], "4", [[4]]])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ConfigError, match="`bits` must be"):
        choose_clip(
            TensorStatistics.from_array(np.ones((2, 3))), bits, method=AUTO, one_sided=False
        )


@pytest.mark.parametrize("percentile", [49.9, 100.1, float("nan")])
def test_impossible_percentiles_are_refused(percentile: float):
    stats = TensorStatistics.from_array(np.ones((2, 1)))
    with pytest.raises(ConfigError, match="`percentile` must be"):
        choose_clip(stats, 4, method=AUTO, one_sided=False, percentile=percentile)


def test_an_unknown_method_is_refused_with_the_known_ones():
    stats = TensorStatistics.from_array(np.ones((2, 1)))
    with pytest.raises(ConfigError, match=r"laplace.*auto.*'minmax'"):
        choose_clip(stats, 4, method="minmax", one_sided=False)


def test_a_channel_that_was_never_seen_is_refused():
    with pytest.raises(StatisticsError, match=r"channels \[0, 1\]"):
        choose_clip(TensorStatistics.empty(2), 4, method=AUTO, one_sided=False)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param({"bounds": (-1.0, 2.0)}, (-1.0, 2.0), id="bounds"),
        pytest.param({"times_least": 4.0}, (0.0, 2.0), id="four_times_0.5"),
        pytest.param({"times_least": 64.0}, (0.0, 10.0), id="no_more_than_the_largest"),
        pytest.param({"times_least": np.inf}, (0.0, 10.0), id="the_whole_range"),
    ],
)
def test_the_range_of_a_step_inside_a_layer(attributes: dict, expected: tuple[float, float]):
    stats = TensorStatistics.from_array(np.array([[0.5], [1.0], [10.0]]))
    low, high = step_range(attributes, stats)
    assert (low.tolist(), high.tolist()) == ([expected[0]], [expected[1]])


def test_where_the_least_value_is_zero_the_whole_range_is_still_one():
    stats = TensorStatistics.from_array(np.array([[0.0], [3.0]]))
    _, high = step_range({"times_least": np.inf}, stats)
    assert high.tolist() == [3.0]


def test_other_operators_have_no_such_range():
    assert step_range({"constant": 3.0}, TensorStatistics.from_array(np.ones((2, 1)))) is None
