from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from tflite_ptq4.config_checks import check_fields, check_keys, nearest, quoted
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
    check_fields(Record(**fields))


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
    with pytest.raises(ConfigError) as caught:
        check_fields(Record(**{name: value}))
    assert str(caught.value) == f"`{name}` of Record must be {expected}. Received: {value!r}."


def test_keys() -> None:
    check_keys({"flag": 0, "items": None}, Record)
    with pytest.raises(ConfigError, match="The nearest known one is 'count'"):
        check_keys({"flag": 0, "cuont": 1}, Record)


def test_the_nearest_word_is_always_one_of_them() -> None:
    assert nearest("w4a9", ["w8a8", "w4a8"]) == "w4a8"
    assert nearest(7, ["abc"]) == "abc"


def test_names_in_a_message() -> None:
    assert quoted(["a", "b"]) == "'a', 'b'"
