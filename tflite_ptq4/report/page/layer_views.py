"""What the page says of one layer: its line in the table, its cost, its distributions drawn."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from tflite_ptq4.distributions import Distribution
from tflite_ptq4.report.page import plots
from tflite_ptq4.report.page.number_texts import bits, decibels, decibels_alone, sort_key
from tflite_ptq4.report.values import LayerRow


def layer_view(number: int, row: LayerRow, total: float, largest: float) -> dict[str, Any]:
    """One row of the table, and of the worst layers.

    Args:
        number: of the row, from 1.
        row: of the report.
        total: the sensitivities of all layers together, 0 where they were not measured.
        largest: the share of the layer that costs most.
    """
    alone = row.sensitivity
    share = None if alone is None or not total else alone.total / total
    parts = (0.0, 0.0)
    if share is not None:
        parts = tuple((part or 0.0) / total for part in (alone.weights, alone.activation))
    facts = [row.layer_type]
    if row.weights:
        facts.append(f"{row.weights:,} weights at {bits(row.weight_bits)}")
    if row.clip is not None:
        facts.append(f"output at {bits(row.activation_bits)}")
    for name, value in (("weights", row.weight_sqnr_db), ("output", row.output_sqnr_db)):
        if value is not None:
            facts.append(f"{name} {decibels(value)}")
    cost = ""
    if share is not None and alone.sqnr_db is not None:
        cost = f"{share:.1%} of all; alone it leaves the outputs at {decibels(alone.sqnr_db)}."
    return {
        "number": number,
        "name": row.name,
        "kind": row.layer_type if row.quantized else f"{row.layer_type}, in float",
        "search": f"{row.name} {row.layer_type} {row.layer}".lower(),
        "facts": ", ".join(facts),
        "cost": cost,
        "of_all": [f"{part:.2%}" for part in parts],
        "of_largest": [f"{part / largest:.2%}" for part in parts],
        "share": "" if share is None else f"{share:.1%}",
        "share_value": "" if share is None else f"{share:.6g}",
        "cells": _cells(row, total),
        "plots": _plots(row),
    }


def _cells(row: LayerRow, total: float) -> list[dict[str, str]]:
    clip = method = ""
    if row.clip is not None:
        clip = " to ".join(f"{end:.3g}" for end in row.clip).replace("-", "\N{MINUS SIGN}")
        method = row.clip_method
    in_float = "float" if not row.quantized else ""
    cells = [
        ("Weights", f"{row.weights:,}" if row.weights else "", row.weights or "", "", ""),
        (
            "Bits",
            (in_float or f"{row.weight_bits:.3g}") if row.weights else "",
            row.weight_bits if row.weights else "",
            "",
            "",
        ),
        (
            "Output bits",
            "float" if row.clip is None else f"{row.activation_bits:.3g}",
            row.activation_bits,
            "",
            "",
        ),
        ("Clip of the output", clip, "" if row.clip is None else row.clip[1], "text", method),
        ("Weights dB", decibels_alone(row.weight_sqnr_db), sort_key(row.weight_sqnr_db), "", ""),
        ("Output dB", decibels_alone(row.output_sqnr_db), sort_key(row.output_sqnr_db), "", ""),
    ]
    if total:
        alone = None if row.sensitivity is None else row.sensitivity.sqnr_db
        cells.append(("Alone dB", decibels_alone(alone), sort_key(alone), "", ""))
    names = ("label", "text", "value", "style", "note")
    return [dict(zip(names, map(str, cell), strict=True)) for cell in cells]


def _plots(row: LayerRow) -> list[dict[str, Any]]:
    """The distributions of a row, with a line on each."""
    found = []
    if row.weight_values is not None:
        caption = f"Weights, {bits(row.weight_bits)}. {_caption(row.weight_values)}"
        svg = plots.distribution_plot(row.weight_values, f"Weights of {row.name}")
        found.append({"svg": Markup(svg), "caption": caption})
    if row.output_values is not None:
        clips = sum(count for _, count in row.activation_channels)
        caption = f"Output, {bits(row.activation_bits)}, {row.clip_method}. "
        svg = plots.distribution_plot(row.output_values, f"Output of {row.name}")
        found.append({"svg": Markup(svg), "caption": caption + _caption(row.output_values, clips)})
    return found


def _caption(values: Distribution, clips: int = 1) -> str:
    """What to know of a distribution besides its picture.

    Args:
        values: the distribution.
        clips: how many clips the tensor has.
    """
    notes = []
    if values.prior is not None:
        notes.append(
            values.prior.family.capitalize() + (" fits" if not values.prior.chosen else "")
        )
    if values.zeros >= 0.001:
        notes.append(f"{values.zeros:.1%} zeros")
    if clips > 1:
        notes.append(f"the widest of {clips} clips is drawn")
    else:
        notes.append("none clipped" if not values.clipped else f"{values.clipped:.2%} clipped")
    outside = values.below + values.above
    if outside >= 0.0001:
        notes.append(f"{outside:.2%} beyond the plot")
    return ", ".join(notes) + "."
