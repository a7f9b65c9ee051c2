"""The float file as the starting point of every target, with the graph's tensors found in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.converters.schema import OPERATOR_NAMES, BuiltinOperator, OperatorT
from tflite_ptq4.errors import ReadbackError, TargetError
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.kernel_layout import kernel_matrix
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.quantized_weights import LayerWeights


@dataclass(frozen=True, eq=False)
class ExportSource:
    """All that a target is written from.

    Attributes:
        float_data: the float .tflite file whose outputs are all tensors of the graph.
        keys: for each tensor of the graph its key in the file's signature.
        input_names: the names of the inputs in the exported file.
        output_names: the names of the outputs in the exported file.
        graph: the lowered model.
        plan: bits and scale of every tensor.
        weights: of every quantized layer.
        description: goes into the file.
    """

    float_data: bytes
    keys: Mapping[str, str]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    graph: LayerGraph
    plan: QuantizationPlan
    weights: Mapping[str, LayerWeights]
    description: str


class FloatFileReader:
    """A fresh copy of the float file, with the tensors of the graph by name."""

    def __init__(self, source: ExportSource) -> None:
        self.editor = GraphEditor(parse(source.float_data))
        self.source = source
        signature = self.editor.model.signatureDefs[0]
        by_key = {
            entry.name.decode(): int(entry.tensorIndex)
            for entry in (*signature.inputs, *signature.outputs)
        }
        self.index: dict[str, int] = {
            name: by_key[key] for name, key in source.keys.items() if key in by_key
        }
        self.original_operators: tuple[OperatorT, ...] = tuple(self.editor.graph.operators)
        producer = source.graph.producer
        # Of tensors that the converter made one, the first is the one that computed it.
        self._node_of: dict[int, Node] = {}
        for name, index in self.index.items():
            if name in producer:
                self._node_of.setdefault(index, producer[name])

    def node(self, operator: OperatorT) -> Node | None:
        """The graph's operator that an operator of the file computes, None inside another one."""
        for output in operator.outputs:
            if int(output) in self._node_of:
                return self._node_of[int(output)]
        return None

    def computed_inputs(self, operator: OperatorT) -> list[int]:
        """The inputs of an operator that are not constants."""
        return [
            int(index)
            for index in operator.inputs
            if index >= 0 and self.editor.constant(int(index)) is None
        ]

    def name(self, operator: OperatorT) -> str:
        """The builtin name of an operator, for messages."""
        return OPERATOR_NAMES[self.editor.builtin_code(operator)]


WEIGHT_AXES = {
    BuiltinOperator.CONV_2D: 0,
    BuiltinOperator.DEPTHWISE_CONV_2D: 3,
    BuiltinOperator.FULLY_CONNECTED: 0,
}


def weights_for_operator(
    node: Node, values: NDArray, builtin: int, shape: NDArray, expected: NDArray | None
) -> NDArray:
    """A kernel in the layout of a TFLite operator.

        CONV_2D             [c_out, kh, kw, c_in / groups]
        DEPTHWISE_CONV_2D   [1, kh, kw, c_out]
        FULLY_CONNECTED     [c_out, c_in]

    Args:
        node: the layer.
        values: array in the layout of `node.kernel`.
        builtin: the operator that computes the layer in the file.
        shape: the shape of the operator's weights in the file.
        expected: the float weights in the file, to be sure that they are this layer's.

    Returns:
        The values, of that shape.

    Raises:
        TargetError: another operator computes the layer.
        ReadbackError: the file's weights are not this layer's.
    """
    if builtin not in WEIGHT_AXES:
        raise TargetError(
            f"Layer {node.name!r} ({node.layer_type}) must convert to one operator with weights. "
            f"Received: {OPERATOR_NAMES[builtin]} from TFLiteConverter. Leave the layer in float "
            f"with a rule: match: {node.name!r}, quantize: false."
        )

    def arranged(array: NDArray) -> NDArray:
        matrix = kernel_matrix(node, array)
        if WEIGHT_AXES[builtin] == 0:
            matrix = matrix.T
        return np.ascontiguousarray(matrix).reshape(shape)

    if expected is not None and not np.array_equal(arranged(node.kernel), expected):
        raise ReadbackError(
            f"The converted file must hold the folded weights of layer {node.name!r}. Received: "
            "others. Please report this model."
        )
    return arranged(values)
