"""From graph, statistics and config to a plan: pure functions, no model at hand.

Each tensor that an integer operator reads or writes gets a scale. Operators that only move or
select values share their input's; tensors that meet in one concatenation, maximum or minimum, and
go nowhere else, share the result's, so that nothing is rounded twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerSettings
from tflite_ptq4.errors import ModelError, StatisticsError
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.numerics.ranges import affine_range
from tflite_ptq4.numerics.tie_free_scale import FUNCTIONS, tie_free_mean_scale, tie_free_scale
from tflite_ptq4.plan import (
    NETWORK_INPUT,
    NETWORK_OUTPUT,
    LayerPlan,
    QuantizationPlan,
    TensorPlan,
)
from tflite_ptq4.planning.bit_budgets import (
    measured_channel_bits,
    raised_activation_bits,
    raised_weight_bits,
)
from tflite_ptq4.planning.channel_bits import allocated_activation_bits, allocated_weight_bits
from tflite_ptq4.planning.clipping import choose_clip, step_range
from tflite_ptq4.planning.integer_region import integer_operators, scale_sources
from tflite_ptq4.planning.layer_settings import settings_by_layer
from tflite_ptq4.planning.network_positions import end_layers, leaves_the_network, weighted_readers
from tflite_ptq4.sensitivity import Sensitivity
from tflite_ptq4.stats.tensor_statistics import TensorStatistics
from tflite_ptq4.weights.kernel_layout import input_energy
from tflite_ptq4.weights.layer_weights import as_float32
from tflite_ptq4.weights.quantized_weights import second_order_refusal


def build_plan(
    graph: LayerGraph,
    statistics: Mapping[str, TensorStatistics],
    config: QuantizationConfig,
    measured: Mapping[str, Sensitivity] | None = None,
) -> QuantizationPlan:
    """Decide bits, scale and clip of every tensor, and bits of every weight.

    Args:
        graph: the lowered model.
        statistics: of every tensor of the graph that computes values of its own.
        config: the choices.
        measured: what quantizing each operator alone costs the outputs of the network, for the
            budgets of the config; where it was not measured, None, and the plan's config is without
            measured bits.

    Returns:
        The plan; every operator is in it, as quantized or with the reason why not.

    Raises:
        StatisticsError: a tensor has no statistics, or they do not fit the graph.
        ModelError: the config leaves every layer in float.
    """
    if measured is None:
        config = config.without_measured_bits()
    planner = _Planner(graph, statistics, config, measured)
    layers = tuple(planner.layer_plan(node) for node in graph.nodes)
    if not any(layer.quantized and layer.weight_bits is not None for layer in layers):
        reasons = "; ".join(sorted({layer.reason for layer in layers if layer.reason})[:5])
        raise ModelError(
            f"At least one layer with weights must be quantized. Received: a config that leaves "
            f"all of them in float ({reasons}). Change its `rules`."
        )
    return QuantizationPlan(
        layers=layers,
        tensors={name: planner.tensor_plan(name) for name in planner.quantized_tensors},
        config=config,
        fingerprint=graph.fingerprint,
    )


class _Planner:
    """Holds what the decisions of one plan share."""

    def __init__(
        self,
        graph: LayerGraph,
        statistics: Mapping[str, TensorStatistics],
        config: QuantizationConfig,
        measured: Mapping[str, Sensitivity] | None,
    ) -> None:
        self.graph, self.statistics, self.config = graph, statistics, config
        self.first, self.last = end_layers(graph)
        self.settings = settings_by_layer(graph, config)
        self.quantized = integer_operators(graph, self.settings)
        self.quantized_tensors = tuple(
            name for name in graph.tensors if self._touches_integers(name)
        )
        self.sources = scale_sources(graph, self.quantized, config)
        self._own_plans: dict[str, TensorPlan] = {}
        ends = self.first | self.last
        counted = [
            node
            for node in graph.weighted_nodes
            if node.name in self.quantized and node.name not in ends
        ]
        self.raised_layers = raised_weight_bits(counted, self.settings, config, measured)
        self.channel_bits: dict[str, NDArray[np.int64]] = {}
        if config.weight_bit_allocation == "measured":
            self.channel_bits = measured_channel_bits(counted, self.settings, config, measured)
        self.raised_tensors = self._raised_tensors(measured)

    def layer_plan(self, node: Node) -> LayerPlan:
        """The plan of one operator."""
        settings = self.settings[node.name]
        quantized = node.name in self.quantized
        bits = None
        reason = settings.reason
        if not quantized:
            reason = node.reason or (
                settings.reason if not settings.quantize else "no integer operator beside it"
            )
        elif node.rule.weighted:
            bits = self._weight_bits(node, settings)
            if node.name in self.raised_layers:
                reason = f"weight_bits={bits.max()} within weight_bit_budget"
            if node.name in self.channel_bits:
                reason = "measured bit allocation"
            refusal = second_order_refusal(node)
            if self.config.weight_rounding == "second_order" and refusal is not None:
                reason = f"{reason}; {refusal}"
        return LayerPlan(
            name=node.name,
            layer_type=node.layer_type,
            kind=node.kind,
            output=node.output,
            quantized=quantized,
            weight_bits=bits,
            reason=reason,
        )

    def tensor_plan(self, name: str) -> TensorPlan:
        """The plan of one quantized tensor."""
        source = self.sources[name]
        if source not in self._own_plans:
            self._own_plans[source] = self._own_plan(source)
        own = self._own_plans[source]
        return TensorPlan(**{**vars(own), "name": name})

    def _touches_integers(self, tensor: str) -> bool:
        if self.config.quantized_tensors == "layer_inputs":
            return bool(weighted_readers(self.graph, tensor) & self.quantized)
        producer = self.graph.producer.get(tensor)
        written = producer is not None and producer.name in self.quantized
        return written or any(node.name in self.quantized for node in self.graph.consumers[tensor])

    def _weight_bits(self, node: Node, settings: LayerSettings) -> NDArray[np.int64]:
        channels = node.output_channels
        if node.name in self.raised_layers:
            return np.full(channels, self.raised_layers[node.name], dtype=np.int64)
        if node.name in self.channel_bits:
            return self.channel_bits[node.name]
        method = self.config.weight_bit_allocation
        if method in ("none", "measured") or not settings.usual_weight_bits:
            return np.full(channels, settings.weight_bits, dtype=np.int64)
        return allocated_weight_bits(node, self.config)

    def _own_plan(self, name: str) -> TensorPlan:
        """The plan of a tensor that has its own scale."""
        producer = self.graph.producer.get(name)
        settings = self.settings[producer.name] if producer is not None else None
        bits, reason = self._activation_bits(name, settings)
        if producer is not None and producer.rule.fixed is not None:
            scale, zero_point = (np.array([value]) for value in producer.rule.fixed)
            return TensorPlan(name, name, np.array([bits]), scale, zero_point, ("fixed",), reason)
        if name not in self.statistics:
            raise StatisticsError(
                f"`statistics` must hold every tensor of the model. Received: none of {name!r}. "
                "Calibrate this very model."
            )
        statistics = self.statistics[name]
        one_sided = name in self.graph.nonnegative
        clipping = self.config.activation_clipping
        if settings is not None and settings.quantize:
            clipping = settings.activation_clipping
        if self.config.needs_per_channel_activations:
            allocated = self.config.activation_bit_allocation != "none"
            if allocated and not reason and settings is not None and settings.usual_activation_bits:
                bits = allocated_activation_bits(
                    statistics,
                    self.config,
                    one_sided=one_sided,
                    reader_energy=self._reader_energy(name, statistics.channels),
                )
                reason = f"{self.config.activation_bit_allocation} bit allocation"
        else:
            if name in self.raised_tensors:
                bits = self.raised_tensors[name]
                reason = f"activation_bits={bits} within activation_bit_budget"
            weighted = self.config.clipping_error == "readers"
            energy = self._reader_energy(name, statistics.channels) if weighted else None
            statistics = statistics.per_tensor(energy)
        bits = np.broadcast_to(np.asarray(bits, dtype=np.int64), (statistics.channels,))
        bounds = None if producer is None else step_range(producer.attributes, statistics)
        if bounds is not None:
            (low, high), method = bounds, ("min_max",)
        else:
            choice = choose_clip(
                statistics,
                bits,
                method=clipping,
                one_sided=one_sided,
                percentile=self.config.percentile,
            )
            low, high, method = choice.low, choice.high, choice.method
        scale, zero_point = affine_range(low, high, np.maximum(bits, 1))
        replaced = bits == 0
        scale = np.where(replaced & (low != 0), np.abs(low), scale)
        zero_point = np.where(replaced, -np.sign(low), zero_point)
        plan = TensorPlan(
            name=name,
            source=name,
            bits=bits.copy(),
            scale=as_float32(scale),
            zero_point=zero_point.astype(np.int64),
            method=method,
            reason=reason or (settings.reason if settings is not None else "default"),
        )
        return self._without_ties(plan)

    def _without_ties(self, plan: TensorPlan) -> TensorPlan:
        """The plan of a tensor with a scale at which every runtime rounds alike."""
        sharing = [name for name, source in self.sources.items() if source == plan.name]
        readers = [
            node
            for name in sharing
            for node in self.graph.consumers[name]
            if node.kind in FUNCTIONS and node.name in self.quantized
        ]
        if plan.per_channel:
            return plan
        if not readers:
            return self._mean_without_ties(plan)
        levels = np.arange(plan.lower[0], plan.upper[0] + 1)
        kinds = [node.kind for node in readers]
        # What these write lies further down, so that no plan waits for itself.
        steps = [float(self.tensor_plan(node.output).scale[0]) for node in readers]
        scale = tie_free_scale(float(plan.scale[0]), levels, kinds, steps)
        return replace(plan, scale=np.array([scale]))

    def _mean_without_ties(self, plan: TensorPlan) -> TensorPlan:
        node = self.graph.producer.get(plan.name)
        if node is None or node.kind != "mean" or node.name not in self.quantized:
            return plan
        (name,) = node.inputs
        read = self.tensor_plan(name)
        count = self.graph.elements(name) // self.graph.elements(node.output)
        if read.per_channel or count < 2:
            return plan
        scale = tie_free_mean_scale(float(plan.scale[0]), float(read.scale[0]), count)
        return replace(plan, scale=np.array([scale]))

    def _raised_tensors(self, measured: Mapping[str, Sensitivity] | None) -> dict[str, int]:
        if self.config.needs_per_channel_activations:
            return {}
        bits, usual = {}, []
        for name in dict.fromkeys(self.sources[name] for name in self.quantized_tensors):
            producer = self.graph.producer.get(name)
            if name in self.graph.inner:
                continue
            settings = None if producer is None else self.settings[producer.name]
            bits[name], reason = self._activation_bits(name, settings)
            if not reason and (settings is None or settings.usual_activation_bits):
                usual.append(name)
        return raised_activation_bits(self.graph, bits, usual, self.sources, self.config, measured)

    def _activation_bits(self, name: str, settings: LayerSettings | None) -> tuple[int, str]:
        """Bits of a tensor before any allocation, and why, where its place in the network says."""
        producer = self.graph.producer.get(name)
        if producer is not None and producer.rule.fixed is not None:
            return 8, "the TFLite specification names the scale of this operator"
        if name in self.graph.inner:
            return 8, "a step inside a layer"
        if name in self.graph.inputs:
            return self.config.input_bits, NETWORK_INPUT
        if leaves_the_network(self.graph, name):
            return self.config.output_bits, NETWORK_OUTPUT
        bits = self.config.activation_bits
        if settings is not None and settings.quantize:
            bits = settings.activation_bits
        readers = weighted_readers(self.graph, name)
        if self.config.last_layer_bits is not None and readers and readers <= self.last:
            return max(bits, self.config.last_layer_bits), "input of the last layer"
        return bits, ""

    def _reader_energy(self, name: str, channels: int) -> NDArray[np.float64] | None:
        """How much the layers that read a tensor amplify an error in each of its channels."""
        names = weighted_readers(self.graph, name)
        energies = [input_energy(node) for node in self.graph.nodes if node.name in names]
        if not energies or any(len(energy) != channels for energy in energies):
            return None
        return np.sum(energies, axis=0)
