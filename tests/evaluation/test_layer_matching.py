from __future__ import annotations

import pytest

from tflite_ptq4.evaluation.layer_matching import NamedTensor, match_tensors

Tensors = list[tuple[str, int | None]]


def named(tensors: Tensors) -> list[NamedTensor]:
    """Tensors that name the layers "a|b" in this order, "?" standing for none."""
    return [
        NamedTensor(str(i), tuple(layers.replace("?", "").split("|")) if layers != "?" else (), n)
        for i, (layers, n) in enumerate(tensors)
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([("a", 4), ("b", 4)], [("b", 4), ("a", 4)], [(0, 1, "name"), (1, 0, "name")]),
        # One size only, and what cannot be read is paired with nothing.
        ([("a", 4), ("b", 4)], [("a", 5), ("b", None)], []),
        # A fused name: the last operator counts most, whatever else it names.
        (
            [("conv", 4), ("relu|sum", 4)],
            [("relu|sum|conv", 4)],
            [(1, 0, "name")],
        ),
        # Without names the order tells, where the sizes are the same on both sides...
        (
            [("?", 4), ("a", 4), ("?", 2), ("?", 3)],
            [("?", 4), ("a", 4), ("?", 2), ("?", 3)],
            [(0, 0, "order"), (1, 1, "name"), (2, 2, "order"), (3, 3, "order")],
        ),
        # ...and says nothing where one side has one more, or another size.
        ([("a", 4), ("?", 2), ("b", 4)], [("a", 4), ("?", 2), ("?", 2), ("b", 4)], [0, 2]),
        ([("a", 4), ("?", 2), ("b", 4)], [("a", 4), ("?", 3), ("b", 4)], [0, 2]),
        ([], [("a", 4)], []),
    ],
)
def test_by_name_and_by_order(first: Tensors, second: Tensors, expected: list) -> None:
    found = match_tensors(named(first), named(second), {}, {})
    if expected and isinstance(expected[0], int):
        assert [match.first for match in found] == expected
    else:
        assert [(match.first, match.second, match.by) for match in found] == expected


def test_outputs_go_by_their_names_or_by_their_place() -> None:
    first, second = named([("a", 4), ("b", 4)]), named([("c", 4), ("d", 4)])
    crossed = match_tensors(first, second, {"x": 0, "y": 1}, {"y": 0, "x": 1})
    assert [(m.first, m.second, m.by) for m in crossed] == [(0, 1, "output"), (1, 0, "output")]
    placed = match_tensors(first, second, {"x": 0, "y": 1}, {"out": 0})
    assert [(m.first, m.second, m.by) for m in placed] == [(0, 0, "output"), (1, 1, "order")]
