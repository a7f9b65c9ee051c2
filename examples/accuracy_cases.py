"""The ways of quantizing that `measure_accuracy.py` measures: presets, corrections, bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tflite_ptq4 import QuantizationConfig


@dataclass(frozen=True)
class Case:
    """One way to make a file: a preset with some fields changed, and a target."""

    name: str
    preset: str
    target: str = "int8_container"
    layout: str = "fast"
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> QuantizationConfig:
        return QuantizationConfig.preset(self.preset, **self.changes)


W4A8 = Case("w4a8", "w4a8")
W4A4 = Case("w4a4", "w4a4")

PRESETS = [
    Case("w8a8", "w8a8"),
    W4A8,
    Case("w4a8, packed", "w4a8", target="packed_int4"),
    W4A4,
    Case("w4a4_strict", "w4a4_strict"),
    Case("paper_w4a4", "paper_w4a4", target="float_simulated"),
]
CORRECTIONS = [
    W4A8,
    Case("w4a8, refit_weights off", "w4a8", changes={"refit_weights": False}),
    Case("w4a8, weight_rounding nearest", "w4a8", changes={"weight_rounding": "nearest"}),
    Case("w4a8, output_matching off", "w4a8", changes={"output_matching": False}),
    Case("w4a8, weight_bit_budget off", "w4a8", changes={"weight_bit_budget": None}),
    W4A4,
    Case("w4a4, activation_bit_budget off", "w4a4", changes={"activation_bit_budget": None}),
    Case("w4a4, clipping_error tensor", "w4a4", changes={"clipping_error": "tensor"}),
]
CURVE = [
    Case("w4a8, 3 bits", "w4a8", changes={"weight_bits": 3, "weight_bit_budget": 3.0}),
    Case("w4a8, 3.5 bits", "w4a8", changes={"weight_bits": 3, "weight_bit_budget": 3.5}),
    Case("w4a8, 4 bits", "w4a8", changes={"weight_bit_budget": 4.0}),
    W4A8,
    Case("w4a8, 4.5 bits", "w4a8", changes={"weight_bit_budget": 4.5}),
    Case("w4a8, 5 bits", "w4a8", changes={"weight_bit_budget": 5.0}),
    Case("w4a8, 6 bits", "w4a8", changes={"weight_bit_budget": 6.0}),
]
CASES = {case.name: case for case in (*PRESETS, *CORRECTIONS, *CURVE)}
FLOAT = "float"  # the network itself stands among the cases under this name
