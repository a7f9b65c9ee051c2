from __future__ import annotations

import numpy as np
import pytest

from tflite_ptq4.errors import ConfigError
from tflite_ptq4.input_shapes import fixed_input_shapes, size_text

OPEN = {"image": (None, None, 3)}
FIXED = {"image": (8, 6, 3)}
TWO = {"left": (None, None, 3), "right": (4, None, 2)}


@pytest.mark.parametrize(
    ("own", "known", "asked", "expected"),
    [
        (FIXED, FIXED, None, {"image": (8, 6, 3)}),
        (FIXED, FIXED, (8, 6, 3), {"image": (8, 6, 3)}),
        (OPEN, FIXED, None, {"image": (8, 6, 3)}),
        (OPEN, FIXED, (10, 12, 3), {"image": (10, 12, 3)}),
        (OPEN, OPEN, [10, 12, 3], {"image": (10, 12, 3)}),
        (OPEN, OPEN, (np.int64(10), 12, 3), {"image": (10, 12, 3)}),
        (OPEN, OPEN, {"image": (10, 12, 3)}, {"image": (10, 12, 3)}),
        (
            TWO,
            {"left": (8, 8, 3), "right": (4, 4, 2)},
            {"right": (4, 9, 2)},
            {"left": (8, 8, 3), "right": (4, 9, 2)},
        ),
    ],
)
def test_a_wish_comes_before_what_is_known(
    own: dict, known: dict, asked: object, expected: dict
) -> None:
    found = fixed_input_shapes(own, known, asked)
    assert found == expected
    assert list(found) == list(own)
    assert {type(side) for shape in found.values() for side in shape} == {int}


@pytest.mark.parametrize(
    ("own", "asked", "message"),
    [
        (OPEN, None, "one length in the file. Received: input 'image' of any x any x 3"),
        (TWO, {"left": (8, 8, 3)}, "Received: input 'right' of 4 x any x 2, and no images"),
        (FIXED, (8, 8, 3), "'image' is 8 x 6 x 3. Received: 8 x 8 x 3. Leave the fixed sides"),
        (OPEN, (8, 8, 1), "'image' is any x any x 3. Received: 8 x 8 x 1"),
        (OPEN, (8, 8), "'image' is any x any x 3. Received: 8 x 8. "),
        (OPEN, (1, 8, 8, 3), "Received: 1 x 8 x 8 x 3"),
        (OPEN, (0, 8, 3), r"whole numbers above zero.* Received: \(0, 8, 3\) for input 'image'"),
        (OPEN, (8.0, 8, 3), r"whole numbers above zero.* Received: \(8.0, 8, 3\)"),
        (OPEN, (None, 8, 3), r"whole numbers above zero.* Received: \(None, 8, 3\)"),
        (OPEN, (), r"whole numbers above zero.* Received: \(\)"),
        (OPEN, 224, "whole numbers above zero.* Received: 224 "),
        (OPEN, "224", "whole numbers above zero.* Received: '224'"),
        (OPEN, {"picture": (8, 8, 3)}, r"inputs of the model \(image\). Received: picture. Use"),
        (TWO, (8, 8, 3), r"a dict by name for a model of 2 inputs \(left, right\). Received: \(8"),
    ],
)
def test_what_is_no_size_of_the_model_is_refused(own: dict, asked: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fixed_input_shapes(own, own, asked)


def test_a_size_in_a_message() -> None:
    assert size_text((224, None, 3)) == "224 x any x 3"
