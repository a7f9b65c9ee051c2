"""What quantization did, as rows: for people as a table or a page, for machines as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from tflite_ptq4.advice import Advice, advise, recipe_lines, worst_layers
from tflite_ptq4.atomic_write import write_bytes
from tflite_ptq4.errors import OutputError
from tflite_ptq4.report_values import NOT_MEASURED, LayerRow, Outcome

FORMAT_VERSION = 1


@dataclass(frozen=True)
class QuantizationReport:
    """The rows of all operators and what they add up to.

    Attributes:
        rows: the inputs and the operators in the order of execution; those that only move values
            are left out, as long as they are not in float.
        average_weight_bits: over all weights of the network.
        average_activation_bits: over all elements of quantized tensors.
        config: the choices, in one line.
        model: name of the model.
        package_version: of this package.
        free_settings: fields of the config that would cost no bits, see `advice.free_settings`.
        budgets: of the config, by field: the average, and how many numbers it is the average of.
    """

    rows: tuple[LayerRow, ...]
    average_weight_bits: float
    average_activation_bits: float
    config: str
    model: str = ""
    package_version: str = ""
    free_settings: Mapping[str, str | bool] = field(default_factory=dict)
    budgets: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def in_float(self) -> tuple[LayerRow, ...]:
        """The operators that stay in float."""
        return tuple(row for row in self.rows if not row.quantized)

    @cached_property
    def worst(self) -> tuple[LayerRow, ...]:
        """The rows that cost the outputs most, see `advice.worst_layers`."""
        return worst_layers(self.rows)

    @cached_property
    def advice(self) -> tuple[Advice, ...]:
        """What to try on each of the worst rows."""
        return tuple(advise(row, self.rows) for row in self.worst)

    @property
    def has_sensitivity(self) -> bool:
        """Whether the sensitivity of the layers was measured."""
        return any(row.sensitivity is not None for row in self.rows)

    def to_dict(self, *, distributions: bool = False) -> dict:
        """The report as plain values.

        Args:
            distributions: whether those of weights and outputs are in it, most of its length.
        """
        return {
            "model": self.model,
            "config": self.config,
            "average_weight_bits": self.average_weight_bits,
            "average_activation_bits": self.average_activation_bits,
            "sensitivity_measured": self.has_sensitivity,
            "free_settings": dict(self.free_settings),
            "budgets": dict(self.budgets),
            "worst": [
                {**asdict(advice), "yaml": "\n".join(recipe_lines([advice], self.budgets))}
                for advice in self.advice
            ],
            "rows": [row.to_dict(distributions=distributions) for row in self.rows],
        }

    def save(self, directory: str | os.PathLike[str], outcome: Outcome = NOT_MEASURED) -> None:
        """Write `report.html`, a page for any browser, and `report.json`, the same as data.

        Both are the same for equal runs but for `outcome.seconds`.

        Args:
            directory: where to; it is made where it does not exist.
            outcome: size, accuracy and time, as far as they were measured; the page says of the
                rest that it was not.

        Raises:
            OutputError: the folder cannot be made, or a file not written.
        """
        from tflite_ptq4.report_page import render_page

        folder = Path(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"The folder of the report must be one that can be written to: {str(folder)!r} "
                f"could not be made ({error.strerror or error}). Name another folder."
            ) from error
        values = {
            "format": "tflite-ptq4 report",
            "version": FORMAT_VERSION,
            "package_version": self.package_version,
            "outcome": outcome.to_dict(),
            "report": self.to_dict(distributions=True),
        }
        page = render_page(self, outcome)
        write_bytes(folder / "report.json", (json.dumps(values, allow_nan=False) + "\n").encode())
        write_bytes(folder / "report.html", page.encode())

    def render(self) -> str:
        """The report as plain text."""
        header = ("layer", "type", "weights", "bits", "output bits", "weight dB", "output dB")
        header += ("alone dB",) * self.has_sensitivity
        table = [header]
        table += [
            (
                row.name,
                row.layer_type,
                str(row.weights or ""),
                f"{row.weight_bits:.3g}" if row.weights else "",
                f"{row.activation_bits:.3g}",
                _decibels(row.weight_sqnr_db),
                _decibels(row.output_sqnr_db),
                _decibels(None if row.sensitivity is None else row.sensitivity.sqnr_db),
            )[: len(header)]
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        lines.append("")
        lines.append(
            f"average bits: {self.average_weight_bits:.2f} per weight, "
            f"{self.average_activation_bits:.2f} per activation"
        )
        lines += [f"not quantized: {row.name}: {row.reason}" for row in self.in_float]
        return "\n".join(lines)


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
