from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.output_matching import match_channels, regress_channels

seeds = st.integers(0, 2**32 - 1)
channel_counts = st.integers(1, 6)
NO_LIMIT = 1e12


def draw_outputs(seed: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float and quantized outputs [samples, C], positively correlated."""
    rng = np.random.default_rng(seed)
    y_f = rng.normal(size=(500, channels)) * rng.uniform(0.1, 5.0, size=channels)
    y_q = y_f * rng.uniform(0.3, 2.0, size=channels) + 0.2 * rng.normal(size=y_f.shape)
    return y_f + rng.normal(size=channels), y_q + 3 * rng.normal(size=channels)


def covariance(y_f: np.ndarray, y_q: np.ndarray) -> np.ndarray:
    return np.mean((y_f - y_f.mean(axis=0)) * (y_q - y_q.mean(axis=0)), axis=0)


def one(*numbers: float) -> list[np.ndarray]:
    return [np.array([number]) for number in numbers]


class TestMatchChannels:
    @given(channel_counts, seeds)
    def test_gives_the_float_mean_and_std(self, channels, seed):
        y_f, y_q = draw_outputs(seed, channels)
        factor, shift = match_channels(
            y_f.mean(axis=0), y_f.std(axis=0), y_q.mean(axis=0), y_q.std(axis=0), limit=NO_LIMIT
        )
        matched = factor * y_q + shift
        np.testing.assert_allclose(matched.mean(axis=0), y_f.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(matched.std(axis=0), y_f.std(axis=0), rtol=1e-12)

    @pytest.mark.parametrize(
        ("mean_f", "std_f", "mean_q", "std_q", "factor", "shift"),
        [
            # factor = std_f / std_q within [1/4, 4], shift = mean_f - factor * mean_q
            pytest.param(1.0, 3.0, 2.0, 2.0, 1.5, 1.0 - 1.5 * 2.0, id="within-the-limit"),
            pytest.param(1.0, 9.0, 2.0, 1.0, 4.0, 1.0 - 4.0 * 2.0, id="clipped-from-9"),
            pytest.param(1.0, 1.0, 2.0, 9.0, 0.25, 1.0 - 0.25 * 2.0, id="clipped-from-1/9"),
            pytest.param(1.0, 3.0, 2.0, 0.0, 1.0, 1.0 - 2.0, id="constant-quantized-output"),
            pytest.param(1.0, 0.0, 2.0, 3.0, 1.0, 1.0 - 2.0, id="constant-float-output"),
            pytest.param(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, id="dead-channel"),
            pytest.param(1.0, 3.0, 2.0, 2e-7, 1.0, 1.0 - 2.0, id="constant-but-for-noise"),
            pytest.param(0.0, 3e-9, 0.0, 2e-9, 1.5, 0.0, id="small-is-not-constant"),
        ],
    )
    def test_by_hand(self, mean_f, std_f, mean_q, std_q, factor, shift):
        result = match_channels(*one(mean_f, std_f, mean_q, std_q), limit=4.0)
        np.testing.assert_allclose(result, [[factor], [shift]])

    def test_limit_of_one_matches_the_mean_alone(self):
        factor, shift = match_channels(*one(5.0, 3.0, 2.0, 1.0), limit=1.0)
        assert (factor.item(), shift.item()) == (1.0, 3.0)


class TestRegressChannels:
    @given(channel_counts, seeds)
    def test_is_the_least_squares_line(self, channels, seed):
        y_f, y_q = draw_outputs(seed, channels)
        factor, shift = regress_channels(
            y_f.mean(axis=0),
            y_q.mean(axis=0),
            y_q.std(axis=0),
            covariance(y_f, y_q),
            limit=NO_LIMIT,
        )
        for channel in range(channels):
            expected = np.polynomial.polynomial.polyfit(y_q[:, channel], y_f[:, channel], 1)
            np.testing.assert_allclose([shift[channel], factor[channel]], expected, rtol=1e-6)

    @given(channel_counts, seeds)
    def test_is_the_matching_factor_times_the_correlation(self, channels, seed):
        y_f, y_q = draw_outputs(seed, channels)
        mean_f, std_f, mean_q, std_q = y_f.mean(0), y_f.std(0), y_q.mean(0), y_q.std(0)
        shared = covariance(y_f, y_q)
        matched, _ = match_channels(mean_f, std_f, mean_q, std_q, limit=NO_LIMIT)
        regressed, _ = regress_channels(mean_f, mean_q, std_q, shared, limit=NO_LIMIT)
        np.testing.assert_allclose(regressed, matched * shared / (std_f * std_q), rtol=1e-12)

    @pytest.mark.parametrize(
        ("mean_f", "mean_q", "std_q", "covariance", "factor", "shift"),
        [
            # factor = covariance / std_q^2 within [1/4, 4], shift = mean_f - factor * mean_q
            pytest.param(1.0, 2.0, 2.0, 6.0, 1.5, 1.0 - 1.5 * 2.0, id="within-the-limit"),
            pytest.param(1.0, 2.0, 2.0, -6.0, 0.25, 1.0 - 0.25 * 2.0, id="anticorrelated"),
            pytest.param(1.0, 2.0, 2.0, 0.0, 0.25, 1.0 - 0.25 * 2.0, id="uncorrelated"),
            pytest.param(1.0, 2.0, 0.0, 0.0, 1.0, 1.0 - 2.0, id="constant-quantized-output"),
            # 1e-200 squared underflows to zero
            pytest.param(0.0, 0.0, 1e-200, 2e-200 * 1e-100, 4.0, 0.0, id="tiny-std"),
        ],
    )
    def test_by_hand(self, mean_f, mean_q, std_q, covariance, factor, shift):
        result = regress_channels(*one(mean_f, mean_q, std_q, covariance), limit=4.0)
        np.testing.assert_allclose(result, [[factor], [shift]])


@pytest.mark.parametrize("function", [match_channels, regress_channels])
class TestRejects:
    @pytest.mark.parametrize("limit", [0.5, -1.0, np.nan, np.inf])
    def test_limit(self, function, limit):
        with pytest.raises(ConfigError, match="`limit`"):
            function(*one(1.0, 1.0, 1.0, 1.0), limit=limit)

    @pytest.mark.parametrize(
        ("last", "message"),
        [
            (np.ones(2), "one number per channel"),
            (np.array(1.0), "one number per channel"),
            (np.array([np.nan]), "must be finite"),
        ],
    )
    def test_statistics(self, function, last, message):
        with pytest.raises(DataError, match=message):
            function(*one(1.0, 1.0, 1.0), last, limit=2.0)


def test_rejects_a_negative_std():
    with pytest.raises(DataError, match="`quantized_std`"):
        match_channels(*one(1.0, 1.0, 1.0, -1.0), limit=2.0)
