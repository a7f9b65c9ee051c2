"""Run a .tflite file in numpy, tensor by tensor, in the integer arithmetic of LiteRT's kernels.

The file is read only through the flatbuffer schema and nothing of the package under test is
imported, so an agreement between the two is evidence. What XNNPACK takes follows its kernels; what
it leaves to the builtin ones (INT4 convolutions, AVERAGE_POOL_2D, HARD_SWISH, ...) follows those.
Float operators accumulate in float64 and round once to float32.

    tensors       what the file says: tensors, operators, and the parameters of both
    rounding      reals and integers to integers: fixed-point products, tables, fused activations
    interpreter   one operator after the other
    litert        the same tensors from LiteRT
    weighted, joining, functions, pooling, resizing, moving     the operators
"""

from __future__ import annotations

from integer_reference import (  # noqa: F401 - each of them registers its operators
    functions,
    joining,
    moving,
    pooling,
    resizing,
    weighted,
)
from integer_reference.interpreter import Reference, run_reference
from integer_reference.litert import expose_all_tensors, run_litert
from integer_reference.tensors import OPERATORS

__all__ = ["OPERATORS", "Reference", "expose_all_tensors", "run_litert", "run_reference"]
