from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from tflite_ptq4.config.checks import Contradiction, nearest, problems, quoted, raise_first
from tflite_ptq4.errors import ConfigError


@dataclass
class Record:
    flag: bool = True
    name: str = "a"
    choice: Literal["x", "y"] = "x"
    count: Annotated[int, (2, 8)] = 2
    share: Annotated[float, (0, 1)] = 0.5
    maybe: Annotated[int, (2, 8)] | None = None
    items: tuple[int, ...] = ()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"count": 8},
        {"share": 0},
        {"share": 1.0},
        {"maybe": 2},
        {"items": (1, 2)},
        {"choice": "y"},
    ],
    ids=repr,
)
def test_values_that_the_hint_allows(fields: dict[str, Any]) -> None:
    assert problems(fields, Record) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("flag", 1, "True or False"),
        ("name", "", "a string that is not empty"),
        ("choice", "z", "one of 'x', 'y'"),
        ("count", 9, "an integer from 2 to 8"),
        ("count", True, "an integer from 2 to 8"),
        ("share", float("nan"), "a number from 0 to 1"),
        ("maybe", 1, "an integer from 2 to 8, or None"),
        ("items", ("a",), "a tuple of int"),
        ("items", [1], "a tuple of int"),
    ],
)
def test_other_values_are_refused(name: str, value: Any, expected: str) -> None:
    (problem,) = problems({name: value}, Record)
    assert str(problem) == f"`{name}` of Record must be {expected}. Received: {value!r}."
    assert problem.key == (name,)


def test_an_unknown_key() -> None:
    (problem,) = problems({"flag": True, "cuont": 1}, Record)
    assert str(problem) == (
        "A key must be a field of Record. Received: 'cuont'. The nearest known one is 'count'."
    )
    assert problem.key == ("cuont",)


def _too_many(count: int, items: tuple[int, ...]) -> ConfigError | None:
    return None if len(items) <= count else ConfigError(f"{len(items)} of {count}", ("items",))


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"items": (1, 2)}, []),
        ({"items": (1, 2, 3)}, ["items"]),  # the default of `count` is 2
        ({"items": (1, 2, 3), "count": 3}, []),
        ({"items": (1, 2, 3), "flag": 1, "share": 2}, ["flag", "share", "items"]),
        # Of fields that are wrong themselves, and perhaps misspelled, no contradiction is told.
        ({"items": (1, 2, 3), "count": 9}, ["count"]),
        ({"items": (1, 2, 3), "cuont": 3}, ["cuont"]),
    ],
    ids=repr,
)
def test_every_mistake_is_one_problem(values: dict[str, Any], keys: list[str]) -> None:
    found = problems(values, Record, [Contradiction(("count", "items"), _too_many)])
    assert [problem.key for problem in found] == [(key,) for key in keys]


def test_the_first_problem_is_raised() -> None:
    raise_first([])
    with pytest.raises(ConfigError, match="one"):
        raise_first([ConfigError("one"), ConfigError("two")])


def test_the_nearest_word_is_always_one_of_them() -> None:
    assert nearest("w4a9", ["w8a8", "w4a8"]) == "w4a8"
    assert nearest(7, ["abc"]) == "abc"


def test_names_in_a_message() -> None:
    assert quoted(["a", "b"]) == "'a', 'b'"
