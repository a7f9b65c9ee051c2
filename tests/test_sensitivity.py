from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_graphs import weighted

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.sensitivity import Sensitivity, random_signs, weights_alone
from tflite_ptq4.weights.layer_weights import LayerWeights

NODE = weighted("dense", "image", np.array([[1.0, 2.0], [3.0, 4.0]]), [0.5, -0.5], kind="dense")
WEIGHTS = LayerWeights(
    integers=np.array([[1, 2], [2, 4]], np.int8),
    scale=np.array([1.0, 1.5]),  # stands for [[1, 3], [2, 6]]
    bias=np.array([7.0, 8.0]),
    offset=np.zeros(2),
    unrounded=NODE.kernel,
)
MEAN = np.array([1.0, 10.0])


@pytest.mark.parametrize(
    ("weights", "activation", "total", "decibels"),
    [
        (0.01, None, 0.01, 20.0),
        (None, 0.001, 0.001, 30.0),
        (0.06, 0.04, 0.1, 10.0),
        (0.0, 0.0, 0.0, None),
        (None, None, 0.0, None),
    ],
)
def test_decibels_of_both_errors(weights, activation, total: float, decibels) -> None:
    value = Sensitivity(weights=weights, activation=activation)
    assert value.total == pytest.approx(total)
    assert value.sqnr_db == (None if decibels is None else pytest.approx(decibels))


def test_signs_are_of_one_size_and_even(rng: np.random.Generator) -> None:
    signs = random_signs(rng, (100, 100), 0.5)
    assert signs.dtype == np.float32
    assert set(np.unique(signs)) == {-0.5, 0.5}
    assert abs(signs.mean()) < 0.5 * 4 / 100  # four deviations of a mean of 10^4 signs


def test_without_corrections_the_deployed_weights_stand_alone() -> None:
    config = QuantizationConfig(bias_correction=False)
    kernel, bias = weights_alone(NODE, WEIGHTS, None, config, MEAN)
    np.testing.assert_array_equal(kernel, [[1, 3], [2, 6]])
    np.testing.assert_array_equal(bias, [7, 8])


@pytest.mark.parametrize("correction", ["bias_correction", "output_matching"])
def test_with_corrections_the_error_has_no_mean(correction: str) -> None:
    config = QuantizationConfig(**{"bias_correction": False, correction: True})
    kernel, bias = weights_alone(NODE, WEIGHTS, None, config, MEAN)
    np.testing.assert_array_equal(kernel, [[1, 3], [2, 6]])
    # x = (1, 10): the errors (0, -1) and (1, 2) give -10 and 21, which 10 and -21 take away.
    np.testing.assert_array_equal(bias, [0.5 + 10, -0.5 - 21])


def test_only_the_rounding_counts_after_a_refit() -> None:
    refitted = replace(WEIGHTS, unrounded=np.array([[1, 3.5], [2.25, 6]], np.float32))
    kernel, _ = weights_alone(NODE, refitted, None, QuantizationConfig(output_matching=True), MEAN)
    np.testing.assert_array_equal(kernel, [[1, 1.5], [2.75, 4]])
