from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import FileFormatError, TargetError
from tflite_ptq4.numerics.nibbles import pack_int4, unpack_int4

INT4_LISTS = st.lists(st.integers(-8, 7), max_size=33)


@pytest.mark.parametrize(
    ("q", "packed"),
    [
        pytest.param([], [], id="empty"),
        pytest.param([1, 2], [0x21], id="low_nibble_first"),
        pytest.param([1, 2, 3], [0x21, 0x03], id="odd_length_ends_with_a_zero_nibble"),
        pytest.param([-1, 0], [0x0F], id="minus_one_is_1111"),
        pytest.param([-8, 7], [0x78], id="both_ends"),
        pytest.param([-1, -1, -1], [0xFF, 0x0F], id="sign_does_not_leak_into_the_padding"),
        pytest.param([[1, 2], [3, 4]], [0x21, 0x43], id="c_order"),
    ],
)
def test_bytes(q, packed):
    result = pack_int4(np.array(q, np.int8))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, packed)
    np.testing.assert_array_equal(unpack_int4(result, np.size(q)), np.ravel(q))


def test_every_byte_survives():
    every_byte = np.arange(256, dtype=np.uint8)
    unpacked = unpack_int4(every_byte, 512)
    assert unpacked.dtype == np.int8
    assert set(unpacked.tolist()) == set(range(-8, 8))
    np.testing.assert_array_equal(pack_int4(unpacked), every_byte)


@given(q=INT4_LISTS)
def test_integers_of_any_count_survive(q):
    q = np.array(q, np.int8)
    packed = pack_int4(q)
    assert packed.size == (q.size + 1) // 2
    np.testing.assert_array_equal(unpack_int4(packed, q.size), q)


def test_transposed_array_is_packed_in_the_order_it_reads():
    q = np.array([[1, 2], [3, 4]], np.int8).T
    np.testing.assert_array_equal(unpack_int4(pack_int4(q), 4), [1, 3, 2, 4])


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_wider_integers_are_packed_alike(dtype):
    np.testing.assert_array_equal(pack_int4(np.array([-3, 5], dtype)), [0x5D])


@pytest.mark.parametrize("q", [[8], [-9], [0, 300], [-256, 0]])
def test_refuses_integers_out_of_range(q):
    with pytest.raises(TargetError, match=r"integers in \[-8, 7\]"):
        pack_int4(np.array(q, np.int32))


def test_refuses_what_is_not_of_an_integer_type():
    with pytest.raises(TargetError, match="float32"):
        pack_int4(np.array([1.0], np.float32))


@pytest.mark.parametrize(
    ("packed", "count"),
    [
        pytest.param(np.zeros(1, np.uint8), 3, id="too_short"),
        pytest.param(np.zeros(2, np.uint8), 2, id="too_long"),
        pytest.param(np.zeros(1, np.int8), 2, id="wrong_type"),
        pytest.param(np.zeros((1, 1), np.uint8), 2, id="not_flat"),
    ],
)
def test_refuses_bytes_that_are_not_those_of_the_count(packed, count):
    with pytest.raises(FileFormatError, match="flat uint8 array"):
        unpack_int4(packed, count)
