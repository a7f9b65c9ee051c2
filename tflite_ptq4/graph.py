"""The lowered graph: what there is to quantize, in numpy and plain words.

Keras models come in many shapes; everything downstream (plan, corrections, converters) sees one:
a list of operators in the order of execution, BatchNormalization folded into kernels, ReLU fused
into its producer, one name for each tensor. No Keras object is held here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.operator_rules import RULES, OperatorRule


@dataclass(frozen=True, eq=False)
class Node:
    """One operator. Its first output carries its name.

    Attributes:
        name: unique; the name of the Keras layer, with the part where a layer became several.
        kind: a key of `operator_rules.RULES`.
        layer_type: the class of the Keras layer that it came from.
        inputs: names of the tensors read, in order.
        outputs: names of the tensors written.
        activation: "relu" or "relu6" fused into the operator, or None.
        kernel: float32; conv2d [kh, kw, c_in / groups, c_out], depthwise_conv2d
            [kh, kw, c_in, multiplier], dense [c_in, c_out]; None without weights.
        bias: float32 [c_out], zeros where the layer has none; None without weights.
        attributes: strides, padding, dilation and the like, as plain values; "constant" for a
            number that is joined with the input.
        reason: why the operator stays in float, for the kind "float".
        layer: the name of the Keras layer that it came from.
        inner: whether its output is a step on the way to a layer's output, no activation.
    """

    name: str
    kind: str
    layer_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: str | None = None
    kernel: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    reason: str = ""
    layer: str = ""
    inner: bool = False

    @property
    def rule(self) -> OperatorRule:
        """What quantization the operator asks of its tensors."""
        return RULES[self.kind]

    @property
    def output(self) -> str:
        """The name of the first output."""
        return self.outputs[0]

    @property
    def output_channels(self) -> int:
        """The number of output channels of an operator with weights."""
        return len(self.bias)


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """Operators in the order of execution, with the names of the model's inputs and outputs.

    Attributes:
        nodes: the operators; every tensor is written before it is read.
        inputs: tensors that the user feeds.
        outputs: tensors that the user gets.
        shapes: the shape of each tensor, the batch axis first, None where it is not fixed.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int | None, ...]]

    @cached_property
    def producer(self) -> dict[str, Node]:
        """The operator that writes each tensor (the model's inputs have none)."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}

    @cached_property
    def consumers(self) -> dict[str, tuple[Node, ...]]:
        """The operators that read each tensor."""
        readers: dict[str, list[Node]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                readers[tensor].append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    @property
    def tensors(self) -> tuple[str, ...]:
        """Every tensor, the model's inputs first."""
        return self.inputs + tuple(tensor for node in self.nodes for tensor in node.outputs)

    def elements(self, tensor: str) -> int:
        """Elements of a tensor for one image; a size that is not fixed counts as one."""
        return prod(size or 1 for size in self.shapes[tensor][1:])

    @property
    def weighted_nodes(self) -> tuple[Node, ...]:
        """The operators with a kernel, in order."""
        return tuple(node for node in self.nodes if node.rule.weighted)

    @cached_property
    def inner(self) -> frozenset[str]:
        """Tensors that are steps on the way to a layer's output."""
        return frozenset(tensor for node in self.nodes if node.inner for tensor in node.outputs)

    @cached_property
    def nonnegative(self) -> frozenset[str]:
        """Tensors that can hold no negative value, whatever the images are."""
        found: set[str] = set()
        for node in self.nodes:
            enough = any if node.rule.sign_of_any else all
            kept = (
                node.rule.keeps_sign
                and enough(tensor in found for tensor in node.inputs)
                and node.attributes.get("constant", 0.0) >= 0.0
            )
            if kept or node.rule.nonnegative or node.activation is not None:
                found.update(node.outputs)
        return frozenset(found)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of structure, weights and sizes of the inputs, which statistics belong to.

        Values of another size are distributed otherwise: padding weighs more in smaller images, and
        a mean over fewer positions varies more. A size that is open hashes as open, so that the
        statistics of a network for any size are good for each.
        """
        digest = hashlib.sha256()
        for node in self.nodes:
            facts = (node.name, node.kind, node.inputs, node.outputs, node.activation)
            digest.update(repr((facts, sorted(node.attributes.items()))).encode())
            for array in (node.kernel, node.bias):
                if array is not None:
                    digest.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
        sizes = [self.shapes[name][1:] for name in self.inputs]
        digest.update(repr((self.inputs, sizes, self.outputs)).encode())
        return digest.hexdigest()[:16]


def last_uses(nodes: Iterable[Node], keep: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Tensors that no later operator reads, listed at the node after which they can go.

    Args:
        nodes: operators in the order of execution.
        keep: tensors that are needed after the last operator.

    Returns:
        For each node name, the tensors to release after it.
    """
    last: dict[str, str] = {}
    for node in nodes:
        for tensor in (*node.inputs, *node.outputs):
            last[tensor] = node.name
    kept = set(keep)
    released: dict[str, list[str]] = {}
    for tensor, name in last.items():
        if tensor not in kept:
            released.setdefault(name, []).append(tensor)
    return {name: tuple(tensors) for name, tensors in released.items()}
