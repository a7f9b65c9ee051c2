from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from report_samples import VALUES, in_float, row

from tflite_ptq4.report.page.plots import (
    accuracy_plot,
    bits_plot,
    cost_plot,
    distribution_plot,
    error_plot,
)
from tflite_ptq4.sensitivity import Sensitivity

ROWS = [
    row("<b>&", sensitivity=Sensitivity(0.03, 0.01)),
    in_float("odd", "no"),
    row("last", sensitivity=Sensitivity(None, 0.04), weight_sqnr_db=None),
]

PLOTS: dict[str, Callable[[list], str]] = {
    "cost": lambda rows: cost_plot(rows, [rows[0].name] if rows else []),
    "error": error_plot,
    "bits": lambda rows: bits_plot(rows, [r.weight_channels for r in rows], "of-weights"),
    "accuracy": lambda rows: accuracy_plot([(4.0, 0.8, "<i>"), (8.0, 0.8, "b")]),
    "values": lambda rows: distribution_plot(VALUES, "<label>"),
    "no prior": lambda rows: distribution_plot(replace(VALUES, prior=None), ""),
    "all zero": lambda rows: distribution_plot(replace(VALUES, shares=(0.0,) * 56), ""),
}


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2], [], ROWS * 100], ids=len)
def test_every_plot_is_a_drawing_inside_its_frame(plot: str, rows: list) -> None:
    svg = ElementTree.fromstring(PLOTS[plot](rows))  # escaped, or it would not parse
    _, _, width, height = map(float, svg.get("viewBox").split())
    for shape in svg.iter("rect"):
        x, y, w, h = (float(shape.get(name)) for name in ("x", "y", "width", "height"))
        assert w >= 0 and h >= 0
        assert x >= -0.1 and x + w <= width + 0.1 and y >= -0.1 and y + h <= height + 0.1
    for path in svg.iter("path"):
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path.get("d"))]
        assert all(-0.1 <= number <= max(width, height) + 0.1 for number in numbers)


def test_costs_are_shares_of_all() -> None:
    svg = ElementTree.fromstring(cost_plot(ROWS, ["last", "<b>&"]))
    titles = [title.text for title in svg.iter("title")]
    # 0.03, 0.01 and 0.04 of 0.08.
    assert titles == ["<b>&: weights 37.5%, output 12.5%", "last: weights 0.0%, output 50.0%"]
    marks = {text.text for text in svg.iter("text") if text.get("class") == "mark"}
    assert marks == {"1", "2"}


def test_the_share_of_channels_is_the_strength_of_a_cell() -> None:
    svg = ElementTree.fromstring(bits_plot([row()], [((2, 1), (4, 3))], "of-weights"))
    cells = [(cell.get("opacity"), cell[0].text) for cell in svg.iter("rect")]
    assert cells == [("0.47", "conv: 1 of 4 at 2 bits"), ("0.82", "conv: 3 of 4 at 4 bits")]


def test_the_density_of_an_unused_prior_is_dashed() -> None:
    assert 'class="prior"' in distribution_plot(VALUES, "")
    unused = replace(VALUES, prior=replace(VALUES.prior, chosen=False))
    assert 'class="prior unused"' in distribution_plot(unused, "")
