from __future__ import annotations

import math

import numpy as np
import pytest

from tflite_ptq4.benchmark.paired_ratios import Ratio, noise_warnings, paired_ratio


def test_a_slow_moment_meets_both_files() -> None:
    reference = np.array([[1.0, 5.0, 1.0], [2.0, 2.0, 8.0]])
    assert paired_ratio(3 * reference, reference) == Ratio(*(pytest.approx(3.0) for _ in range(3)))


def test_the_spread_is_that_of_the_processes() -> None:
    # The medians are e^0, e^1 and e^2: centre 1, deviation 1, Student's t with 2 degrees 4.303.
    ratios = np.exp([[0.0, 0.0, 9.0], [1.0, 1.0, 1.0], [2.0, -9.0, 2.0]])
    found = paired_ratio(ratios, np.ones_like(ratios))
    reach = 4.302653 * 1.0 * math.sqrt(1 + 1 / 3)
    assert found.value == pytest.approx(math.e)
    assert math.log(found.high) == pytest.approx(1 + reach)
    assert math.log(found.low) == pytest.approx(1 - reach)
    assert found.width == pytest.approx(math.exp(2 * reach))


def test_one_more_process_lies_within_the_spread(rng: np.random.Generator) -> None:
    within = 0
    for _ in range(1000):
        times = np.exp(rng.normal(0.3, 0.05, (7, 1)))
        found = paired_ratio(times[:6], np.ones((6, 1)))
        within += found.low <= times[6, 0] <= found.high
    assert 0.92 < within / 1000 < 0.98


QUIET, ONE = Ratio(1.0, 0.99, 1.01), Ratio(1.0, 0.93, 1.07)


@pytest.mark.parametrize(
    ("control", "ratio", "expected"),
    [
        (QUIET, Ratio(1.3, 1.2, 1.4), []),
        (QUIET, Ratio(1.0, 0.98, 1.02), []),
        (QUIET, ONE, ["b cannot be told from a: the ratio lies between 0.93 and 1.07"]),
        (QUIET, Ratio(3.0, 1.5, 6.0), ["b to a is unsteady: it lies between 1.50 and 6.00"]),
        (ONE, Ratio(2.0, 1.9, 2.1), ["a against itself took 1.00 times as long (0.93 to 1.07)"]),
        (Ratio(1.05, 1.02, 1.08), Ratio(2.0, 1.9, 2.1), ["a against itself took 1.05 times"]),
        (ONE, ONE, ["a against itself", "b cannot be told from a"]),
    ],
)
def test_noise_is_told(control: Ratio, ratio: Ratio, expected: list[str]) -> None:
    warnings = noise_warnings(control, {"b": ratio}, "a")
    assert len(warnings) == len(expected)
    for warning, part in zip(warnings, expected, strict=True):
        assert part in warning
