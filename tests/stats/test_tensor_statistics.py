from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tflite_ptq4.errors import StatisticsError
from tflite_ptq4.stats.histogram import BIN_COUNT, ZERO_BIN
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

EXACT = ("count", "minimum", "maximum", "positive_count", "histogram")
MOMENTS = ("mean", "m2", "positive_mean", "positive_m2")

values = st.one_of(st.just(0.0), st.floats(-100, 100), st.sampled_from([6.0, -3.5]))
batches = st.lists(
    st.integers(0, 7).flatmap(lambda n: arrays(np.float64, (n, 2), elements=values)),
    min_size=1,
    max_size=4,
)


def assert_same(actual: TensorStatistics, expected: TensorStatistics) -> None:
    for name in EXACT:
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)
    for name in MOMENTS:
        # Values up to 100, at most 28 of them: rounding stays far below 1e-9 of a sum of squares.
        np.testing.assert_allclose(
            getattr(actual, name), getattr(expected, name), rtol=1e-9, atol=1e-9, err_msg=name
        )


def test_one_channel_by_hand():
    stats = TensorStatistics.from_array(np.array([[-2.0], [0.0], [1.0], [5.0]]))
    assert stats.count == 4
    assert (stats.minimum, stats.maximum) == (-2, 5)
    assert stats.mean == (-2 + 0 + 1 + 5) / 4
    assert stats.m2 == 3**2 + 1**2 + 0**2 + 4**2
    assert stats.std == np.sqrt(26 / 4)
    assert stats.positive_count == 2
    assert stats.positive_mean == (1 + 5) / 2
    assert stats.positive_m2 == 2**2 + 2**2
    assert stats.histogram.sum() == 4
    assert stats.histogram[0, ZERO_BIN] == 1


@given(batches)
def test_merging_uneven_shards_equals_one_pass(shards: list[np.ndarray]):
    merged = TensorStatistics.empty(2)
    for shard in shards:
        merged = merged.merge(TensorStatistics.from_array(shard))
    assert_same(merged, TensorStatistics.from_array(np.concatenate(shards)))


@given(st.tuples(*[arrays(np.float64, (3, 2), elements=values)] * 3))
def test_merge_is_associative_and_commutative(shards: tuple[np.ndarray, ...]):
    a, b, c = map(TensorStatistics.from_array, shards)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert a.merge(b) == b.merge(a)


def test_empty_is_the_identity_of_merge(rng: np.random.Generator):
    stats = TensorStatistics.from_array(rng.normal(size=(50, 3)))
    assert stats.merge(TensorStatistics.empty(3)) == stats
    assert TensorStatistics.empty(3).merge(stats) == stats


def test_empty_has_no_range_and_no_deviation():
    empty = TensorStatistics.empty(2)
    assert empty.channels == 2
    assert not empty.count.any()
    assert np.isposinf(empty.minimum).all() and np.isneginf(empty.maximum).all()
    assert np.isnan(empty.std).all()
    assert np.isnan(empty.mean_abs_deviation).all()
    assert empty.rectified() == empty
    assert empty.merge(empty) == empty


def test_small_variance_survives_a_large_mean():
    # Sums of squares would lose it: 1e8^2 = 1e16 has no room for 0.25 in float64.
    shards = [np.array([[1e8 - 0.5], [1e8 + 0.5]])] * 2
    first, second = map(TensorStatistics.from_array, shards)
    assert first.merge(second).std == 0.5


@given(arrays(np.float64, (5, 3), elements=values))
def test_per_tensor_is_one_pass_over_all_channels(x: np.ndarray):
    assert_same(
        TensorStatistics.from_array(x).per_tensor(), TensorStatistics.from_array(x.reshape(-1, 1))
    )


@given(arrays(np.float64, (6, 2), elements=values))
def test_rectified_is_one_pass_over_the_relu(x: np.ndarray):
    assert_same(
        TensorStatistics.from_array(x).rectified(), TensorStatistics.from_array(np.maximum(x, 0))
    )


