"""Where layers and tensors stand in the network: at which end, and before which weights."""

from __future__ import annotations

from collections.abc import Iterable

from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.operator_rules import OutputScale


def end_layers(graph: LayerGraph) -> tuple[frozenset[str], frozenset[str]]:
    """The first and the last layers: with weights, and no other weights before or after them.

    Layers that are only affine per channel, such as a Rescaling of the input, do not count.

    Returns:
        Names of the first layers and of the last layers.
    """
    forward = [(node, node.inputs, node.outputs) for node in graph.nodes]
    backward = [(node, node.outputs, node.inputs) for node in reversed(graph.nodes)]
    return _first_met(forward), _first_met(backward)


def _first_met(steps: Iterable[tuple[Node, tuple[str, ...], tuple[str, ...]]]) -> frozenset[str]:
    """Layers with weights that nothing with weights comes before, in the order of the steps.

    Args:
        steps: each operator with the tensors on its near and on its far side.
    """
    behind_weights: set[str] = set()
    found = set()
    for node, near, far in steps:
        touched = any(tensor in behind_weights for tensor in near)
        weighted = node.rule.weighted and "affine" not in node.attributes
        if weighted and not touched:
            found.add(node.name)
        if touched or weighted:
            behind_weights.update(far)
    return frozenset(found)


def leaves_the_network(graph: LayerGraph, tensor: str) -> bool:
    """Whether a tensor reaches the outputs through no weights.

    Args:
        graph: the lowered model.
        tensor: its name.
    """
    if tensor in graph.outputs:
        return True
    readers = graph.consumers[tensor]
    return bool(readers) and all(
        not node.rule.weighted
        and node.rule.output_scale is OutputScale.FIXED
        and leaves_the_network(graph, node.output)
        for node in readers
    )


def weighted_readers(graph: LayerGraph, tensor: str) -> frozenset[str]:
    """Layers with weights that read a tensor, directly or moved and selected.

    Args:
        graph: the lowered model.
        tensor: its name.

    Returns:
        Their names, and "" where another operator computes with the tensor.
    """
    found: set[str] = set()
    for node in graph.consumers[tensor]:
        if node.rule.weighted:
            found.add(node.name)
        elif node.rule.output_scale is OutputScale.INPUT:
            found |= weighted_readers(graph, node.output)
        else:
            found.add("")
    return frozenset(found)
