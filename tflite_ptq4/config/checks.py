"""Checking the values of a dataclass against its type hints, and keys against its fields.

The hint says it all: `Literal` the choices, `Annotated[int, (2, 8)]` the inclusive range, `| None`
that None is allowed too.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tflite_ptq4.errors import ConfigError


@dataclass(frozen=True)
class Contradiction:
    """Values of several fields, each of them allowed, that cannot be meant together.

    Attributes:
        fields: names of the fields that it is about.
        find: takes their values in this order; returns what is wrong, or None.
    """

    fields: tuple[str, ...]
    find: Callable[..., ConfigError | None]


def problems(
    values: Mapping[str, Any], record: type, contradictions: Iterable[Contradiction] = ()
) -> list[ConfigError]:
    """Everything that a dataclass refuses of the values of its fields.

    A contradiction is looked for where all of its fields are without fault, so that one mistake is
    one problem.

    Args:
        values: by the names of the fields; what is left out has its default.
        record: the dataclass.
        contradictions: what it refuses beyond single values.
    """
    faults = {name: _unknown_key(name, record) for name in values if name not in _names(record)}
    doubtful = {nearest(name, _names(record)) for name in faults}
    for name, (expected, accepts) in _expectations(record).items():
        if name in values and not accepts(values[name]):
            faults[name] = ConfigError(
                f"`{name}` of {record.__name__} must be {expected}. Received: {values[name]!r}.",
                key=(name,),
            )
    found = list(faults.values())
    complete = {f.name: f.default for f in fields(record)} | dict(values)
    for contradiction in contradictions:
        if not {*faults, *doubtful}.intersection(contradiction.fields):
            error = contradiction.find(*(complete[name] for name in contradiction.fields))
            found += [] if error is None else [error]
    return found


def raise_first(found: Iterable[ConfigError]) -> None:
    """Raise the first of some problems, if there is one.

    Raises:
        ConfigError: the first of them.
    """
    for error in found:
        raise error


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


def _names(record: type) -> list[str]:
    return [f.name for f in fields(record)]


def _unknown_key(key: Any, record: type) -> ConfigError:
    return ConfigError(
        f"A key must be a field of {record.__name__}. Received: {key!r}. "
        f"The nearest known one is {nearest(key, _names(record))!r}.",
        key=(key,),
    )


def nearest(word: object, known: Iterable[str]) -> str:
    """The known word that is most like the given one.

    Args:
        word: what was written.
        known: the words that have a meaning, at least one.
    """
    return difflib.get_close_matches(str(word), known, n=1, cutoff=0.0)[0]


def quoted(names: Iterable[str]) -> str:
    """The names for a message: 'a', 'b', 'c'."""
    return ", ".join(repr(name) for name in names)
