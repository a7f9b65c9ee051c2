from __future__ import annotations

import numpy as np

from tflite_ptq4.weights.weight_error import weight_error_table


def test_columns_are_the_bits(rng: np.random.Generator) -> None:
    weight = rng.normal(0.1, 1, (50, 3))
    table = weight_error_table(weight, 8)
    assert table.shape == (3, 9)
    # At 0 bits a channel is its mean: n times the variance is left.
    np.testing.assert_allclose(table[:, 0], 50 * weight.var(axis=0))
    np.testing.assert_array_equal(table[:, 1], table[:, 0])
    assert (np.diff(table[:, 2:], axis=1) < 0).all()


def test_two_bits_hold_three_levels_exactly() -> None:
    weight = np.array([[-0.5], [0.0], [0.5], [0.5]])
    np.testing.assert_allclose(weight_error_table(weight, 2), [[0.6875, 0.6875, 0.0]], atol=1e-12)


def test_few_bits_make_few_columns(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(9, 2))
    for maximum in range(3):
        assert weight_error_table(weight, maximum).shape == (2, maximum + 1)
