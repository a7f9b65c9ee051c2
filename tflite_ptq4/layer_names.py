"""Which Keras layer computes a tensor, read off the tensor's name in a `.tflite` file.

TFLiteConverter names a tensor after the TensorFlow operators that it was fused from, the last one
first: `net_1/relu_1/Relu6;net_1/bn_1/batchnorm/add_1;net_1/conv_1/convolution`, that is the model,
nested models, the layer and the operator; Keras 3 numbers each of them, tf_keras does not. Our own
files have the layer's name, and after it the steps that quantization adds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"_\d+$")
_INPUT = re.compile(r"^serving_default_(.*?)(?::\d+)?$")
_CALLS = {"StatefulPartitionedCall", "PartitionedCall"}
# What our files and simulated models add to the name of a layer, one step after the other.
_STEPS = {"quantized", "unclipped", "inverse_scale", "round", "upper", "lower", "scale", "copy"}
_STEPS |= {"stored_zero", "nudge_up", "nudge_down", "nudged", "relu", "relu6"}


def layers_of_tensors(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The layers that the tensors of one model can be known by.

    Args:
        names: of the tensors, each once.

    Returns:
        For each tensor names of layers, "backbone/conv1" for a layer of a nested model, the most
        likely one first.
    """
    paths = [[_path(part) for part in name.split(";")] for name in names]
    numbered = _numbered([path for parts in paths for path in parts])
    known = {name.replace(".", "/") for name in names}
    found = []
    for name, parts in zip(names, paths, strict=True):
        layers = [layer for path in parts for layer in _layers(path, numbered)]
        if len(parts) == 1:
            # A layer may hold a dot itself, where simulated models have one for a slash.
            layers = [_without_steps(name.replace(".", "/"), known), *layers, name]
        found.append(tuple(dict.fromkeys(layers)))
    return found


def last_steps(names: Sequence[str]) -> dict[str, str]:
    """The tensors in which layers end, where quantization adds steps after a layer.

    Args:
        names: of the tensors, in the order of computation.

    Returns:
        For each layer the last tensor that is named after it.
    """
    known = {name.replace(".", "/") for name in names}
    return {_without_steps(name.replace(".", "/"), known): name for name in names}


def _path(name: str) -> list[str]:
    match = _INPUT.match(name)
    if match:
        return [match[1]]
    return [part for part in name.split("/") if part not in _CALLS]


def _numbered(paths: list[list[str]]) -> bool:
    """Whether models and layers have the numbers that Keras 3 appends to all of them."""
    heads = [path[:2] for path in paths if len(path) > 2]
    return bool(heads) and all(_NUMBER.search(part) for head in heads for part in head)


def _layers(path: list[str], numbered: bool) -> list[str]:
    """The layers of a path, longest first: operators of a layer may have a scope of their own."""
    if len(path) == 1:
        return [name for name in path if name]
    scopes = [_NUMBER.sub("", part) if numbered else part for part in path[1:-1]]
    return ["/".join(scopes[:end]) for end in range(len(scopes), 0, -1)]


def _without_steps(name: str, known: set[str]) -> str:
    """The layer of `conv/round/upper`; in a step, unlike in a layer, all before it is a tensor."""
    while True:
        before, _, step = name.rpartition("/")
        if step not in _STEPS or before not in known:
            return name
        name = before
