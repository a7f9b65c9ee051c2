from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.file_inspection.effective_bits import FLOAT_BITS, float_grid_bits, integer_bits


@pytest.mark.parametrize(
    ("row", "bits"),
    [
        ([0, 0, 0], 0),
        ([-1, 0, 0], 1),
        ([1, 0, -1], 2),
        ([-2, 1], 2),
        ([2, 0], 3),
        ([-7, 7], 4),
        ([-8, 7], 4),
        ([8, 0], 5),
        ([-127, 127], 8),
        ([-128, 0], 8),
        ([128, 0], 9),
    ],
)
def test_integer_bits_named_cases(row: list[int], bits: int) -> None:
    assert integer_bits(np.array([row])).tolist() == [bits]


@given(st.lists(st.integers(-200, 200), min_size=1, max_size=9))
def test_integer_bits_is_the_least_width_that_holds_the_row(row: list[int]) -> None:
    def holds(bits: int) -> bool:
        if bits == 0:
            return set(row) == {0}
        return all(-(2 ** (bits - 1)) <= q <= 2 ** (bits - 1) - 1 for q in row)

    bits = int(integer_bits(np.array([row]))[0])
    assert holds(bits)
    assert bits == 0 or not holds(bits - 1)


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_row_on_a_grid_of_any_step_and_shift_is_found(
    bits: int, rng: np.random.Generator
) -> None:
    most = 2 ** (bits - 1) - 1
    q = rng.integers(-most, most + 1, size=(5, 64))
    q[:, 0], q[:, 1], q[:, 2] = -most, most, 1 - most
    step, shift = rng.uniform(0.001, 3.0, (5, 1)), rng.normal(size=(5, 1))
    weights = (step * q + shift * step).astype(np.float32)
    # 2 * most steps are 2^bits - 1 levels; the neighbours at one end keep a coarser grid out.
    assert float_grid_bits(weights).tolist() == [bits] * 5


def test_random_rows_are_on_no_grid_and_constant_rows_need_no_bits(
    rng: np.random.Generator,
) -> None:
    weights = np.concatenate([rng.normal(size=(20, 9)), np.full((1, 9), 0.3)])
    assert float_grid_bits(weights).tolist() == [FLOAT_BITS] * 20 + [0]


def test_a_row_too_short_to_tell_counts_as_float() -> None:
    assert float_grid_bits(np.array([[1.0, 2.0, 3.0]])).tolist() == [FLOAT_BITS]
