"""What quantization did, as rows: for people as a table or a page, for machines as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from tflite_ptq4.atomic_write import make_folder, write_bytes
from tflite_ptq4.report.advice import recipe_lines
from tflite_ptq4.report.facts import ReportFacts
from tflite_ptq4.report.values import NOT_MEASURED, Outcome
from tflite_ptq4.text_table import aligned

FORMAT_VERSION = 1


@dataclass(frozen=True)
class QuantizationReport(ReportFacts):
    """The facts, to be written, printed or saved."""

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
        from tflite_ptq4.report.page import render_page

        folder = make_folder(directory)
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
        lines = aligned(table, [column < 2 for column in range(len(header))])
        lines.append("")
        lines.append(
            f"average bits: {self.average_weight_bits:.2f} per weight, "
            f"{self.average_activation_bits:.2f} per activation"
        )
        lines += [f"not quantized: {row.name}: {row.reason}" for row in self.in_float]
        return "\n".join(lines)


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
