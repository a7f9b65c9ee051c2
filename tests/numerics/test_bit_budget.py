from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4 import DataError
from tflite_ptq4.numerics.bit_budget import raise_bits


@pytest.mark.parametrize(
    ("error", "size", "average", "widths", "expected"),
    [
        # Sixteen numbers at 4 bits; what an average of 4.25 adds is 4 bits in all.
        ([1.0, 1.0], [8, 8], 4.25, (5, 6), [4, 4]),  # one bit more takes 8
        ([1.0, 1.0], [8, 8], 4.5, (5, 6), [5, 4]),  # equal: the first
        ([1.0, 2.0], [8, 8], 4.5, (5, 6), [4, 5]),
        ([1.0, 4.1], [8, 8], 5.0, (5, 6), [4, 6]),  # 4.1 / 4 is more than 1
        ([1.0, 3.9], [8, 8], 5.0, (5, 6), [5, 5]),
        ([1.0, 0.5], [12, 4], 4.25, (5, 6), [4, 5]),  # 1/12 is less than 1/8, and does not fit
        ([1.0, 0.1], [12, 4], 4.25, (5, 6), [4, 5]),  # passed over, the next one fits
        ([0.0, 0.0], [8, 8], 8.0, (5, 6), [4, 4]),  # nothing to gain
        ([1.0, 1.0], [8, 8], 3.0, (5, 6), [4, 4]),  # over the budget as it is
        ([1.0, 1.0], [8, 8], 8.0, (8,), [8, 8]),
        ([1.0, 1.0], [8, 8], 5.9, (8,), [4, 4]),  # 30.4 of 32 bits
        ([], [], 8.0, (8,), []),
    ],
)
def test_cases(error, size, average, widths, expected) -> None:
    bits = np.full(len(error), 4)
    assert raise_bits(error, size, bits, average=average, widths=widths).tolist() == expected


def test_widths_below_the_usual_are_no_steps() -> None:
    raised = raise_bits([1.0, 1.0], [1, 1], [6, 4], average=8, widths=(5, 6))
    assert raised.tolist() == [6, 6]


items = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0, 100), min_size=n, max_size=n),
        st.lists(st.integers(1, 50), min_size=n, max_size=n),
        st.lists(st.integers(2, 6), min_size=n, max_size=n),
    )
)


@given(items, st.floats(2, 8))
def test_never_over_the_budget_and_never_below_the_usual(lists, average: float) -> None:
    error, size, bits = (np.array(values, float) for values in lists)
    raised = raise_bits(error, size, bits, average=average, widths=range(3, 9))
    assert np.all(raised >= bits)
    assert np.all(raised[error == 0] == bits[error == 0])
    if (raised > bits).any():
        assert raised @ size <= average * size.sum() + 1e-9


@given(items, st.floats(2, 8))
def test_no_single_bit_moved_elsewhere_helps(lists, average: float) -> None:
    error, _, bits = (np.array(values, float) for values in lists)
    size = np.ones(len(error))
    raised = raise_bits(error, size, bits, average=average, widths=range(3, 9))
    cost = error * 4.0 ** (bits - raised)
    lost = np.where(raised > bits, 3 * cost, np.inf)  # a bit less
    gained = np.where(raised < 8, 0.75 * cost, 0.0)  # a bit more
    assert gained.max() <= lost.min() * (1 + 1e-9)


@pytest.mark.parametrize(
    ("error", "size"), [([1.0], [1, 2]), ([np.nan], [1]), ([-1.0], [1]), ([[1.0]], [[1]])]
)
def test_refusals(error, size) -> None:
    with pytest.raises(DataError, match="`error`, `size` and `bits` must"):
        raise_bits(error, size, [4] * len(size), average=5, widths=(8,))
