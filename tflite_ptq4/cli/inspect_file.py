"""`tflite-ptq4 inspect`: a .tflite file in, its operators, bytes, bits and levels out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tflite_ptq4.cli.console import number, print_json, print_table
from tflite_ptq4.evaluation.runnable_models import read_model_file
from tflite_ptq4.file_inspection import ActivationTensor, FileReport, inspect_file
from tflite_ptq4.file_inspection.weight_tensors import WeightTensor


def run(arguments: argparse.Namespace) -> None:
    """Measure the file and print what was found."""
    report = inspect_file(read_model_file(arguments.file))
    if arguments.json:
        print_json({"file": str(arguments.file), **report.to_dict()})
    else:
        _print_report(arguments.file, report)


def _print_report(path: Path, report: FileReport) -> None:
    print_table(
        f"{path}: {report.file_bytes:,} bytes",
        ("kind", "bytes", "share"),
        [
            (kind, f"{size:,}", f"{size / report.file_bytes:.1%}")
            for kind, size in report.bytes_by_kind.items()
        ],
    )
    if report.metadata:
        print_table("metadata", ("entry", "value"), list(_metadata_rows(report.metadata)))
    if report.signatures:
        print_table(
            "signatures",
            ("signature", "inputs", "outputs"),
            [(s.name, ", ".join(s.inputs), ", ".join(s.outputs)) for s in report.signatures],
        )
    graphs = f" of {report.subgraphs} graphs" if report.subgraphs > 1 else ""
    for title, counts in (
        (f"operators{graphs}", report.operators),
        ("tensor types", report.tensor_types),
    ):
        print_table(title, ("name", "count"), [(name, str(n)) for name, n in counts.items()])
    if report.weights:
        print_table(
            f"weights: {number(report.stored_bits_per_weight, '{:.2f}')} bits each in the file, "
            f"{number(report.effective_bits_per_weight, '{:.2f}')} used",
            ("name", "operator", "shape", "type", "bytes", "bits stored", "bits used", "range"),
            [_weight_row(weight) for weight in report.weights],
        )
    print_table(
        "activations",
        ("name", "operator", "type", "shape", "scale", "zero point", "levels"),
        [_activation_row(activation) for activation in report.activations],
    )


def _metadata_rows(metadata: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """One row for each entry, and for each value of an entry that holds several."""
    for name, value in metadata.items():
        values = value.items() if isinstance(value, dict) else [("", value)]
        for key, item in values:
            text = item if isinstance(item, str) else json.dumps(item)
            yield f"{name} {key}".rstrip(), text


def _weight_row(weight: WeightTensor) -> tuple[str, ...]:
    span = "-" if weight.lowest is None else f"[{weight.lowest:.4g}, {weight.highest:.4g}]"
    return (
        _first_name(weight.name),
        weight.operator,
        _shape(weight.shape),
        weight.type,
        f"{weight.bytes:,}",
        number(weight.stored_bits),
        number(weight.effective_bits, "{:.2f}"),
        span,
    )


def _activation_row(activation: ActivationTensor) -> tuple[str, ...]:
    levels = number(activation.levels)
    if activation.levels is not None and activation.levels != activation.most_levels:
        levels = f"{activation.levels:.1f} (at most {activation.most_levels})"
    return (
        _first_name(activation.name),
        activation.operator,
        activation.type,
        _shape(activation.shape),
        number(activation.scale, "{:.6g}"),
        number(activation.zero_point),
        levels,
    )


def _first_name(name: str) -> str:
    """Shorten "a;b;c", the converter's name for an operator that it fused from three."""
    return name.split(";")[0]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
