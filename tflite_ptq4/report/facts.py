"""What quantization did to a network: a row for each operator, and what follows from the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tflite_ptq4.report.advice import Advice, advise, worst_layers
from tflite_ptq4.report.values import LayerRow


@dataclass(frozen=True)
class ReportFacts:
    """The rows of all operators, what they add up to, and what to try.

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
