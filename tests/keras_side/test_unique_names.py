from __future__ import annotations

from tflite_ptq4.keras_side.unique_names import UniqueNames


def test_names_have_no_slash_and_differ() -> None:
    dotted, numbered = UniqueNames(".", second=2), UniqueNames("_", second=1)
    wishes = ["a/b", "a/b", "a/b", "a.b", "a_b", "c", "a.b_2"]
    assert [dotted(wish) for wish in wishes] == [
        "a.b",
        "a.b_2",
        "a.b_3",
        "a.b_4",
        "a_b",
        "c",
        "a.b_2_2",
    ]
    assert [numbered(wish) for wish in wishes] == [
        "a_b",
        "a_b_1",
        "a_b_2",
        "a.b",
        "a_b_3",
        "c",
        "a.b_2",
    ]


def test_names_that_are_reserved_are_not_given_out() -> None:
    names = UniqueNames(".", second=2)
    names.reserve(["a", "a_2"])
    assert [names("a"), names("a")] == ["a_3", "a_4"]
