from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.numerics.rsqrt import rsqrt_codes

ALL_CODES = np.arange(256)


@pytest.mark.parametrize(
    ("code", "input_scale", "output_scale", "expected"),
    [
        pytest.param(0, 0.04, 0.05, 255, id="of_zero_the_largest_integer"),
        pytest.param(100, 0.04, 0.05, 10, id="1/sqrt(4)=0.5_in_steps_of_0.05"),
        pytest.param(25, 0.04, 0.05, 20, id="1/sqrt(1)=1"),
        pytest.param(1, 0.04, 0.05, 100, id="1/sqrt(0.04)=5"),
        pytest.param(1, 0.04, 0.005, 1000, id="not_clipped_to_int8"),
        pytest.param(16, 1.0, 0.5, 1, id="1/4_in_steps_of_1/2_is_a_tie_and_goes_up"),
        pytest.param(2, 2.0**-20, 1.0, 724, id="sqrt(2^19)=724.08"),
        # Five steps of Newton's method give 741,454 / 2^20, where 741,455.2 / 2^20 is exact.
        pytest.param(2, 2.0**-20, 2.0**-10, 741454, id="the_kernel_has_20_bits"),
    ],
)
def test_values(code, input_scale, output_scale, expected):
    assert rsqrt_codes(code, input_scale, output_scale) == expected


@given(
    input_scale=st.floats(2.0**-12, 4.0, width=32),
    largest=st.floats(1.0, 255.0),
)
def test_never_a_step_beside_the_exact_result(input_scale, largest):
    output_scale = input_scale**-0.5 / largest
    codes = rsqrt_codes(ALL_CODES, input_scale, output_scale)[1:]
    exact = 1 / (np.sqrt(ALL_CODES[1:] * input_scale) * output_scale)
    assert np.abs(codes - exact).max() <= 0.51
    assert np.all(np.diff(codes) <= 0)