@given(arrays(np.float64, (6, 2), elements=values), st.integers(1, 5))
def test_a_weighted_channel_counts_as_several(x: np.ndarray, times: int):
    """Weights in the ratio 1 : k are k copies of the second channel, up to a common factor."""
    weighted = TensorStatistics.from_array(x).per_tensor(np.array([1.0, times]))
    copies = TensorStatistics.from_array(x[:, [0] + [1] * times]).per_tensor()
    share = weighted.count / copies.count
    np.testing.assert_allclose(weighted.histogram / share[0], copies.histogram, rtol=0.05, atol=0.5)
    np.testing.assert_allclose(weighted.minimum, copies.minimum)
    np.testing.assert_allclose(weighted.maximum, copies.maximum)


def test_weights_by_hand():
    """Weights 0 and 2: the second channel counts 2^17 times, the first once, its range in full."""
    x = np.array([[8.0, 1.0], [-8.0, 1.0]])
    stats = TensorStatistics.from_array(x).per_tensor(np.array([0.0, 2.0]))
    assert (stats.count.item(), stats.minimum.item(), stats.maximum.item()) == (2 + 2**18, -8, 8)
    assert stats.mean.item() == pytest.approx(2**18 / (2**18 + 2))
    mean = stats.mean.item()
    assert stats.m2.item() == pytest.approx(2 * 64 + 2**18 * (1 - mean) ** 2 + 2 * mean**2)
    plain = TensorStatistics.from_array(x)
    assert plain.per_tensor(np.zeros(2)) == plain.per_tensor()


@pytest.mark.parametrize(
    ("count", "dtype"),
    [(1, "int16"), (32_767, "int16"), (32_768, "int32"), (2**31 - 1, "int32"), (2**31, "int64")],
)
def test_histograms_are_as_narrow_as_their_counts(count: int, dtype: str):
    ones = TensorStatistics.from_array(np.ones((1, 1)))
    one = {field.name: getattr(ones, field.name) for field in fields(ones)}
    many = {
        name: one[name].astype(np.int64) * count
        for name in ("count", "positive_count", "histogram")
    }
    stats = TensorStatistics(**(one | many))
    assert stats.histogram.dtype == dtype
    assert stats.histogram.max() == stats.histogram.sum() == count
    assert stats.merge(stats).histogram.max() == 2 * count
    with pytest.raises(StatisticsError, match="must be >= 0"):
        TensorStatistics(**(one | {"histogram": -many["histogram"]}))


def test_leading_axes_do_not_matter(rng: np.random.Generator):
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    assert TensorStatistics.from_array(x) == TensorStatistics.from_array(x.reshape(-1, 5))
    assert TensorStatistics.from_array(x[0, 0, 0]).count.tolist() == [1] * 5


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.laplace(size=n),
        lambda rng, n: rng.normal(loc=0.3, size=n),
        lambda rng, n: rng.uniform(-1, 3, size=n),
        lambda rng, n: rng.exponential(size=n),
        lambda rng, n: np.clip(4 * rng.normal(size=n), 0, 6),
        lambda rng, n: 1e-6 * rng.normal(size=n),
    ],
    ids=["laplace", "shifted normal", "uniform", "exponential", "relu6", "tiny"],
)
def test_mean_abs_deviation_is_within_one_percent_of_exact(draw, rng: np.random.Generator):
    x = draw(rng, 20_000)
    stats = TensorStatistics.from_array(x[:, None])
    np.testing.assert_allclose(stats.mean_abs_deviation, np.abs(x - x.mean()).mean(), rtol=0.01)


