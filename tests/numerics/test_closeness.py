from __future__ import annotations

import math

import numpy as np
import pytest

from tflite_ptq4.errors import DataError
from tflite_ptq4.numerics.closeness import agreement, ratio_db, sqnr_db

LOGITS = np.array([[0, 1, 2, 3, 4, 5], [9, 0, 0, 0, 0, 0], [0, 0, 7, 0, 0, 0]])


def test_agreement_compares_the_top_class() -> None:
    other = np.array([[0, 0, 0, 0, 0, 1], [9, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    assert agreement(LOGITS, LOGITS) == 1
    assert agreement(LOGITS, other) == 2 / 3


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([3, 4], [3, 4], math.inf),
        ([0, 0], [0, 0], math.inf),
        ([0, 0], [1, 0], -math.inf),
        ([3, 4], [3, 3], 10 * math.log10(25)),  # (9 + 16) / 1
        ([10, 0], [9, 0], 20.0),  # 100 / 1
    ],
)
def test_sqnr_named_cases(reference: list, other: list, expected: float) -> None:
    assert sqnr_db(np.array(reference), np.array(other)) == pytest.approx(expected, rel=1e-12)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for measure in (agreement, sqnr_db):
        with pytest.raises(DataError, match=r"\(3, 6\) and \(3, 5\)"):
            measure(LOGITS, LOGITS[:, :5])
        with pytest.raises(DataError):
            measure(LOGITS[:0], LOGITS[:0])


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [
        (200.0, 2.0, 20.0),
        (1.0, 1000.0, -30.0),
        (0.0, 0.0, math.inf),
        (0.0, 1.0, -math.inf),
        (1.0, math.inf, -math.inf),
        (1.0, math.nan, -math.inf),
        (math.nan, 1.0, -math.inf),
    ],
)
def test_ratio_named_cases(signal: float, noise: float, expected: float) -> None:
    assert ratio_db(signal, noise) == pytest.approx(expected, rel=1e-12)
