"""One file in LiteRT and in the numpy reference, every tensor."""

from __future__ import annotations

import numpy as np
from integer_reference import run_litert, run_reference
from operator_cases import Case


def assert_same_tensors(case: Case, tolerance: float = 0.0) -> None:
    model, inputs = case
    expected = run_litert(model, inputs)
    actual = run_reference(model, inputs)
    assert expected
    for index, value in expected.items():
        assert actual[index].dtype == value.dtype
        if tolerance:
            np.testing.assert_allclose(actual[index], value, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(actual[index], value, err_msg=f"tensor {index}")
