"""What the config says of each operator of a graph, before any statistics."""

from __future__ import annotations

from tflite_ptq4.config import QuantizationConfig
from tflite_ptq4.config.layer_rules import LayerSettings
from tflite_ptq4.graph import LayerGraph
from tflite_ptq4.planning.network_positions import end_layers


def layers_to_quantize(graph: LayerGraph, config: QuantizationConfig) -> tuple[str, ...]:
    """The layers whose weights a plan is going to quantize, known before any statistics.

    Args:
        graph: the lowered model.
        config: the choices.
    """
    settings = settings_by_layer(graph, config)
    return tuple(node.name for node in graph.weighted_nodes if settings[node.name].quantize)


def settings_by_layer(graph: LayerGraph, config: QuantizationConfig) -> dict[str, LayerSettings]:
    """What the config says of each operator, by name.

    Args:
        graph: the lowered model.
        config: the choices.
    """
    first, last = end_layers(graph)
    return {
        node.name: config.for_layer(
            node.name,
            node.layer_type,
            first=node.name in first,
            last=node.name in last,
            depthwise=node.kind == "depthwise_conv2d",
            signed_output=node.output not in graph.nonnegative,
        )
        for node in graph.nodes
    }
