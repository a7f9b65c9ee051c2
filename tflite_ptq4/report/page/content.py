"""What the page says: every number of the report as text, every plot drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from tflite_ptq4.report.advice import MOST_BITS, Advice, recipe_lines, yaml_fields
from tflite_ptq4.report.facts import ReportFacts
from tflite_ptq4.report.page import plots
from tflite_ptq4.report.page.layer_views import layer_view
from tflite_ptq4.report.page.number_texts import counted, decibels, file_size, percent
from tflite_ptq4.report.values import LayerRow, Outcome

NOT_MEASURED = "not measured"
LEAST_POINTS = 2  # of accuracy over bits, to make a line


def page_content(report: ReportFacts, outcome: Outcome) -> dict[str, Any]:
    """The variables of the template.

    Args:
        report: what quantization did.
        outcome: what was measured of the file.
    """
    rows, measured = report.rows, report.has_sensitivity
    worst, advices = report.worst, report.advice
    total = sum(row.sensitivity.total for row in rows if row.sensitivity is not None)
    largest = worst[0].sensitivity.total / total if total else 1.0
    views = {
        row.name: layer_view(number, row, total, largest) for number, row in enumerate(rows, 1)
    }
    points = outcome.accuracy_over_bits
    return {
        "title": report.model or "Quantized network",
        "lead": _lead(rows, worst, advices, total),
        "figures": _figures(report, outcome),
        "measured": measured,
        "worst": [
            {
                **views[row.name],
                "reason": advice.reason,
                "yaml": "\n".join(recipe_lines([advice], report.budgets)),
            }
            for row, advice in zip(worst, advices, strict=True)
        ],
        "free_settings": yaml_fields(report.free_settings),
        "worst_note": _worst_note(worst, total, measured),
        **_recipe(report, worst, advices, total),
        "cost_plot": Markup(plots.cost_plot(rows, [row.name for row in worst])),
        "error_plot": Markup(plots.error_plot(rows)),
        "error_note": (
            "Outputs against the float network, with every error before them; 6 dB are one bit."
            if any(row.output_sqnr_db is not None for row in rows)
            else "The outputs were not measured: that takes images."
        ),
        "weight_bits_plot": _bits_plot(rows, "weight_channels", "of-weights"),
        "weight_bits_note": _bits_note(rows, "weight_channels"),
        "output_bits_plot": _bits_plot(rows, "activation_channels", "of-output"),
        "output_bits_note": _bits_note(rows, "activation_channels"),
        "accuracy_plot": Markup(plots.accuracy_plot(points)) if len(points) >= LEAST_POINTS else "",
        "accuracy_note": ", ".join(f"{name}: {100 * top1:.2f}" for _, top1, name in sorted(points)),
        "rows": list(views.values()),
        "in_float": report.in_float,
        "has_plots": any(view["plots"] for view in views.values()),
        "facts": _facts(report, outcome),
        "explanation": _explanation(measured),
    }


def _lead(
    rows: Sequence[LayerRow], worst: Sequence[LayerRow], advices: Sequence[Advice], total: float
) -> str:
    if not total:
        return (
            "Which layers cost the outputs most was not measured: that takes images, and "
            "sensitivity=True (on the command line, --report with --calibration)."
        )
    ranked = sorted((r.sensitivity.total for r in rows if r.sensitivity is not None), reverse=True)
    half, summed = 0, 0.0
    while summed < total / 2:
        summed += ranked[half]
        half += 1
    name, count = worst[0].layer, len(ranked)
    part = {"weights": "its weights", "output": "the rounding of its output"}.get(
        advices[0].cause, "its weights and its output"
    )
    layers = "one of" if half == 1 else f"{half} of"
    return (
        f"Half of what quantization costs the outputs comes from {layers} {count} layers. "
        f"The first to change is {name}: {part}."
    )


def _worst_note(worst: Sequence[LayerRow], total: float, measured: bool) -> str:
    if not measured:
        return (
            "The layers whose weights lost most. What that does to the outputs was not measured, "
            "so try these one at a time."
        )
    share = sum(row.sensitivity.total for row in worst) / total
    return (
        f"The layers that cost the outputs most, each quantized alone. Together they make up "
        f"{share:.0%} of the sum of all layers."
    )


def _recipe(
    report: ReportFacts, worst: Sequence[LayerRow], advices: Sequence[Advice], total: float
) -> dict[str, str]:
    """The advice on the worst layers as one recipe, and what it would bring and cost."""
    lines = recipe_lines(advices, report.budgets)
    note = (
        "A key that the recipe has already is replaced; under `rules`, these come after the rules "
        "that are there, as of two for one layer the later one counts."
    )
    if total:
        before = sum(row.sensitivity.total for row in worst)
        kept = sum(
            row.sensitivity.total * (1.0 if advice.leaves_in_float else advice.keeps)
            for row, advice in zip(worst, advices, strict=True)
        )
        left = (total - before + kept) / total
        note = (
            f"By these figures {left:.0%} of the error of the outputs would be left"
            f"{_cost_in_bits(report, advices)}. {note}"
        )
    return {"recipe": "\n".join(lines), "recipe_note": note}


def _cost_in_bits(report: ReportFacts, advices: Sequence[Advice]) -> str:
    rows = {row.name: row for row in report.rows}
    added = sum(
        (MOST_BITS - rows[advice.layer].weight_bits) * rows[advice.layer].weights
        for advice in advices
        if "weight_bits" in (advice.rule or {})
    )
    if not added:
        return ", without a bit more for the weights"
    before = report.average_weight_bits
    after = before + added / sum(row.weights for row in report.rows)
    return f", at {after:.2f} bits per weight on average instead of {before:.2f}"


def _figures(report: ReportFacts, outcome: Outcome) -> list[dict[str, str]]:
    figures = []
    if outcome.top1 is not None:
        note = f"on {counted(outcome.images, 'image')}"
        if outcome.float_top1 is not None:
            note = f"float {outcome.float_top1:.1%}, {note}"
        figures.append(("Top-1 accuracy", f"{outcome.top1:.1%}", note))
    same = NOT_MEASURED
    if outcome.agreement is not None:
        same = f"same class on {counted(outcome.images, 'image')}"
    figures.append(("Agreement with float", percent(outcome.agreement), same))
    without_error = outcome.sqnr_db is None or outcome.sqnr_db == math.inf
    sqnr = "" if without_error else decibels(outcome.sqnr_db)
    of_outputs = "of the outputs, float as reference"
    if outcome.agreement is None:
        of_outputs = NOT_MEASURED
    figures.append(("SQNR", sqnr or "equal" * (outcome.agreement is not None), of_outputs))
    size = NOT_MEASURED
    if outcome.bytes is not None:
        size = outcome.target or ""
        if outcome.float_bytes:
            times = outcome.float_bytes / outcome.bytes
            size = f"{times:.1f} times smaller than float"
    figures.append(("File", "" if outcome.bytes is None else file_size(outcome.bytes), size))
    outputs = f"{report.average_activation_bits:.2f} per activation"
    figures.append(("Bits per weight", f"{report.average_weight_bits:.2f}", outputs))
    if outcome.seconds is not None:
        figures.append(("Time", f"{outcome.seconds:.0f} s", "from start to end"))
    return [dict(zip(("label", "value", "note"), figure, strict=True)) for figure in figures]


def _bits_plot(rows: Sequence[LayerRow], field: str, style: str) -> Markup:
    return Markup(plots.bits_plot(rows, [getattr(row, field) for row in rows], style))


def _bits_note(rows: Sequence[LayerRow], field: str) -> str:
    counts: dict[int, int] = {}
    for row in rows:
        for bits, channels in getattr(row, field):
            counts[bits] = counts.get(bits, 0) + channels
    what = "channels" if field == "weight_channels" else "scales"
    named = ", ".join(f"{count:,} {what} at {bits}" for bits, count in sorted(counts.items()))
    return (
        f"{named} bits. The stronger the colour, the more of a layer."
        if named
        else "Nothing is quantized."
    )


def _facts(report: ReportFacts, outcome: Outcome) -> list[tuple[str, str]]:
    facts = [("Recipe", report.config)]
    if outcome.file is not None:
        facts.append(("File", outcome.file))
    if outcome.target is not None:
        facts.append(("Target", outcome.target))
    facts.append(("Made by", f"tflite-ptq4 {report.package_version}".strip()))
    return facts


def _explanation(measured: bool) -> str:
    sqnr = (
        "SQNR is the power of the values over that of their error, in decibels: one bit more is "
        "about 6 dB, 20 dB are an error of a tenth. That of a layer is taken on a sample of the "
        "positions of the calibration images."
    )
    if not measured:
        return sqnr
    return sqnr + (
        " \u201cAlone\u201d is the SQNR of the network\u2019s outputs, before a softmax, with this "
        "layer quantized and all others in float, to first order and on the calibration images. "
        "Errors of layers add up, as long as they are small and independent."
    )
