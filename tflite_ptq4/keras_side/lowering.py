"""A Keras model lowered to the graph that is quantized: BatchNorm folded, ReLU fused.

The user's model is read, never changed: folding works on copies of the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import keras
import numpy as np

from tflite_ptq4.errors import ModelError
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.keras_side.mixed_precision import (
    computes_in_float32,
    copy_weights,
    float32_copy,
)
from tflite_ptq4.keras_side.primitives.primitive import Primitive, expand
from tflite_ptq4.keras_side.tf_keras_models.twin import Twin, is_tf_keras
from tflite_ptq4.keras_side.trace import Run, Trace, trace
from tflite_ptq4.operator_rules import FUSED_ACTIVATIONS
from tflite_ptq4.weights.kernel_layout import along_outputs


@dataclass(frozen=True, eq=False)
class LoweredModel:
    """A model in two forms that share their tensors.

    Attributes:
        graph: the folded graph, in numpy.
        model: the user's model, or its form in Keras 3 and float32.
        follow: gives that form the weights that the user's model has now.
        runs: for each node without weights, how to run it on tensors.
        symbolic_runs: the same on symbolic tensors, given a name for the copied layer.
        primitives: the model as the user wrote it, one primitive at a time, for calibration; the
            weights are only in the graph.
        taps: for each tensor of the graph the tensor of the primitives that it stands for.
        alias: for each tensor of the primitives the tensor of the graph that it became.
        trace: the model's calls, and the structure of its inputs and outputs.
    """

    model: keras.Model
    follow: Callable[[], None]
    graph: LayerGraph
    runs: dict[str, Run]
    symbolic_runs: dict[str, Callable[[str], Run]]
    primitives: tuple[Primitive, ...]
    taps: dict[str, str]
    alias: dict[str, str]
    trace: Trace


def lower(model: keras.Model) -> LoweredModel:
    """Read a Keras model, fold its BatchNormalization layers and fuse its ReLU activations.

    W_folded = W * gamma / sqrt(variance + epsilon),
    b_folded = (b - mean) * gamma / sqrt(variance + epsilon) + beta; computed in float64.

    A BatchNormalization that follows no convolution or Dense becomes a 1x1 depthwise convolution,
    and so does every other layer that is affine per channel. Of a model under a mixed precision
    policy the float32 form is lowered, of a tf_keras model its Keras 3 twin.

    Args:
        model: a built functional or Sequential model of Keras 3 or tf_keras, nested ones included.

    Returns:
        The graph, with what is needed to run it.

    Raises:
        ModelError: the model has no symbolic graph, or is under a mixed precision policy and holds
            a layer that cannot be made from its own `get_config`.
    """
    follow: Callable[[], None] = _nothing
    if is_tf_keras(model):
        twin = Twin(model)
        model, follow = twin.model, twin.copy_weights
    traced = trace(model)
    if not all(computes_in_float32(call.operation) for call in traced.calls):
        model = float32_copy(model)
        copied = trace(model)
        follow = partial(copy_weights, traced, copied)
        follow()
        traced = copied
    primitives = tuple(
        replace(primitive, layer=call.name) for call in traced.calls for primitive in expand(call)
    )
    lowering = _Lowering(model, traced, primitives)
    for primitive in primitives:
        lowering.add(primitive)
    return lowering.result(follow)


def _nothing() -> None:
    pass


def require_quantizable(graph: LayerGraph, model_name: str) -> None:
    """Refuse a model in which no layer has weights that can be quantized.

    Args:
        graph: the lowered model.
        model_name: for the message.

    Raises:
        ModelError: no convolution and no Dense was found.
    """
    if not graph.weighted_nodes:
        reasons = sorted({f"{node.layer_type}: {node.reason}" for node in graph.nodes})
        raise ModelError(
            f"`model` must hold at least one convolution or Dense layer that can be quantized. "
            f"Received: {model_name!r} with {len(graph.nodes)} layers, none of them "
            f"({'; '.join(reasons[:5])})."
        )


class _Lowering:
    """Builds the nodes one primitive at a time; `alias` says where each primitive tensor went."""

    def __init__(
        self, model: keras.Model, traced: Trace, primitives: tuple[Primitive, ...]
    ) -> None:
        self.model = model
        self.trace = traced
        self.primitives = primitives
        self.nodes: dict[str, Node] = {}
        self.runs: dict[str, Run] = {}
        self.symbolic_runs: dict[str, Callable[[str], Run]] = {}
        self.alias = {name: name for name in traced.inputs}
        self.taps = dict(self.alias)
        self.shapes = dict(zip(traced.inputs, traced.input_shapes, strict=True))
        source = {}
        for primitive in primitives:
            if primitive.kind == "identity":
                source[primitive.outputs[0]] = source.get(primitive.inputs[0], primitive.inputs[0])
        self.reads = Counter(
            source.get(tensor, tensor)
            for primitive in primitives
            if primitive.kind != "identity"
            for tensor in primitive.inputs
        )
        self.reads.update(source.get(tensor, tensor) for tensor in traced.outputs)
        self.source = source

    def add(self, primitive: Primitive) -> None:
        """Turn one primitive into a node, or merge it into the node before."""
        if primitive.kind == "identity":
            self.alias[primitive.outputs[0]] = self.alias[primitive.inputs[0]]
            return
        if primitive.kind == "batch_norm":
            self._add_batch_norm(primitive)
            return
        producer = self._only_reader_of(primitive)
        if (
            primitive.kind in FUSED_ACTIVATIONS
            and producer is not None
            and producer.rule.fuses_relu
            and producer.activation is None
        ):
            self._merge(
                primitive, replace(producer, activation=primitive.kind, inner=primitive.inner)
            )
            return
        self._append(primitive)

    def result(self, follow: Callable[[], None]) -> LoweredModel:
        """The finished graph."""
        graph = LayerGraph(
            nodes=tuple(self.nodes.values()),
            inputs=self.trace.inputs,
            outputs=tuple(self.alias[tensor] for tensor in self.trace.outputs),
            shapes=self.shapes,
        )
        return LoweredModel(
            model=self.model,
            follow=follow,
            graph=graph,
            runs=self.runs,
            symbolic_runs=self.symbolic_runs,
            # They run on the weights of the user's layers: what the graph holds are copies.
            primitives=tuple(replace(p, kernel=None, bias=None) for p in self.primitives),
            taps=self.taps,
            alias=self.alias,
            trace=self.trace,
        )

    def _only_reader_of(self, primitive: Primitive) -> Node | None:
        """The node whose output this primitive, and nothing else, reads."""
        tensor = primitive.inputs[0]
        if self.reads[self.source.get(tensor, tensor)] != 1:
            return None
        node = self.nodes.get(self.alias[tensor])
        return node if node is not None and len(node.outputs) == 1 else None

    def _merge(self, primitive: Primitive, node: Node) -> None:
        """Let `node`, changed, write what the primitive wrote."""
        self.nodes[node.name] = node
        self.alias[primitive.outputs[0]] = node.name
        self.taps[node.name] = primitive.outputs[0]

    def _append(self, primitive: Primitive, **changes) -> None:
        kind = changes.get("kind", primitive.kind)
        node = Node(
            name=primitive.name,
            kind=kind,
            layer_type=primitive.layer_type,
            inputs=tuple(self.alias[tensor] for tensor in primitive.inputs),
            outputs=primitive.outputs,
            kernel=changes.get("kernel", primitive.kernel),
            bias=changes.get("bias", primitive.bias),
            attributes=changes.get("attributes", primitive.attributes),
            reason=changes.get("reason", primitive.reason),
            layer=primitive.layer,
            inner=primitive.inner,
        )
        self.nodes[node.name] = node
        if not node.rule.weighted:
            self.runs[node.name] = primitive.lowered_run or primitive.run
            self.symbolic_runs[node.name] = primitive.run_on_clone or (
                lambda _, run=primitive.run: run
            )
        for tensor, shape in zip(primitive.outputs, primitive.shapes, strict=True):
            self.alias[tensor] = self.taps[tensor] = tensor
            self.shapes[tensor] = shape

    def _add_batch_norm(self, primitive: Primitive) -> None:
        factor, offset = primitive.kernel, primitive.bias
        producer = self._only_reader_of(primitive)
        if producer is not None and producer.rule.weighted and producer.activation is None:
            per_output = along_outputs(producer, factor)
            folded = replace(
                producer,
                kernel=(producer.kernel * per_output).astype(np.float32),
                bias=(producer.bias * factor + offset).astype(np.float32),
            )
            self._merge(primitive, folded)
        elif len(primitive.shapes[0]) in (3, 4):
            self._append(
                primitive,
                kind="depthwise_conv2d",
                kernel=factor.reshape(1, 1, -1, 1).astype(np.float32),
                bias=offset.astype(np.float32),
                attributes={
                    "strides": (1, 1),
                    "padding": "valid",
                    "dilation_rate": (1, 1),
                    "affine": True,
                    **({"rank": 1} if len(primitive.shapes[0]) == 3 else {}),
                },
            )
        else:
            self._append(
                primitive,
                kind="float",
                kernel=None,
                bias=None,
                reason=f"{primitive.layer_type} after no convolution or Dense, and not on images",
            )
