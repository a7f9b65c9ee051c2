"""Compare two .tflite files field by field and say which fields differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema


def assert_same_flatbuffer(received: bytes, expected: bytes) -> None:
    """Fail with the path of every field in which two files differ.

    Bytes may differ where the fields do not: a flatbuffer does not say in which order its parts
    lie, nor how they are aligned.
    """
    unequal = unequal_fields(_parse(received), _parse(expected))
    if unequal:
        raise AssertionError(f"{len(unequal)} fields differ:\n" + "\n".join(unequal))


def unequal_fields(received: Any, expected: Any) -> list[str]:
    """The path and the two values of every field that differs.

    Args:
        received: an object of the flatbuffer schema's object API.
        expected: another of the same class.

    Returns:
        Lines such as "subgraphs[0].tensors[3].type: 9, expected 0", none if all is equal.
    """
    return list(_differences(received, expected, ""))


def _parse(data: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(data, 0)


def _differences(received: Any, expected: Any, path: str) -> Iterator[str]:
    if _is_values(received) and _is_values(expected):
        if not _same_values(received, expected):
            yield f"{path}: {_shown(received)}, expected {_shown(expected)}"
    elif _is_list(received) and _is_list(expected):
        if len(received) != len(expected):
            yield f"{path}: {len(received)} entries, expected {len(expected)}"
        for place, (left, right) in enumerate(zip(received, expected, strict=False)):
            yield from _differences(left, right, f"{path}[{place}]")
    elif type(received) is not type(expected):
        yield f"{path}: {_shown(received)}, expected {_shown(expected)}"
    else:
        for name, value in vars(received).items():
            inner = f"{path}.{name}".lstrip(".")
            yield from _differences(value, getattr(expected, name), inner)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_values(value: Any) -> bool:
    """Whether this is a leaf: a number, a name, an array, or nothing."""
    return value is None or isinstance(value, (bool, int, float, bytes, str, np.ndarray))


def _same_values(received: Any, expected: Any) -> bool:
    # An empty vector and an absent one say the same.
    left, right = (() if value is None else value for value in (received, expected))
    if isinstance(left, (bytes, str)) or isinstance(right, (bytes, str)):
        return _text(left) == _text(right)
    return np.array_equal(left, right)


def _text(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _shown(value: Any, limit: int = 8) -> str:
    if isinstance(value, np.ndarray) and value.size > limit:
        head = ", ".join(str(number) for number in value.ravel()[:limit])
        return f"[{head}, ... {value.size} values]"
    return repr(value) if _is_values(value) else type(value).__name__


__all__: Sequence[str] = ("assert_same_flatbuffer", "unequal_fields")
