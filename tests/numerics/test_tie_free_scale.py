from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.numerics.tie_free_scale import FUNCTIONS, LEAST_DISTANCE, tie_free_scale

STEPS = {"sigmoid": 1 / 256, "tanh": 1 / 128}


def distance(kind: str, scale: float, levels: np.ndarray) -> float:
    """How far the value nearest to a tie is from it, in steps."""
    steps = FUNCTIONS[kind](scale * levels) / STEPS[kind]
    return float(np.abs(steps - np.floor(steps) - 0.5).min())


def tie_of(kind: str) -> float:
    """A scale at which the value of level 1 is a tie: 20.5 steps of the output more than f(0)."""
    if kind == "tanh":
        return float(np.arctanh(20.5 / 128))
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


@given(st.floats(1e-3, 0.2), st.integers(0, 255))
def test_any_scale_of_eight_bits_can_serve_both(scale: float, zero_point: int) -> None:
    levels = np.arange(256) - zero_point
    found = tie_free_scale(scale, levels, list(STEPS), list(STEPS.values()))
    assert found == np.float32(found)
    assert scale * (1 - 1e-7) <= found < 1.016 * scale
    assert min(distance(kind, found, levels) for kind in STEPS) >= LEAST_DISTANCE
