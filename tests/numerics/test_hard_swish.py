from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.numerics.hard_swish import hard_swish_codes

ALL_CODES = np.arange(-255, 256)


def real(codes: np.ndarray, input_scale: float, output_scale: float) -> np.ndarray:
    """The exact result in steps of the output."""
    x = codes * input_scale
    return x * np.clip(x + 3, 0, 6) / 6 / output_scale


@pytest.mark.parametrize(
    ("code", "input_scale", "output_scale", "expected"),
    [
        pytest.param(0, 0.05, 0.05, 0, id="zero"),
        pytest.param(-60, 0.05, 0.05, 0, id="minus_3_is_off"),
        pytest.param(-200, 0.05, 0.05, 0, id="below_minus_3_is_off"),
        pytest.param(60, 0.05, 0.05, 60, id="3_passes_whole"),
        pytest.param(100, 0.05, 0.05, 100, id="above_3_passes_whole"),
        pytest.param(100, 0.05, 0.1, 50, id="another_output_scale"),
        pytest.param(20, 0.05, 0.05, 13, id="x_1: 1*4/6=0.667 in steps of 0.05"),
        pytest.param(-30, 0.05, 0.05, -8, id="least_value: -1.5*1.5/6=-0.375, a tie, away from 0"),
        pytest.param(255, 0.05, 0.04, 319, id="not_clipped_to_int8"),
    ],
)
def test_values(code, input_scale, output_scale, expected):
    assert hard_swish_codes(code, input_scale, output_scale) == expected


def test_near_a_tie_the_kernel_is_not_the_nearest_level():
    # 92 * 0.0235 = 2.162, times 5.162 / 6, in steps of 0.04: 46.501, and LiteRT gives 46.
    assert real(np.array(92), 0.0235, 0.04) == pytest.approx(46.501, abs=1e-4)
    assert hard_swish_codes(92, 0.0235, 0.04) == 46


@given(
    input_scale=st.floats(2.0**-10, 0.5, width=32),
    ratio=st.floats(0.05, 20.0),
)
def test_never_a_whole_step_beside_the_exact_result(input_scale, ratio):
    output_scale = input_scale * ratio
    codes = hard_swish_codes(ALL_CODES, input_scale, output_scale)
    exact = real(ALL_CODES, input_scale, output_scale)
    # 16-bit factors: an error of 2^-15 of the largest value, plus the last rounding.
    bound = 0.5 + 3 * np.abs(exact).max() * 2.0**-14 + 0.02
    assert np.abs(codes - exact).max() <= bound
