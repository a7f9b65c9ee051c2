"""What quantization did, as rows: for people as a table, for machines as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from tflite_ptq4.graph import LayerGraph
from tflite_ptq4.kernel_layout import kernel_matrix
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.quantized_weights import LayerWeights


@dataclass(frozen=True)
class LayerRow:
    """One operator with weights, or one that stays in float.

    Attributes:
        name: the operator.
        layer_type: its Keras class.
        quantized: whether it computes on integers.
        weights: number of weights.
        weight_bits: mean bits of a weight, 32 in float.
        activation_bits: mean bits of its output, 32 in float.
        weight_sqnr_db: of the weights; None in float, or where there is no error.
        output_sqnr_db: of the output against the float network, every error before it included;
            None where it was not measured, or where there is no error.
        reason: where the bits come from, or why the operator stays in float.
    """

    name: str
    layer_type: str
    quantized: bool
    weights: int
    weight_bits: float
    activation_bits: float
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    reason: str


@dataclass(frozen=True)
class QuantizationReport:
    """The rows of all operators and what they add up to.

    Attributes:
        rows: operators in the order of execution; those that hold no weights only where they stay
            in float.
        average_weight_bits: over all weights of the network.
        average_activation_bits: over all elements of quantized tensors.
        config: the choices, in one line.
    """

    rows: tuple[LayerRow, ...]
    average_weight_bits: float
    average_activation_bits: float
    config: str

    @property
    def in_float(self) -> tuple[LayerRow, ...]:
        """The operators that stay in float."""
        return tuple(row for row in self.rows if not row.quantized)

    def to_dict(self) -> dict:
        """The report as plain values."""
        return asdict(self)

    def render(self) -> str:
        """The report as plain text."""
        header = ("layer", "type", "weights", "bits", "output bits", "weight dB", "output dB")
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
            )
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


def build_report(
    graph: LayerGraph,
    plan: QuantizationPlan,
    weights: Mapping[str, LayerWeights],
    output_sqnr_db: Mapping[str, float],
) -> QuantizationReport:
    """Rows of a quantized model.

    Args:
        graph: the lowered model.
        plan: made for it.
        weights: of the quantized layers.
        output_sqnr_db: of each operator's output where it was measured.

    Returns:
        The report.
    """
    rows, bits_of_weights, weight_count = [], 0.0, 0
    for node in graph.nodes:
        layer = plan.layer(node.name)
        count = 0 if node.kernel is None else node.kernel.size
        weight_bits = 32.0 if layer.weight_bits is None else float(layer.weight_bits.mean())
        bits_of_weights += weight_bits * count
        weight_count += count
        if node.kernel is None and layer.quantized:
            continue
        tensor = plan.tensors.get(node.output)
        sqnr = None
        if node.name in weights:
            sqnr = _sqnr(
                kernel_matrix(node), kernel_matrix(node, weights[node.name].dequantized(node))
            )
        rows.append(
            LayerRow(
                name=node.name,
                layer_type=node.layer_type,
                quantized=layer.quantized,
                weights=count,
                weight_bits=weight_bits,
                activation_bits=32.0 if tensor is None else float(tensor.bits.mean()),
                weight_sqnr_db=sqnr,
                output_sqnr_db=_finite(output_sqnr_db.get(node.name)),
                reason=layer.reason,
            )
        )
    return QuantizationReport(
        rows=tuple(rows),
        average_weight_bits=bits_of_weights / max(weight_count, 1),
        average_activation_bits=_average_activation_bits(graph, plan),
        config=plan.config.describe(),
    )


def _average_activation_bits(graph: LayerGraph, plan: QuantizationPlan) -> float:
    """Mean bits of the elements that operators write; what is moved only is not counted twice."""
    total, elements = 0.0, 0
    for name, tensor in plan.tensors.items():
        if tensor.source != name or name in graph.inputs:
            continue
        size = math.prod(size or 1 for size in graph.shapes[name][1:])
        total += float(tensor.bits.mean()) * size
        elements += size
    return total / max(elements, 1)


def _sqnr(reference: np.ndarray, approximation: np.ndarray) -> float | None:
    noise = float(((reference.astype(np.float64) - approximation) ** 2).sum())
    signal = float((reference.astype(np.float64) ** 2).sum())
    return None if noise == 0 or signal == 0 else 10.0 * math.log10(signal / noise)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
