from __future__ import annotations

from tflite_ptq4.text_table import aligned


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [("layer", "bits", ""), ("a", "8", "x"), ("longer name", "4.15", "")]
    assert aligned(rows, [True, False, True]) == [
        "layer        bits",
        "a               8  x",
        "longer name  4.15",
    ]


def test_headings_alone_are_a_table() -> None:
    assert aligned([("layer", "bits")], [True, False]) == ["layer  bits"]
