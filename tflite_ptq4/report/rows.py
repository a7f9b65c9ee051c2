"""The rows of the report: plan, weights and measurements of each operator brought together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config.description import describe
from tflite_ptq4.distributions import Distribution, tensor_distribution, weight_distribution
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.numerics.closeness import sqnr_db
from tflite_ptq4.plan import (
    NETWORK_INPUT,
    NETWORK_OUTPUT,
    LayerPlan,
    QuantizationPlan,
    TensorPlan,
)
from tflite_ptq4.planning.network_positions import end_layers
from tflite_ptq4.report.advice import free_settings
from tflite_ptq4.report.quantization_report import QuantizationReport
from tflite_ptq4.report.values import LayerRow
from tflite_ptq4.sensitivity import Sensitivity
from tflite_ptq4.stats.tensor_statistics import TensorStatistics
from tflite_ptq4.weights.kernel_layout import kernel_matrix
from tflite_ptq4.weights.layer_weights import LayerWeights

IN_FLOAT_BITS = 32.0
_SETTINGS = {NETWORK_INPUT: "input_bits", NETWORK_OUTPUT: "output_bits"}


def build_report(
    graph: LayerGraph,
    plan: QuantizationPlan,
    weights: Mapping[str, LayerWeights],
    output_sqnr_db: Mapping[str, float],
    *,
    statistics: Mapping[str, TensorStatistics] | None = None,
    sensitivity: Mapping[str, Sensitivity] | None = None,
    model: str = "",
    package_version: str = "",
) -> QuantizationReport:
    """Rows of a quantized model.

    Args:
        graph: the lowered model.
        plan: made for it.
        weights: of the quantized layers.
        output_sqnr_db: of each operator's output where it was measured.
        statistics: of the tensors, for their distributions; None leaves those out.
        sensitivity: of each operator and input where it was measured.
        model: its name.
        package_version: of this package.

    Returns:
        The report.
    """
    builder = _Rows(graph, plan, weights, output_sqnr_db, statistics or {}, sensitivity or {})
    rows = [builder.of_input(name) for name in graph.inputs if name in plan.tensors]
    bits_of_weights, weight_count = 0.0, 0
    layers = {layer.name: layer for layer in plan.layers}
    for node in graph.nodes:
        layer = layers[node.name]
        if node.kernel is not None:
            bits = IN_FLOAT_BITS if layer.weight_bits is None else float(layer.weight_bits.mean())
            bits_of_weights += bits * node.kernel.size
            weight_count += node.kernel.size
        if node.kernel is not None or node.rule.rounds or not layer.quantized:
            rows.append(builder.of_node(node, layer))
    return QuantizationReport(
        rows=tuple(rows),
        average_weight_bits=bits_of_weights / max(weight_count, 1),
        average_activation_bits=_average_activation_bits(graph, plan),
        config=describe(plan.config),
        model=model,
        package_version=package_version,
        free_settings=free_settings(plan.config),
        budgets=_budgets(rows, graph, plan),
    )


class _Rows:
    """What the rows of one model share."""

    def __init__(
        self,
        graph: LayerGraph,
        plan: QuantizationPlan,
        weights: Mapping[str, LayerWeights],
        output_sqnr_db: Mapping[str, float],
        statistics: Mapping[str, TensorStatistics],
        sensitivity: Mapping[str, Sensitivity],
    ) -> None:
        self.graph, self.plan, self.weights = graph, plan, weights
        self.output_sqnr_db, self.sensitivity = output_sqnr_db, sensitivity
        self.statistics = statistics
        self.ends = frozenset.union(*end_layers(graph))
        self.left_in_float = {
            layer.name for layer in plan.layers if not layer.quantized and layer.kind != "float"
        }

    def of_input(self, name: str) -> LayerRow:
        """The row of an input."""
        return LayerRow(
            name=name,
            layer=name,
            layer_type="InputLayer",
            quantized=True,
            weights=0,
            in_weight_budget=False,
            weight_bits=IN_FLOAT_BITS,
            weight_channels=(),
            weight_sqnr_db=None,
            output_sqnr_db=_finite(self.output_sqnr_db.get(name)),
            sensitivity=self.sensitivity.get(name),
            reason=self.plan.tensors[name].reason,
            **self._of_tensor(name),
        )

    def of_node(self, node: Node, layer: LayerPlan) -> LayerRow:
        """The row of an operator."""
        weights, bits = self.weights.get(node.name), layer.weight_bits
        sqnr = values = None
        if weights is not None and bits is not None:
            kernel = kernel_matrix(node)
            sqnr = sqnr_db(kernel, kernel_matrix(node, weights.dequantized(node)))
            if self.statistics:
                values = weight_distribution(node, weights, bits, self.plan.config.weight_scale)
        return LayerRow(
            name=node.name,
            layer=node.layer or node.name,
            layer_type=node.layer_type,
            quantized=layer.quantized,
            weights=0 if node.kernel is None else node.kernel.size,
            in_weight_budget=bits is not None and node.name not in self.ends,
            weight_bits=IN_FLOAT_BITS if bits is None else float(bits.mean()),
            weight_channels=() if bits is None else _counted(bits),
            weight_sqnr_db=_finite(sqnr),
            output_sqnr_db=_finite(self.output_sqnr_db.get(node.name)),
            sensitivity=self.sensitivity.get(node.name),
            reason=layer.reason,
            weight_values=values,
            **self._of_tensor(node.output),
        )

    def _of_tensor(self, name: str) -> dict:
        """The fields of a row that are about its output."""
        tensor = self.plan.tensors.get(name)
        elements = self.graph.elements(name)
        if tensor is None:
            return {
                "elements": elements,
                "activation_bits": IN_FLOAT_BITS,
                "activation_channels": (),
                "clip": None,
                "clip_method": "",
                "output_rule": None,
                "output_setting": None,
            }
        producer = self.graph.producer.get(tensor.source)
        # The output of a layer that a rule leaves in float has the bits of the config.
        if producer is not None and producer.name in self.left_in_float:
            producer = None
        return {
            "elements": elements,
            "activation_bits": float(tensor.bits.mean()),
            "activation_channels": _counted(tensor.bits),
            "clip": (float(tensor.low.min()), float(tensor.high.max())),
            "clip_method": "/".join(sorted(set(tensor.method))),
            "output_rule": None if producer is None else producer.name,
            "output_setting": _SETTINGS.get(tensor.reason),
            "output_values": self._distribution(name, tensor),
        }

    def _distribution(self, name: str, tensor: TensorPlan) -> Distribution | None:
        statistics = self.statistics.get(name)
        if statistics is None:
            return None
        one_sided = name in self.graph.nonnegative
        return tensor_distribution(statistics, tensor, one_sided=one_sided)


def _counted(bits: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """How many channels have so many bits, in ascending order."""
    return tuple(sorted(Counter(bits.tolist()).items()))


def _budgets(
    rows: Sequence[LayerRow], graph: LayerGraph, plan: QuantizationPlan
) -> dict[str, tuple[float, int]]:
    """The averages that the config sets, each with how many numbers it is the average of."""
    weights = sum(row.weights for row in rows if row.in_weight_budget)
    own = [
        name
        for name, tensor in plan.tensors.items()
        if tensor.source == name and name not in graph.inner
    ]
    elements = sum(map(graph.elements, own))
    config = plan.config
    budgets = {
        "weight_bit_budget": (config.weight_bit_budget, weights),
        "activation_bit_budget": (config.activation_bit_budget, elements),
    }
    return {name: pair for name, pair in budgets.items() if pair[0] is not None and pair[1]}


def _average_activation_bits(graph: LayerGraph, plan: QuantizationPlan) -> float:
    """Mean bits of the elements that layers write; what is moved only is not counted twice."""
    total, elements = 0.0, 0
    for name, tensor in plan.tensors.items():
        if tensor.source != name or name in graph.inputs or name in graph.inner:
            continue
        size = graph.elements(name)
        total += float(tensor.bits.mean()) * size
        elements += size
    return total / max(elements, 1)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
