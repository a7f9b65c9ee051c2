"""Reports made by hand: rows with names and numbers that no network of the tests has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tflite_ptq4.distributions import Distribution, Prior
from tflite_ptq4.report.quantization_report import QuantizationReport
from tflite_ptq4.report.values import LayerRow
from tflite_ptq4.sensitivity import Sensitivity

VALUES = Distribution(
    start=-1.2,
    stop=1.2,
    shares=tuple(np.round(np.exp(-np.abs(np.linspace(-4, 4, 56))) / 14, 4).tolist()),
    zeros=0.0,
    below=0.0,
    above=0.001,
    clip_low=-1.0,
    clip_high=1.0,
    clipped=0.02,
    prior=Prior("laplace", 0.0, 0.3, 1.0, one_sided=False, chosen=True),
)


def row(name: str = "conv", **changes: object) -> LayerRow:
    """A convolution of 100 weights at 4 bits, whose output has 4 bits."""
    made = LayerRow(
        name=name,
        layer=name,
        layer_type="Conv2D",
        quantized=True,
        weights=100,
        in_weight_budget=True,
        weight_bits=4.0,
        weight_channels=((4, 8),),
        elements=50,
        activation_bits=4.0,
        activation_channels=((4, 1),),
        clip=(0.0, 2.5),
        clip_method="laplace",
        output_rule=name,
        output_setting=None,
        weight_sqnr_db=15.0,
        output_sqnr_db=12.0,
        sensitivity=Sensitivity(weights=0.001, activation=0.001),
        reason="default",
        weight_values=VALUES,
        output_values=VALUES,
    )
    return replace(made, **changes)


def in_float(name: str, reason: str) -> LayerRow:
    """An operator that stays in float."""
    return row(
        name,
        layer_type="Lambda",
        quantized=False,
        weights=0,
        in_weight_budget=False,
        weight_bits=32.0,
        weight_channels=(),
        activation_bits=32.0,
        activation_channels=(),
        clip=None,
        clip_method="",
        output_rule=None,
        weight_sqnr_db=None,
        output_sqnr_db=None,
        sensitivity=None,
        reason=reason,
        weight_values=None,
        output_values=None,
    )


def report(*rows: LayerRow, **changes: object) -> QuantizationReport:
    """A report of these rows."""
    return replace(
        QuantizationReport(
            rows=rows,
            average_weight_bits=4.1,
            average_activation_bits=4.5,
            config="weights 4 bits",
            model="a model",
            package_version="1.2",
        ),
        **changes,
    )
