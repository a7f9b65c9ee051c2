"""The float file as the starting point of every target, with the graph's tensors found in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.converters.schema import (
    BuiltinOperator,
    BuiltinOptions,
    MulOptionsT,
    OperatorT,
)
from tflite_ptq4.errors import TargetError
from tflite_ptq4.float_file import FloatFile
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.operator_rules import OutputScale
from tflite_ptq4.plan import QuantizationPlan
from tflite_ptq4.tflite_fields import OPERATOR_NAMES
from tflite_ptq4.weights.layer_weights import LayerWeights

_COMPUTED = (OutputScale.OWN, OutputScale.FIXED)


@dataclass(frozen=True, eq=False)
class ExportSource:
    """All that a target is written from.

    Attributes:
        float_file: the float network, its operators not connected with one another.
        graph: the lowered model.
        plan: bits and scale of every tensor.
        weights: of every quantized layer.
        package_version: of this package.
    """

    float_file: FloatFile
    graph: LayerGraph
    plan: QuantizationPlan
    weights: Mapping[str, LayerWeights]
    package_version: str


class FloatFileReader:
    """A fresh copy of the float file, its operators connected and in the order of the graph.

    Attributes:
        editor: the file.
        index: for each tensor of the graph the tensor of the file.
        original_operators: in the order of execution.
    """

    def __init__(self, source: ExportSource) -> None:
        file = source.float_file
        self.editor = GraphEditor(parse(file.data))
        self.source = source
        signature = self.editor.model.signatureDefs[0]
        read = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.inputs}
        written = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.outputs}
        # Of an operator that does nothing, the converter leaves only the tensor that it reads.
        reads = {read[key]: name for key, name in file.read_keys.items() if key in read}
        self.index: dict[str, int] = {}
        for index, name in reads.items():
            if name in source.graph.inputs:
                self.index.setdefault(name, index)
        self._node_of: dict[int, Node] = {}
        for node in source.graph.nodes:
            for name in node.outputs:
                index = written[file.written_keys[name]]
                if index in reads and self._has_other_scale(node, name, reads[index]):
                    index = self._append_copy(index, name)
                if index in reads:
                    self.index[name] = self.index[reads[index]]
                    continue
                if index in self._node_of:
                    index = self._copy_writer(index)
                self.index[name] = index
                self._node_of[index] = node
        self._results = frozenset(self._node_of)
        for name, index in self.index.items():
            self.editor.tensors[index].name = name.encode()
        self._assign_inner_operators(frozenset(reads))
        self._connect({index: self.index[name] for index, name in reads.items()})
        self._refuse_states()

    def _has_other_scale(self, node: Node, name: str, read: str) -> bool:
        """Whether a tensor is quantized otherwise than the one that its operator reads."""
        planned = self.source.plan.tensors
        if node.rule.output_scale in _COMPUTED:
            return True
        return name in planned and (
            read not in planned or planned[name].source != planned[read].source
        )

    def _copy_writer(self, index: int) -> int:
        """Undo that a layer gives one tensor twice: the plan may differ. Return the second."""
        operators = self.editor.graph.operators
        place = next(p for p, operator in enumerate(operators) if index in operator.outputs)
        second = copy.deepcopy(operators[place])
        twins = [
            self.editor.twin(int(output), "", self.editor.tensors[int(output)].type)
            for output in second.outputs
        ]
        first_outputs = second.outputs.tolist()
        second.outputs = np.asarray(twins, dtype=np.int32)
        operators.insert(place, second)
        return twins[first_outputs.index(index)]

    def _append_copy(self, index: int, name: str) -> int:
        """An operator that the converter left out, as a product with one: its scale may differ."""
        output = self.editor.twin(index, "/copy", self.editor.tensors[index].type)
        one = self.editor.add_constant(f"{name}/one", np.ones((), dtype=np.float32))
        operator = self.editor.new_operator(
            BuiltinOperator.MUL,
            1,
            [index, one],
            [output],
            options_type=BuiltinOptions.MulOptions,
            options=MulOptionsT(),
        )
        self.editor.graph.operators.append(operator)
        return output

    def _assign_inner_operators(self, reads: frozenset[int]) -> None:
        """An operator inside a layer belongs to the layer whose result it goes into."""
        for operator in reversed(self.editor.graph.operators):
            node = self.node(operator)
            if node is not None:
                for index in self.computed_inputs(operator):
                    if index not in reads:
                        self._node_of.setdefault(index, node)

    def _connect(self, place: dict[int, int]) -> None:
        """Let operators read what others write, and put them in the order of the graph."""
        order = {id(node): position for position, node in enumerate(self.source.graph.nodes)}
        operators = [op for op in self.editor.graph.operators if self.node(op) is not None]
        for flat, whole in self._without_batch_axis().items():
            place[flat] = place.get(whole, whole)
        for operator in operators:
            operator.inputs = np.asarray(
                [place.get(int(index), int(index)) for index in operator.inputs], dtype=np.int32
            )
        # The sort is stable: inside a layer the order stays.
        operators.sort(key=lambda operator: order[id(self.node(operator))])
        self.original_operators: tuple[OperatorT, ...] = tuple(operators)

    def _without_batch_axis(self) -> dict[int, int]:
        """What additions read with leading axes of length one left out, and what they are left of.

        The converter saves broadcasting an axis that way, of which several images would need it.
        """
        found = {}
        for operator in self.editor.graph.operators:
            if self.editor.builtin_code(operator) != BuiltinOperator.RESHAPE:
                continue
            whole, flat = int(operator.inputs[0]), int(operator.outputs[0])
            long, short = (self.editor.tensors[index].shape.tolist() for index in (whole, flat))
            if self.is_result(operator) or long != [1] * (len(long) - len(short)) + short:
                continue
            readers = (op for op in self.editor.graph.operators if flat in op.inputs)
            if {self.editor.builtin_code(op) for op in readers} == {BuiltinOperator.ADD}:
                found[flat] = whole
        return found

    def _refuse_states(self) -> None:
        """Raise for an operator that would begin a run with what the run before has left."""
        for operator in self.original_operators:
            if any(self.editor.tensors[i].isVariable for i in operator.inputs if i >= 0):
                node = self.node(operator)
                raise TargetError(
                    "Every layer must answer an image alike whatever came before it. Received: "
                    f"layer {node.name!r} ({node.layer_type}), which TFLiteConverter makes "
                    f"{self.name(operator)} of, with a state that stays from one run to the next. "
                    "Build the layer with unroll=True, or the model in Keras 3."
                )

    def node(self, operator: OperatorT) -> Node | None:
        """The graph's operator that an operator of the file computes, or computes a part of."""
        for output in operator.outputs:
            if int(output) in self._node_of:
                return self._node_of[int(output)]
        return None

    def is_result(self, operator: OperatorT) -> bool:
        """Whether an operator writes a tensor of the graph, and not one inside a layer."""
        return any(int(output) in self._results for output in operator.outputs)

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