@given(arrays(np.float64, (8, 1), elements=values))
def test_mean_abs_deviation_keeps_its_bound_for_any_data(x: np.ndarray):
    stats = TensorStatistics.from_array(x)
    exact = np.abs(x - x.mean()).mean()
    # Half a bin of at most an eighth of the value, and the width of the zero bin.
    bound = np.abs(x).mean() / 16 + 2.0**-31
    assert abs(stats.mean_abs_deviation[0] - exact) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, -7.7])
def test_a_constant_channel_has_no_deviation(value: float):
    stats = TensorStatistics.from_array(np.full((10, 1), value))
    np.testing.assert_allclose(stats.mean_abs_deviation, 0, atol=1e-12)
    np.testing.assert_allclose(stats.std, 0, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_channel(value: float):
    x = np.zeros((4, 3), np.float32)
    x[2, 1] = value
    with pytest.raises(StatisticsError, match="channel 1 holds"):
        TensorStatistics.from_array(x)


def test_a_scalar_has_no_channels():
    with pytest.raises(StatisticsError, match="channel axis"):
        TensorStatistics.from_array(1.0)


def test_different_channels_do_not_merge():
    with pytest.raises(StatisticsError, match="2 and 3"):
        TensorStatistics.empty(2).merge(TensorStatistics.empty(3))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mean", np.zeros(3), r"'mean' must be float64 of shape \(2,\)"),
        ("count", np.array([4.0, 4.0]), "'count' must be int64"),
        ("histogram", np.zeros((2, 7), int), "'histogram' must be"),
        ("count", np.array([5, 4]), "sum to the channel's count"),
        ("positive_count", np.array([5, 0]), "positive_count"),
        ("mean", np.array([np.nan, 0]), "mean must be finite"),
        ("m2", np.array([-1.0, 0]), ">= 0"),
        ("maximum", np.array([np.inf, 0]), "must be finite"),
        ("minimum", np.array([2.0, 0]), "minimum must be <= maximum"),
    ],
)
def test_impossible_records_are_refused(field: str, value: np.ndarray, message: str):
    stats = TensorStatistics.from_array(np.array([[1.0, 0.0]] * 4))
    with pytest.raises(StatisticsError, match=message):
        replace(stats, **{field: value})


def test_a_channel_without_values_must_not_claim_a_range():
    with pytest.raises(StatisticsError, match="count 0"):
        replace(TensorStatistics.empty(1), minimum=np.zeros(1), maximum=np.zeros(1))


def test_the_range_may_be_wider_than_the_sampled_histogram():
    sample = TensorStatistics.from_array(np.ones((4, 1)))
    wider = replace(sample, minimum=np.array([-3.0]), maximum=np.array([9.0]))
    assert (wider.minimum, wider.maximum, wider.count) == (-3, 9, 4)


def test_arrays_are_read_only_and_the_inputs_stay_writable():
    count = np.zeros(1, np.int64)
    stats = replace(TensorStatistics.empty(1), count=count)
    for field in fields(stats):
        with pytest.raises(ValueError, match="read-only"):
            getattr(stats, field.name)[...] = 0
    count[0] = 0
    assert stats.histogram.shape == (1, BIN_COUNT)


def test_equality_sees_every_field():
    stats = TensorStatistics.from_array(np.array([[1.0], [2.0]]))
    assert stats == TensorStatistics.from_array(np.array([[2.0], [1.0]]))
    assert stats != replace(stats, positive_mean=stats.positive_mean + 1)
    assert stats != "statistics"


def test_bins_that_no_channel_fills_take_no_memory():
    """One value in each of 3 channels, in 2 bins: 3 x 2 counts are kept, not 3 x 1025."""
    stats = TensorStatistics.from_array(np.array([[1.0, 1.0, -4.0]]))
    kept = [value for value in vars(stats).values() if value.ndim == 2]
    assert [value.shape for value in kept] == [(3, 2)]
    assert np.count_nonzero(stats.histogram) == 3
    assert stats.histogram.sum(axis=1).tolist() == [1, 1, 1]
