"""The figures of all networks and cases as a page of Markdown, beside the JSON it is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_cases import CORRECTIONS, CURVE, FLOAT, PRESETS, Case
from accuracy_figures import Figures, Results

from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.cli.console import number, percent

COLUMNS = (
    "top-1",
    "to float",
    "agreement",
    "SQNR dB",
    "bits/weight",
    "stored",
    "bits/activation",
    "bytes",
)


def cells(figures: Figures, reference: Figures) -> tuple[str, ...]:
    """Return the figures of a case as text, in the order of `COLUMNS`."""
    return (
        percent(figures.top1),
        f"{100 * (figures.top1 - reference.top1):+.2f}",
        percent(figures.agreement),
        number(figures.sqnr_db, "{:.1f}"),
        number(figures.weight_bits, "{:.2f}"),
        number(figures.stored_weight_bits, "{:.2f}"),
        f"{figures.activation_bits:.2f}",
        f"{figures.bytes:,}",
    )


def page(results: Results) -> str:
    """Return the page of all networks, Markdown."""
    parts = [
        "# Results",
        "Made by `python examples/measure_accuracy.py MODEL.keras --calibration PATH --data PATH "
        "--update`, once for each network: files run in LiteRT on all images, from the figures in "
        "`results.json` beside this page. The same command without `--update` measures anew and "
        "names what moved.",
        "\n".join(
            f"- {network}: {cases[FLOAT].images:,} labelled images, calibrated on "
            f"{cases[FLOAT].calibration_images}; the float network's top-1 is "
            f"{percent(cases[FLOAT].top1)}, with a standard error of "
            f"{100 * proportion_error(cases[FLOAT]):.2f} points."
            for network, cases in results.items()
        ),
        '"To float" is in points of top-1. Bits per weight are those that the stored values of a '
        "channel need, beside those that a weight takes in the file, both without the first and "
        "the last layer. Layout `fast` packs 4-bit weights of 1x1 convolutions and Dense "
        "layers only, so a network of 3x3 convolutions gets no smaller by it. Agreement and SQNR "
        "of the logits are against the float network.",
        "## Presets and targets",
        markdown(results, PRESETS, "preset, target", preset_label),
        "## One correction switched off at a time",
        markdown(results, CORRECTIONS, "preset, what is off", lambda case: case.name),
        "## Bits of the weights",
        "The preset `w4a8` with another `weight_bit_budget`, below 4 with `weight_bits: 3`: layers "
        "beyond the usual bits have 8, those first that cost the outputs most. The first and the "
        "last layer keep 8.",
        markdown(
            results, CURVE, "weight_bit_budget", lambda case: f"{case.config.weight_bit_budget:g}"
        ),
    ]
    return "\n\n".join(parts) + "\n"


def proportion_error(figures: Figures) -> float:
    """Return the standard error of a top-1, `sqrt(p (1 - p) / N)`."""
    return float(np.sqrt(figures.top1 * (1 - figures.top1) / figures.images))


def preset_label(case: Case) -> str:
    """Return what the first table calls a case."""
    layout = f", {case.layout}" if case.target == "packed_int4" else ""
    return f"`{case.preset}`, `{case.target}`{layout}"


def markdown(results: Results, shown: Sequence[Case], title: str, label: Any) -> str:
    """Return one table: the cases of each network, of those that were measured."""
    lines = [
        f"| network | {title} | {' | '.join(COLUMNS)} |",
        f"| --- | --- |{' ---: |' * len(COLUMNS)}",
    ]
    for network, cases in results.items():
        for place, case in enumerate(case for case in shown if case.name in cases):
            row = cells(cases[case.name], cases[FLOAT])
            lines.append(f"| {'' if place else network} | {label(case)} | {' | '.join(row)} |")
    return "\n".join(lines)


def write_results(path: Path, results: Results) -> None:
    """Write the reference file, and beside it the page that shows it."""
    results = dict(sorted(results.items()))
    plain = {
        network: {name: asdict(figures) for name, figures in cases.items()}
        for network, cases in results.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode())
    write_bytes(path.with_suffix(".md"), page(results).encode())
