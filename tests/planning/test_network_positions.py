from __future__ import annotations

import numpy as np
import pytest
from tiny_graphs import branched, chain, graph_of, plain, weighted

from tflite_ptq4.graph import LayerGraph
from tflite_ptq4.planning.network_positions import end_layers, leaves_the_network, weighted_readers

KERNEL = np.ones((3, 3, 2, 2))


@pytest.mark.parametrize(
    ("graph", "first", "last"),
    [
        (chain("conv2d", "conv2d", "dense"), {"conv2d0"}, {"dense2"}),
        (chain("pad", "conv2d", "mean"), {"conv2d1"}, {"conv2d1"}),
        (chain("float", "dense", "softmax"), {"dense1"}, {"dense1"}),
        (branched(), {"left", "right"}, {"head_a", "head_b"}),
    ],
    ids=["chain", "one layer", "float before", "branches"],
)
def test_end_layers(graph: LayerGraph, first: set[str], last: set[str]) -> None:
    assert end_layers(graph) == (frozenset(first), frozenset(last))


def test_a_skip_around_every_layer_changes_no_end() -> None:
    graph = graph_of(
        weighted("a", "image", KERNEL),
        weighted("b", "a", KERNEL),
        plain("sum", "add", "b", "image"),
    )
    assert end_layers(graph) == (frozenset({"a"}), frozenset({"b"}))


def one_of_each() -> LayerGraph:
    """A stem read by a layer, by a pool before another, and by a sum; a softmax at the end."""
    return graph_of(
        weighted("stem", "image", KERNEL),
        weighted("direct", "stem", KERNEL),
        plain("pool", "max_pool", "stem"),
        weighted("pooled", "pool", KERNEL),
        plain("sum", "add", "direct", "pooled"),
        weighted("head", "sum", KERNEL),
        plain("answer", "softmax", "head"),
        outputs=("answer",),
    )


@pytest.mark.parametrize(
    ("tensor", "readers"),
    [
        ("image", {"stem"}),
        ("stem", {"direct", "pooled"}),
        ("pool", {"pooled"}),
        ("direct", {""}),  # the sum computes with it
        ("head", {""}),  # as the softmax does
        ("answer", set()),
    ],
)
def test_weighted_readers(tensor: str, readers: set[str]) -> None:
    assert weighted_readers(one_of_each(), tensor) == readers


@pytest.mark.parametrize(
    ("tensor", "leaves"),
    [("answer", True), ("head", True), ("sum", False), ("stem", False), ("image", False)],
)
def test_leaves_the_network(tensor: str, leaves: bool) -> None:
    assert leaves_the_network(one_of_each(), tensor) is leaves
