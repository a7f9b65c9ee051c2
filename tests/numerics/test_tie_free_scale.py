from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from tflite_ptq4.numerics.tie_free_scale import (
    FUNCTIONS,
    LEAST_DISTANCE,
    tie_free_mean_scale,
    tie_free_scale,
)

STEPS = {"sigmoid": 1 / 256, "tanh": 1 / 128, "elu": 1 / 40, "gelu": 1 / 50}


def distance(kind: str, scale: float, levels: np.ndarray) -> float:
    """How far the value nearest to a tie is from it, in steps."""
    values = np.stack([function(scale * levels) for function in FUNCTIONS[kind]])
    steps = values / STEPS[kind]
    return float(np.abs(steps - np.floor(steps) - 0.5).min())


def tie_of(kind: str) -> float:
    """A scale at which the value of level 1 is a tie: 20.5 steps of the output more than f(0)."""
    if kind == "tanh":
        return float(np.arctanh(20.5 / 128))
    if kind == "elu":
        return 20.5 / 40  # above zero it is the identity
    if kind == "gelu":
        return float(brentq(lambda x: 50 * FUNCTIONS["gelu"][0](x) - 20.5, 0, 1))
    value = 0.5 + 20.5 / 256
    return float(np.log(value / (1 - value)))


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_tie_is_moved_away_by_less_than_a_percent(kind: str) -> None:
    levels, scale = np.arange(-8, 8), tie_of(kind)
    assert distance(kind, scale, levels) < 1e-9
    found = tie_free_scale(scale, levels, [kind], [STEPS[kind]])
    assert distance(kind, found, levels) >= LEAST_DISTANCE
    assert scale < found < 1.01 * scale


def test_a_scale_without_ties_stays() -> None:
    # tanh(0.25) * 128 = 31.35, tanh(0.5) * 128 = 59.15: nothing near a half.
    assert tie_free_scale(0.25, np.arange(3), ["tanh"], [1 / 128]) == 0.25


@pytest.mark.parametrize("kinds", [("sigmoid", "tanh"), ("elu",), ("gelu",)])
@given(scale=st.floats(1e-3, 0.2), zero_point=st.integers(0, 255))
def test_any_scale_of_eight_bits_can_serve(
    kinds: tuple[str, ...], scale: float, zero_point: int
) -> None:
    levels = np.arange(256) - zero_point
    found = tie_free_scale(scale, levels, kinds, [STEPS[kind] for kind in kinds])
    assert found == np.float32(found)
    assert scale * (1 - 1e-7) <= found < 1.016 * scale
    assert min(distance(kind, found, levels) for kind in kinds) >= LEAST_DISTANCE


def test_a_mean_of_64_numbers_is_never_half_a_step() -> None:
    """At equal scales the sums 32, 96, 160, ... are ties; 15 / 961 is the nearest to 1 / 64."""
    found = tie_free_mean_scale(0.5, 0.5, 64)
    assert found == np.float32(0.5 * 961 / (64 * 15))
    steps = np.arange(64 * 255) * 0.5 / (64 * found)
    assert np.abs(steps - np.floor(steps) - 0.5).min() > LEAST_DISTANCE


@given(
    scale=st.floats(1e-3, 0.2),
    ratio=st.floats(0.1, 20.0),
    count=st.sampled_from([2, 3, 49, 64, 196, 784]),
)
def test_any_mean_is_off_ties_at_a_scale_hardly_wider(
    scale: float, ratio: float, count: int
) -> None:
    found = tie_free_mean_scale(scale, scale * ratio, count)
    assert scale * (1 - 1e-6) <= found <= 1.01 * scale or count / ratio > 500
    sums = np.arange(min(count * 255, int(300 * count / ratio)) + 1)
    steps = sums * (scale * ratio) / (count * found)
    assert np.abs(steps - np.floor(steps) - 0.5).min() > 1e-5
