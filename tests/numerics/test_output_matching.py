from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError, DataError
from tflite_ptq4.numerics.output_matching import match_channels

seeds = st.integers(0, 2**32 - 1)
channel_counts = st.integers(1, 6)
NO_LIMIT = 1e12


def draw_outputs(seed: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float and quantized outputs [samples, C], positively correlated."""
    rng = np.random.default_rng(seed)
    y_f = rng.normal(size=(500, channels)) * rng.uniform(0.1, 5.0, size=channels)
    y_q = y_f * rng.uniform(0.3, 2.0, size=channels) + 0.2 * rng.normal(size=y_f.shape)
    return y_f + rng.normal(size=channels), y_q + 3 * rng.normal(size=channels)


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


class TestRejects:
    @pytest.mark.parametrize("limit", [0.5, -1.0, np.nan, np.inf])
    def test_limit(self, limit):
        with pytest.raises(ConfigError, match="`limit`"):
            match_channels(*one(1.0, 1.0, 1.0, 1.0), limit=limit)

    @pytest.mark.parametrize(
        ("last", "message"),
        [
            (np.ones(2), "one number per channel"),
            (np.array(1.0), "one number per channel"),
            (np.array([np.nan]), "must be finite"),
        ],
    )
    def test_statistics(self, last, message):
        with pytest.raises(DataError, match=message):
            match_channels(*one(1.0, 1.0, 1.0), last, limit=2.0)


def test_rejects_a_negative_std():
    with pytest.raises(DataError, match="`quantized_std`"):
        match_channels(*one(1.0, 1.0, 1.0, -1.0), limit=2.0)
