from __future__ import annotations

import numpy as np
import pytest

from tflite_ptq4.numerics.constant_arrays import array_on_grid
from tflite_ptq4.numerics.prelu import prelu_codes


@pytest.mark.parametrize(
    ("code", "slopes", "input_scale", "output_scale", "expected"),
    [
        pytest.param(0, [0.2, 0.1], 0.05, 0.05, [0, 0], id="zero"),
        pytest.param(77, [0.2, 0.1], 0.05, 0.05, [77, 77], id="above_zero_unchanged"),
        pytest.param(
            77, [0.2, 0.1], 0.5, 1.0, [39, 39], id="38.5_is_a_tie_and_goes_away_from_zero"
        ),
        pytest.param(-77, [1.0, -1.0], 0.5, 1.0, [-39, 39], id="so_do_minus_38.5_and_38.5"),
        # The slopes share a scale of 1.27 / 127 = 0.01: 0.014 is held as 1, 0.004 as 0.
        pytest.param(-100, [1.27, 0.014, 0.004], 1.0, 1.0, [-127, -1, 0], id="slopes_of_8_bits"),
        pytest.param(-100, [0.3], 1.0, 1.0, [-30], id="one_slope_has_a_scale_of_its_own"),
    ],
)
def test_values(code, slopes, input_scale, output_scale, expected):
    found = prelu_codes([code], slopes, input_scale, output_scale)
    assert found.tolist() == [[number] for number in expected]


def test_constants_share_the_scale_of_the_largest() -> None:
    integers, scale = array_on_grid([[1.27, -0.635], [0.0, 0.01]])
    assert scale == pytest.approx(0.01)
    assert integers.tolist() == [[127, -64], [0, 1]]  # 63.5 is a tie, and goes to even
    assert integers.dtype == np.int8
    assert array_on_grid(-0.3) == (-1, pytest.approx(0.3))
