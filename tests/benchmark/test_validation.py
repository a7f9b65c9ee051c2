from __future__ import annotations

import numpy as np
import pytest
from tiny_tflite import TinyModel

from tflite_ptq4.benchmark.validation import agreement_of, steps_of_outputs

STEP = 0.5
FLOATS = np.array([[0.0, 0.5, 2.0], [1.0, 1.5, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("ours", "theirs", "step", "different", "largest", "in_steps", "same_class"),
    [
        (np.int8([[1, 5], [7, 2]]), np.int8([[1, 5], [7, 2]]), None, 0, 0, True, 1.0),
        (np.int8([[127, 5], [7, 2]]), np.int8([[-128, 5], [7, 3]]), None, 2, 255, True, 0.5),
        (FLOATS, FLOATS + np.float32([[0, 0, 0], [0, 0.5, 1.5]]), STEP, 2, 3, True, 0.5),
        # Less than half a step is the same integer.
        (FLOATS, FLOATS + np.float32(1e-6), STEP, 0, 0, True, 1.0),
        (FLOATS, FLOATS - np.float32(0.25) * (FLOATS > 1), None, 2, 0.25, False, 1.0),
        (np.float32([[np.inf, 0]]), np.float32([[np.inf, 0]]), None, 0, 0, False, 1.0),
    ],
    ids=["equal", "int8 at its ends", "steps", "rounding", "reals", "infinite"],
)
def test_outputs_are_compared(
    ours: np.ndarray,
    theirs: np.ndarray,
    step: float | None,
    different: int,
    largest: float,
    in_steps: bool,
    same_class: float,
) -> None:
    found = agreement_of("file", "output", ours, theirs, step)
    assert (found.images, found.values) == (len(ours), ours.size)
    assert (found.different, found.in_steps) == (different, in_steps)
    assert found.largest == pytest.approx(largest)
    assert found.same_class == same_class


def test_what_real_outputs_stand_for_is_read_from_the_file() -> None:
    model = TinyModel()
    image = model.activation((1, 4), 1 / 8, -3)
    inner = model.operator("RELU", [image], model.activation((1, 4), 1 / 4, 5))
    real = model.operator("DEQUANTIZE", [inner], model.activation((1, 4)))
    other = model.operator("DEQUANTIZE", [image], model.activation((1, 4)))
    float_only = model.operator("RELU", [other], model.activation((1, 4)))
    content = model.to_bytes([image], [inner, real, float_only])
    assert steps_of_outputs(content) == {real: 0.25}
