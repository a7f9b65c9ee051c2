from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import ConfigError
from tflite_ptq4.numerics.grid import IntegerGrid


@pytest.mark.parametrize(
    ("bits", "signed", "narrow_range", "qmin", "qmax"),
    [
        pytest.param(1, False, False, 0, 1, id="unsigned_1_bit"),
        pytest.param(4, False, False, 0, 15, id="unsigned_4_bits"),
        pytest.param(8, False, False, 0, 255, id="unsigned_8_bits"),
        pytest.param(1, True, False, -1, 0, id="signed_1_bit"),
        pytest.param(4, True, False, -8, 7, id="signed_4_bits"),
        pytest.param(32, True, False, -(2**31), 2**31 - 1, id="signed_32_bits"),
        pytest.param(2, True, True, -1, 1, id="narrow_2_bits_is_ternary"),
        pytest.param(4, True, True, -7, 7, id="narrow_4_bits"),
        pytest.param(8, True, True, -127, 127, id="narrow_8_bits"),
    ],
)
def test_ends(bits, signed, narrow_range, qmin, qmax):
    grid = IntegerGrid(bits, signed, narrow_range)
    assert (grid.qmin, grid.qmax, grid.levels) == (qmin, qmax, qmax - qmin + 1)


@given(bits=st.integers(1, 31))
def test_full_grid_has_all_the_levels_of_its_bits(bits):
    assert IntegerGrid(bits).levels == IntegerGrid(bits, signed=True).levels == 2**bits


@given(bits=st.integers(2, 32))
def test_narrow_grid_is_symmetric_and_one_level_short(bits):
    narrow = IntegerGrid(bits, signed=True, narrow_range=True)
    assert narrow.qmin == -narrow.qmax
    assert narrow.levels == 2**bits - 1


@given(bits=st.lists(st.integers(2, 16), min_size=1, max_size=8), narrow=st.booleans())
def test_per_channel_grid_is_the_grid_of_each_channel(bits, narrow):
    grid = IntegerGrid(bits, signed=True, narrow_range=narrow)
    each = [IntegerGrid(b, signed=True, narrow_range=narrow) for b in bits]
    np.testing.assert_array_equal(grid.qmin, [g.qmin for g in each])
    np.testing.assert_array_equal(grid.qmax, [g.qmax for g in each])
    np.testing.assert_array_equal(grid.levels, [g.levels for g in each])


def test_equal_bits_make_equal_hashable_grids_whatever_holds_them():
    assert IntegerGrid(np.int64(4)) == IntegerGrid(4)
    assert IntegerGrid(np.array([4, 2])) == IntegerGrid([4, 2]) == IntegerGrid((4, 2))
    assert len({IntegerGrid([4, 2]), IntegerGrid((4, 2)), IntegerGrid(4)}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"bits": 0}, "from 1 to 31", id="no_bits"),
        pytest.param({"bits": 32}, "from 1 to 31", id="unsigned_beyond_int32"),
        pytest.param({"bits": 33, "signed": True}, "from 1 to 32", id="signed_beyond_int32"),
        pytest.param({"bits": [4, 0]}, "replaced by its mean", id="one_channel_without_bits"),
        pytest.param(
            {"bits": 1, "signed": True, "narrow_range": True}, "from 2 to 32", id="only_zero_left"
        ),
        pytest.param({"bits": 4, "narrow_range": True}, "signed grid", id="narrow_unsigned"),
        pytest.param({"bits": 4.0}, "must be an integer", id="fractional"),
        pytest.param({"bits": [[4]]}, "one integer per channel", id="two_dimensional"),
    ],
)
def test_refuses_what_is_no_grid(arguments, message):
    with pytest.raises(ConfigError, match=message):
        IntegerGrid(**arguments)
