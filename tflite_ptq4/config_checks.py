"""Checking dataclass values against their type hints, and keys against their fields.

The hint says it all: `Literal` the choices, `Annotated[int, (2, 8)]` the inclusive range, `| None`
that None is allowed too.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tflite_ptq4.errors import ConfigError


def check_fields(record: Any) -> None:
    """Refuse a dataclass value with a field that its type hint does not allow.

    Raises:
        ConfigError: names the field, what it takes and what it got.
    """
    for name, (expected, accepts) in _expectations(type(record)).items():
        value = getattr(record, name)
        if not accepts(value):
            raise ConfigError(
                f"`{name}` of {type(record).__name__} must be {expected}. Received: {value!r}.",
                key=(name,),
            )


def expected_of(record: type) -> dict[str, str]:
    """For each field of a dataclass, what it takes, in words."""
    return {name: expected for name, (expected, _) in _expectations(record).items()}


@cache
def _expectations(record: type) -> dict[str, tuple[str, Callable[[Any], bool]]]:
    hints = get_type_hints(record, include_extras=True)
    return {f.name: _expectation(hints[f.name]) for f in fields(record)}


def _expectation(hint: Any) -> tuple[str, Callable[[Any], bool]]:
    """What a field of this type takes, in words and as a test."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        expected, accepts = _expectation(inner)
        return f"{expected}, or None", lambda value: value is None or accepts(value)
    if origin is Annotated:
        kind, (low, high) = arguments
        noun, kinds = {int: ("an integer", (int,)), float: ("a number", (int, float))}[kind]
        # Not isinstance: True is an int, and a numpy number cannot be written to YAML.
        return f"{noun} from {low} to {high}", (
            lambda value: type(value) in kinds and low <= value <= high
        )
    if origin is Literal:
        return f"one of {quoted(arguments)}", (
            lambda value: isinstance(value, str) and value in arguments
        )
    if origin is tuple:
        return f"a tuple of {arguments[0].__name__}", (
            lambda value: (
                isinstance(value, tuple) and all(isinstance(item, arguments[0]) for item in value)
            )
        )
    return {
        bool: ("True or False", lambda value: isinstance(value, bool)),
        str: ("a string that is not empty", lambda value: isinstance(value, str) and value != ""),
    }[hint]


def check_keys(values: Mapping[str, Any], record: type) -> None:
    """Refuse a key that is no field of the dataclass `record`.

    Raises:
        ConfigError: names the key and the nearest field.
    """
    known = [f.name for f in fields(record)]
    for key in values:
        if key not in known:
            raise ConfigError(
                f"A key must be a field of {record.__name__}. Received: {key!r}. "
                f"The nearest known one is {nearest(key, known)!r}.",
                key=(key,),
            )


def nearest(word: object, known: Iterable[str]) -> str:
    """The known word that is most like the given one."""
    return difflib.get_close_matches(str(word), known, n=1, cutoff=0.0)[0]


def quoted(names: Iterable[str]) -> str:
    """The names for a message: 'a', 'b', 'c'."""
    return ", ".join(repr(name) for name in names)
