from __future__ import annotations

import numpy as np
import pytest

from tflite_ptq4.numerics.held_out_damping import DAMPINGS, held_out_damping
from tflite_ptq4.numerics.second_order_rounding import second_order_rounding


def moment(rows: np.ndarray) -> np.ndarray:
    return (rows.T @ rows / len(rows))[None]


@pytest.fixture
def layer(rng: np.random.Generator):
    weight = rng.normal(size=(1, 24, 40))
    return weight, np.full((1, 40), 0.4), 4


def test_correlations_that_hold_for_all_images_are_followed(
    layer, rng: np.random.Generator
) -> None:
    mixed = rng.normal(size=(24, 6)) @ rng.normal(size=(6, 24)) + 0.3 * np.eye(24)
    parts = [moment(rng.normal(size=(4000, 24)) @ mixed) for _ in range(2)]
    assert held_out_damping(layer[0], parts, *layer[1:]) == min(DAMPINGS)


def test_correlations_of_chance_are_not(layer, rng: np.random.Generator) -> None:
    # Thirty rows of 24 independent inputs: correlations near 0.2, all of them chance.
    parts = [moment(rng.normal(size=(30, 24))) for _ in range(2)]
    assert held_out_damping(layer[0], parts, *layer[1:]) == max(DAMPINGS)


def test_the_choice_has_the_least_error_on_the_other_part(layer, rng: np.random.Generator) -> None:
    weight, scale, bits = layer
    parts = [moment(rng.normal(size=(60, 24)) @ rng.normal(size=(24, 24))) for _ in range(3)]
    errors = {}
    for damping in (0.05, 0.5, 5.0):
        errors[damping] = 0.0
        for here in range(3):
            q = second_order_rounding(weight, parts[here], scale, bits, damping)
            e = (weight - scale[:, None] * q)[0]
            errors[damping] += sum(
                np.trace(e.T @ parts[there][0] @ e) for there in range(3) if there != here
            )
    chosen = held_out_damping(weight, parts, scale, bits, (0.05, 0.5, 5.0))
    assert errors[chosen] == min(errors.values())


def test_one_part_tells_nothing(layer, rng: np.random.Generator) -> None:
    assert held_out_damping(layer[0], [moment(rng.normal(size=(60, 24)))], *layer[1:]) == 0.01
