from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.numerics.leaky_relu import leaky_relu_codes

ALL_CODES = np.arange(-255, 256)


@pytest.mark.parametrize(
    ("code", "slope", "input_scale", "output_scale", "expected"),
    [
        pytest.param(0, 0.2, 0.05, 0.05, 0, id="zero"),
        pytest.param(77, 0.2, 0.05, 0.05, 77, id="above_zero_unchanged"),
        pytest.param(77, 0.2, 0.05, 0.1, 39, id="38.5_is_a_tie_and_goes_up"),
        pytest.param(-77, 1.0, 0.05, 0.1, -38, id="minus_38.5_goes_up_too"),
        pytest.param(-100, 0.25, 0.05, 0.05, -25, id="a_quarter_below_zero"),
        pytest.param(-100, 2.0, 0.05, 0.05, -200, id="steeper_below_zero"),
        # 0.3 * 256 = 76.8 is held as 77: 127 * 77 / 256 = 38.2 where 38.1 is exact, and
        # 250 * 77 / 256 = 75.2 where 75.0 is.
        pytest.param(-127, 0.3, 1.0, 1.0, -38, id="slope_of_8_bits"),
        # 0.0314 * 256 = 8.04 is held as 8: 255 * 8 / 256 = 7.97 is 8, and 8.007 exactly.
        pytest.param(-255, 0.0314, 1.0, 1.0, -8, id="faint_slope"),
        pytest.param(-255, 0.001, 1.0, 1.0, 0, id="fainter_than_a_256th_is_left_to_the_builtin"),
    ],
)
def test_values(code, slope, input_scale, output_scale, expected):
    assert leaky_relu_codes(code, slope, input_scale, output_scale) == expected


def test_a_slope_of_eight_bits_is_not_always_the_nearest_level():
    # 0.9745 * 256 = 249.47 is held as 249: 254 * 249 / 256 = 247.05, where 247.52 is exact.
    assert leaky_relu_codes(254, 0.1, 0.9745, 1.0) == 247


@given(
    slope=st.floats(0.0, 2.0),
    input_scale=st.floats(2.0**-10, 0.5, width=32),
    ratio=st.floats(0.1, 10.0),
)
def test_never_far_from_the_exact_result(slope, input_scale, ratio):
    output_scale = input_scale * ratio
    codes = leaky_relu_codes(ALL_CODES, slope, input_scale, output_scale)
    exact = ALL_CODES * np.where(ALL_CODES > 0, 1.0, slope) / ratio
    # Half a step of the last rounding, and 255 times half a 256th for the slope.
    assert np.abs(codes - exact).max() <= 1.01
