"""The part of a graph that computes on integers: its operators, and which tensors share a scale."""

from __future__ import annotations

from collections.abc import Mapping

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerSettings
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.operator_rules import OutputScale


def integer_operators(graph: LayerGraph, settings: Mapping[str, LayerSettings]) -> frozenset[str]:
    """Operators that compute on integers: layers with weights, and what can join them.

    Args:
        graph: the lowered model.
        settings: of each operator; those that the config leaves in float are not among them.

    Returns:
        Their names.
    """
    capable = {
        node.name
        for node in graph.nodes
        if node.rule.output_scale is not OutputScale.FLOAT and settings[node.name].quantize
    }
    chosen = {node.name for node in graph.weighted_nodes if node.name in capable}
    pending = True
    while pending:
        pending = False
        for node in graph.nodes:
            if node.name in chosen or node.name not in capable:
                continue
            beside = [graph.producer[t].name for t in node.inputs if t in graph.producer]
            beside += [reader.name for t in node.outputs for reader in graph.consumers[t]]
            if any(name in chosen for name in beside):
                chosen.add(node.name)
                pending = True
    return frozenset(chosen)


def scale_sources(
    graph: LayerGraph, quantized: frozenset[str], config: QuantizationConfig
) -> dict[str, str]:
    """For each tensor the tensor whose scale it takes.

    Args:
        graph: the lowered model.
        quantized: names of the operators that compute on integers.
        config: the choices.

    Returns:
        By name; a tensor with a scale of its own has its own name.
    """
    source = {name: name for name in graph.tensors}
    for node in graph.nodes:
        if node.name in quantized and node.rule.output_scale is OutputScale.INPUT:
            source[node.output] = node.inputs[0]
    if not config.needs_per_channel_activations:
        for node in graph.nodes:
            if node.rule.rescales_inputs and node.name in quantized:
                for tensor in node.inputs:
                    if _can_take_scale_of(graph, quantized, tensor, node):
                        source[tensor] = node.output
    return {name: _last_source(source, name) for name in source}


def _can_take_scale_of(
    graph: LayerGraph, quantized: frozenset[str], tensor: str, node: Node
) -> bool:
    """Whether a tensor is read by `node` alone, and its producer can write any scale."""
    producer = graph.producer.get(tensor)
    return (
        producer is not None
        and producer.name in quantized
        and producer.rule.output_scale is OutputScale.OWN
        and tensor not in graph.outputs
        and [reader.name for reader in graph.consumers[tensor]] == [node.name]
    )


def _last_source(source: Mapping[str, str], name: str) -> str:
    while source[name] != name:
        name = source[name]
    return name
