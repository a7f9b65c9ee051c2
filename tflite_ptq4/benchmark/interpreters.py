"""A `.tflite` file made ready to run in LiteRT on this machine, with inputs that never change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_ptq4.benchmark.comparison import Delegation
from tflite_ptq4.errors import FileFormatError, one_line


def open_file(path: Path, *, threads: int, delegate: str) -> Any:
    """Return an interpreter of a file, its tensors allocated for one image.

    Args:
        path: the file; LiteRT maps it into memory.
        threads: of the interpreter.
        delegate: "xnnpack", LiteRT's default, or "none" for its own kernels.

    Raises:
        FileFormatError: LiteRT cannot load it, or an input has no fixed size.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {
        "xnnpack": OpResolverType.BUILTIN,
        "none": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }[delegate]
    try:
        interpreter = Interpreter(
            model_path=str(path), num_threads=threads, experimental_op_resolver_type=resolver
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise FileFormatError(
            f"LiteRT must be able to load {str(path)!r}, but reports: {one_line(error)}"
        ) from error
    for detail in interpreter.get_input_details():
        open_sides = [side for side in detail["shape_signature"][1:] if side < 0]
        if open_sides:
            raise FileFormatError(
                f"A file that is timed must take images of one size: input {detail['name']!r} of "
                f"{str(path)!r} has the shape {detail['shape_signature'].tolist()}. Write it with "
                "--input-size."
            )
    return interpreter


def made_up_inputs(details: Sequence[dict[str, Any]], seed: int = 0) -> list[np.ndarray]:
    """Return a value for each input, drawn with a fixed seed: all integers, or reals in [-1, 1).

    Args:
        details: `get_input_details()` of an interpreter.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    values = []
    for detail in details:
        dtype, shape = np.dtype(detail["dtype"]), tuple(detail["shape"])
        if dtype.kind == "f":
            values.append(rng.uniform(-1, 1, shape).astype(dtype))
        elif dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values.append(rng.integers(limits.min, limits.max, shape, dtype, endpoint=True))
        else:
            values.append(np.zeros(shape, dtype))
    return values


def set_inputs(interpreter: Any, values: Sequence[np.ndarray]) -> None:
    """Set the inputs of an interpreter, in their order.

    Args:
        interpreter: of a file.
        values: one array for each input, as the file stores it.
    """
    for detail, value in zip(interpreter.get_input_details(), values, strict=True):
        interpreter.set_tensor(detail["index"], value)


def operators_left(interpreter: Any) -> list[str]:
    """Return the names of the operators that LiteRT's own kernels compute, in the file's order.

    The interpreter lists the file's operators followed by one DELEGATE for each part that a
    delegate has taken over. What is left is found from the outputs backwards: a tensor that a
    DELEGATE writes needs the tensors that it reads, any other one needs its own operator.
    """
    producer: dict[int, Any] = {}
    for operator in interpreter._get_ops_details():
        for output in operator["outputs"]:
            producer[int(output)] = operator  # a DELEGATE comes last and replaces
    pending = [int(detail["index"]) for detail in interpreter.get_output_details()]
    left: dict[int, str] = {}
    seen: set[int] = set()
    while pending:
        tensor = pending.pop()
        if tensor in seen or tensor not in producer:
            continue
        seen.add(tensor)
        operator = producer[tensor]
        if operator["op_name"] != "DELEGATE":
            left[operator["index"]] = operator["op_name"]
        pending += [int(index) for index in operator["inputs"] if index >= 0]
    return [left[index] for index in sorted(left)]


def delegation(interpreter: Any) -> Delegation:
    """Return who computes the operators of an interpreter's file."""
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    left = operators_left(interpreter)
    return Delegation(len(names) - names.count("DELEGATE") - len(left), dict(Counter(left)))
