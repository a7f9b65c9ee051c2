"""Hand-made lowered graphs of a few nodes, with statistics to match, for tests without Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics
from tflite_ptq4.stats.tensor_statistics import TensorStatistics

SIDE = 4
LAYER_TYPES = {
    "conv2d": "Conv2D",
    "depthwise_conv2d": "DepthwiseConv2D",
    "conv2d_transpose": "Conv2DTranspose",
    "dense": "Dense",
    "relu": "ReLU",
    "add": "Add",
    "concatenate": "Concatenate",
    "maximum": "Maximum",
    "minimum": "Minimum",
    "max_pool": "MaxPooling2D",
    "average_pool": "AveragePooling2D",
    "pad": "ZeroPadding2D",
    "mean": "GlobalAveragePooling2D",
    "reshape": "Flatten",
    "softmax": "Softmax",
    "elu": "ELU",
    "sigmoid": "Activation",
    "float": "Lambda",
}


def weighted(
    name: str,
    source: str,
    kernel: np.ndarray,
    bias: Sequence[float] | None = None,
    *,
    kind: str = "conv2d",
    activation: str | None = None,
    groups: int = 1,
) -> Node:
    """A layer with weights; its output carries its name."""
    channels = {
        "depthwise_conv2d": int(np.prod(kernel.shape[2:])),
        "conv2d_transpose": kernel.shape[-2],
    }.get(kind, kernel.shape[-1])
    attributes: dict[str, object] = {}
    if kind != "dense":
        attributes = {"strides": (1, 1), "padding": "same"}
    if kind in ("conv2d", "depthwise_conv2d"):
        attributes["dilation_rate"] = (1, 1)
    if kind == "conv2d":
        attributes["groups"] = groups
    return Node(
        name=name,
        kind=kind,
        layer_type=LAYER_TYPES[kind],
        inputs=(source,),
        outputs=(name,),
        activation=activation,
        kernel=kernel.astype(np.float32),
        bias=np.asarray(np.zeros(channels) if bias is None else bias, np.float32),
        attributes=attributes,
    )


def plain(name: str, kind: str, *inputs: str, activation: str | None = None) -> Node:
    """An operator without weights; its output carries its name."""
    return Node(
        name=name,
        kind=kind,
        layer_type=LAYER_TYPES[kind],
        inputs=inputs,
        outputs=(name,),
        activation=activation,
        reason="no integer form" if kind == "float" else "",
    )


def graph_of(
    *nodes: Node, outputs: Sequence[str] = (), shapes: Mapping[str, tuple] | None = None
) -> LayerGraph:
    """A graph on the input "image", 2 channels; every tensor [None, SIDE, SIDE, channels]."""
    found: dict[str, tuple] = {"image": (None, SIDE, SIDE, 2)}
    for node in nodes:
        channels = found[node.inputs[0]][-1]
        if node.bias is not None:
            channels = node.output_channels
        elif node.kind == "concatenate":
            channels = sum(found[tensor][-1] for tensor in node.inputs)
        found[node.output] = (None, SIDE, SIDE, channels)
    return LayerGraph(
        nodes=nodes,
        inputs=("image",),
        outputs=tuple(outputs) or (nodes[-1].output,),
        shapes={**found, **(shapes or {})},
    )


def chain(*kinds: str, activation: str | None = "relu", seed: int = 0) -> LayerGraph:
    """Operators one after the other, named kind0, kind1, ...; weights random, 2 channels in all."""
    rng = np.random.default_rng(seed)
    shapes = {"conv2d": (3, 3, 2, 2), "depthwise_conv2d": (3, 3, 2, 1), "dense": (2, 2)}
    nodes, source = [], "image"
    for position, kind in enumerate(kinds):
        name = f"{kind}{position}"
        if kind in shapes:
            kernel = rng.normal(size=shapes[kind])
            nodes.append(weighted(name, source, kernel, kind=kind, activation=activation))
        else:
            nodes.append(plain(name, kind, source))
        source = name
    return graph_of(*nodes)


def statistics_of(graph: LayerGraph, seed: int = 0) -> CalibrationStatistics:
    """Statistics of normal draws with a mean and a deviation per channel, rectified where due."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in graph.tensors:
        channels = graph.shapes[name][-1]
        draws = rng.normal(rng.normal(size=channels), 1 + rng.random(channels), (400, channels))
        draws = np.maximum(draws, 0.0) if name in graph.nonnegative else draws
        tensors[name] = TensorStatistics.from_array(draws.astype(np.float32))
    return CalibrationStatistics(images=25, fingerprint=graph.fingerprint, tensors=tensors)


def branched() -> LayerGraph:
    """Two stems, one sum, two heads."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 2))
    return graph_of(
        weighted("left", "image", kernel, activation="relu"),
        weighted("right", "image", kernel),
        plain("sum", "add", "left", "right", activation="relu"),
        weighted("body", "sum", kernel, activation="relu"),
        plain("pool", "max_pool", "body"),
        weighted("head_a", "pool", kernel),
        weighted("head_b", "body", kernel),
        outputs=("head_a", "head_b"),
    )
