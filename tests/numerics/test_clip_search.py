from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.numerics.affine import fake_quantize
from tflite_ptq4.numerics.analytic_clipping import gaussian_ratio, laplace_ratio
from tflite_ptq4.numerics.clip_search import histogram_clip_error, percentile_clip, search_clip
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.ranges import affine_range


def one_row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float64)


def clip_error(counts, edges, low, high, bits, minimum=None, maximum=None) -> float:
    """`histogram_clip_error` of one channel and one candidate."""
    edges = np.asarray(edges, np.float64)
    span = [edges[:1] if minimum is None else np.array([minimum], np.float64)]
    span += [edges[-1:] if maximum is None else np.array([maximum], np.float64)]
    error = histogram_clip_error(
        np.array([counts]), edges, *span, one_row(low), one_row(high), np.array([bits])
    )
    assert error.shape == (1, 1)
    return float(error[0, 0])


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        # 2 bits on [0, 3]: step 1; values uniform over whole steps err by step^2 / 12.
        ("rounding alone", ([5], [0, 3], 0, 3, 2), 1 / 12),
        # The part of a step near its grid point: mean of x^2 on [0, 1/4] = (1/4)^2 / 3.
        ("inside one step", ([5], [0, 0.25], 0, 3, 2), 0.25**2 / 3),
        # Beyond the clip at 3: mean of (x - 3)^2 on [5, 6] = (3^3 - 2^3) / 3.
        ("clipped above", ([5], [5, 6], 0, 3, 2), (27 - 8) / 3),
        # Below the clip at 0: mean of x^2 on [-2, -1] = (8 - 1) / 3.
        ("clipped below", ([5], [-2, -1], 0, 3, 2), (8 - 1) / 3),
        # Two bins weighted 1 : 3.
        ("two bins", ([1, 3], [0, 3, 6], 0, 3, 2), (1 * 1 / 12 + 3 * (27 / 3) / 3) / 4),
        # All values of [5, 6] are 5, the maximum: a point, (5 - 3)^2.
        ("mass at the maximum", ([5], [5, 6], 0, 3, 2, 0, 5), 4.0),
        # [-1, 2] at 2 bits: step 1, zero point 1, grid -1, 0, 1, 2.
        ("both signs", ([4], [-1, 2], -1, 2, 2), 1 / 12),
        # 1 bit on [0, 1]: rounds to 0 or 1, still step^2 / 12.
        ("one bit", ([4], [0, 1], 0, 1, 1), 1 / 12),
        ("sixteen bits", ([4], [0, 65535], 0, 65535, 16), 1 / 12),
        # Everything is zero: nothing to err on, whatever the clip.
        ("dead", ([4], [-1, 1], 0, 0, 4, 0, 0), 0.0),
        # The empty clip has step 1 and the integers 0..15; 0.4 reads as 0.
        ("empty clip", ([4], [0, 1], 0, 0, 4, 0.4, 0.4), 0.4**2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_expected_error_by_hand(name: str, arguments: tuple, expected: float):
    assert clip_error(*arguments) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@given(
    low=st.floats(-4, 0),
    high=st.floats(0.01, 4),
    bits=st.integers(1, 8),
    counts=st.lists(st.integers(0, 9), min_size=5, max_size=5).filter(any),
)
def test_expected_error_is_the_mean_over_dense_points(low, high, bits, counts):
    edges = np.array([-3.0, -1.0, -0.1, 0.1, 2.0, 5.0])
    points = 2000
    fractions = (np.arange(points) + 0.5) / points
    x = edges[:-1, None] + np.diff(edges)[:, None] * fractions
    scale, zero_point = affine_range(low, high, bits)
    squared = (fake_quantize(x, scale, zero_point, IntegerGrid(bits)) - x) ** 2
    dense = np.average(squared.mean(axis=1), weights=counts)
    # The midpoint rule of the widest bin: spacing 3 / 2000, the slope of a squared residual is at
    # most twice the largest residual, here below 7.
    assert clip_error(counts, edges, low, high, bits) == pytest.approx(dense, rel=1e-3, abs=2e-5)


def test_channels_and_candidates_are_independent(rng: np.random.Generator):
    edges = np.linspace(-2, 2, 9)
    counts = rng.integers(0, 5, size=(3, 8)) + 1
    low, high = -rng.uniform(0, 2, size=(3, 4)), rng.uniform(0, 2, size=(3, 4))
    bits = np.array([1, 4, 8])
    error = histogram_clip_error(counts, edges, np.full(3, -2.0), np.full(3, 2.0), low, high, bits)
    for channel, candidate in np.ndindex(error.shape):
        alone = clip_error(
            counts[channel],
            edges,
            low[channel, candidate],
            high[channel, candidate],
            int(bits[channel]),
        )
        assert error[channel, candidate] == alone


def fine_histogram(x: np.ndarray) -> tuple[np.ndarray, ...]:
    counts, edges = np.histogram(x, bins=2000)
    return counts[None], edges, np.array([x.min()]), np.array([x.max()])


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize(
    ("draw", "ratio"),
    [
        (lambda rng: rng.laplace(size=200_000), laplace_ratio),
        (lambda rng: rng.normal(size=200_000), gaussian_ratio),
    ],
    ids=["laplace", "gaussian"],
)
def test_search_finds_the_analytic_optimum(draw, ratio, bits: int, rng: np.random.Generator):
    data = fine_histogram(draw(rng))
    _, _, error = search_clip(*data, np.array([bits]))
    alpha = ratio(bits)
    analytic = histogram_clip_error(*data, one_row(-alpha), one_row(alpha), np.array([bits]))
    # The analytic error takes rounding as uniform noise, which is coarse at 2 bits: 5 % there.
    assert error[0] <= analytic[0, 0] * (1 + 1e-3)
    assert error[0] >= analytic[0, 0] * 0.95


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_search_recovers_the_clip_of_a_rectified_laplace(bits: int, rng: np.random.Generator):
    x = np.maximum(rng.laplace(size=200_000), 0)
    low, high, _ = search_clip(*fine_histogram(x), np.array([bits]))
    assert low[0] == 0
    # The minimum is flat: 10 % of alpha changes the error by about 1 %.
    assert high[0] == pytest.approx(laplace_ratio(bits, one_sided=True), rel=0.1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("sides", ["both", "positive", "negative", "skewed"])
def test_no_scanned_clip_is_better_by_more_than_the_steps_of_the_search(
    bits: int, sides: str, rng: np.random.Generator
):
    x = rng.standard_t(4, size=20_000)
    x = {
        "both": x,
        "positive": np.abs(x),
        "negative": -np.abs(x),
        "skewed": np.where(x < 0, x / 9, x),
    }[sides]
    data = fine_histogram(x)
    low, high, error = search_clip(*data, np.array([bits]))
    assert min(x.min(), 0) <= low[0] <= 0 <= high[0] <= max(x.max(), 0)
    alpha = np.linspace(0.005, 1, 200)[None] * np.abs(x).max()
    scan_low, scan_high = np.maximum(-alpha, min(x.min(), 0)), np.minimum(alpha, max(x.max(), 0))
    scanned = histogram_clip_error(*data, scan_low, scan_high, np.array([bits]))
    assert error[0] <= scanned.min() * 1.02
    assert error[0] == histogram_clip_error(*data, low[:, None], high[:, None], np.array([bits]))


def test_an_outlier_on_one_side_does_not_shrink_the_other():
    # 1000 values uniform on [-1, 1] and one at 100: at 8 bits [-1, 1] costs 99^2 / 1001 = 9.8,
    # [-1, 100] costs (101 / 255)^2 / 12 = 0.013, a little more as the steps do not fit [-1, 1].
    edges = np.array([-1.0, 1.0, 99.0, 100.0])
    low, high, error = search_clip(
        np.array([[1000, 0, 1]]), edges, np.array([-1.0]), np.array([100.0]), np.array([8])
    )
    assert error[0] <= (101 / 255) ** 2 / 12 * 1.05
    assert low[0] <= -0.5 and high[0] >= 99


def test_each_channel_of_a_search_is_searched_on_its_own(rng: np.random.Generator):
    edges = np.linspace(-4, 4, 81)
    counts = rng.integers(0, 9, size=(4, 80))
    counts[1, :40] = 0  # one-sided
    minimum, maximum = np.array([-4, 0, -4, -4.0]), np.full(4, 4.0)
    bits = np.array([2, 4, 4, 8])
    together = search_clip(counts, edges, minimum, maximum, bits)
    for channel in range(4):
        row = slice(channel, channel + 1)
        alone = search_clip(counts[row], edges, minimum[row], maximum[row], bits[row])
        for found, expected in zip(together, alone, strict=True):
            assert found[channel] == expected[0]


def test_a_dead_channel_has_an_empty_clip_without_error():
    found = search_clip(
        np.array([[0, 7, 0]]), one_row(-1, -0.1, 0.1, 1)[0], np.zeros(1), np.zeros(1), np.array([4])
    )
    assert [value.tolist() for value in found] == [[0.0], [0.0], [0.0]]


@pytest.mark.parametrize(
    ("percentile", "expected"),
    [
        # 100 values uniform on [-2, 2] in two equal bins.
        (100, (-2, 2)),
        (90, (-2 + 4 * 0.1, 2 - 4 * 0.1)),
        (75, (-1, 1)),
        (50, (0, 0)),
    ],
)
def test_percentiles_of_a_uniform_density(percentile: float, expected: tuple[float, float]):
    low, high = percentile_clip(
        np.array([[50, 50]]), np.array([-2.0, 0, 2]), np.array([-2.0]), np.array([2.0]), percentile
    )
    assert (low[0], high[0]) == pytest.approx(expected, abs=1e-12)


def test_percentiles_stay_inside_the_range_and_contain_zero():
    edges = np.array([0.0, 2.0, 4.0])
    low, high = percentile_clip(
        np.array([[10, 10]]), edges, np.array([1.0]), np.array([3.0]), percentile=100
    )
    assert (low[0], high[0]) == (0, 3)


def test_percentiles_agree_with_numpy(rng: np.random.Generator):
    x = rng.normal(size=50_000)
    counts, edges, minimum, maximum = fine_histogram(x)
    low, high = percentile_clip(counts, edges, minimum, maximum, 99)
    width = edges[1] - edges[0]
    assert low[0] == pytest.approx(np.percentile(x, 1), abs=width)
    assert high[0] == pytest.approx(np.percentile(x, 99), abs=width)
