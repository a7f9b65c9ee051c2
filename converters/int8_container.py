"""Target `int8_container`: int8 tensors, each held to the range of its own 2 to 8 bits.

An activation of b bits uses the 2^b integers up to 127, so that the saturation of int8 is its
upper clip. The lower clip is a fused ReLU, whose zero is then at 128 - 2^b (112 for 4 bits), or,
where the values have a sign, a pair of tensors: the operator writes one whose range begins at
-128, which saturates below, and QUANTIZE moves it to the one that ends at 127, which saturates
above. Every int8 runtime computes such a file, at its full speed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.export_source import ExportSource, FloatFileReader
from tflite_ptq4.converters.int8_tensors import (
    Int8Tensors,
    StoredRange,
    per_channel_quantization,
)
from tflite_ptq4.converters.integer_operators import (
    INT8_VERSIONS,
    MOVES_VALUES,
    ON_ONE_SCALE,
    TAKES_CONSTANTS,
)
from tflite_ptq4.converters.schema import (
    ActivationFunctionType,
    BuiltinOperator,
    ModelT,
    OperatorT,
    TensorType,
)
from tflite_ptq4.converters.weight_layout import (
    WEIGHT_AXES,
    input_places,
    require_own_weights,
    weights_for_operator,
    with_weights,
)
from tflite_ptq4.errors import TargetError
from tflite_ptq4.graph import Node
from tflite_ptq4.numerics.constant_arrays import array_on_grid
from tflite_ptq4.operator_rules import LEAST_SCALE_OF_TERM, OutputScale
from tflite_ptq4.plan import INT8_MIN, TensorPlan
from tflite_ptq4.weights.layer_weights import LayerWeights

# A ReLU on its own has no XNNPACK kernel, and the builtin one rounds twice; fused, it has neither.
_FUSED = {
    BuiltinOperator.RELU: ActivationFunctionType.RELU,
    BuiltinOperator.RELU6: ActivationFunctionType.RELU6,
}


def require_integer_plan(source: ExportSource) -> None:
    """Refuse what only float arithmetic can hold.

    Raises:
        TargetError: a tensor has a scale per channel, weights lie off the integer grid, or sums
            stay in float.
    """
    reason = source.plan.config.float_only
    if reason is None:
        return
    affected = [f"tensor {name!r}" for name in source.plan.per_channel_tensors]
    affected += [f"layer {name!r}" for name, w in source.weights.items() if np.any(w.offset)]
    first = f", first in {affected[0]}" if affected else ""
    raise TargetError(
        f"An integer target {reason.must}. Received: a plan with {reason.received}{first}. Export "
        f"to target='float_simulated', or set {reason.change}."
    )


def export_int8_container(source: ExportSource, *, io: str = "float32") -> ModelT:
    """Write the plan as an integer-only file.

    Args:
        source: what to write.
        io: "float32" for QUANTIZE and DEQUANTIZE at the ends, "int8" for integers there as well.

    Returns:
        The model.

    Raises:
        TargetError: the plan holds what integers cannot, or a layer has no integer operator.
    """
    require_integer_plan(source)
    return Int8Writer(source).write(io)


class Int8Writer:
    """Rewrites the float file operator by operator, int8 where the plan says so."""

    def __init__(self, source: ExportSource) -> None:
        self.source = source
        self.reader = FloatFileReader(source)
        self.editor = self.reader.editor
        self._plan_of: dict[int, TensorPlan] = {}
        for name, index in self.reader.index.items():
            if name in source.plan.tensors:
                self._plan_of.setdefault(index, source.plan.tensors[name])
        read_as_int8 = {
            index
            for operator in self.reader.original_operators
            if self._is_integer(operator)
            for index in self.reader.computed_inputs(operator)
        }
        for operator in self.reader.original_operators:
            inputs, output = self.reader.computed_inputs(operator), int(operator.outputs[0])
            if (
                output in read_as_int8
                and self._moves_inside(operator)
                and inputs[0] in self._plan_of
            ):
                self._plan_of[output] = self._plan_of[inputs[0]]
        self._tensors = Int8Tensors(self.editor, self._plan_of)

    def write(self, io: str) -> ModelT:
        """The whole model."""
        inputs = [self._write_input(name, io) for name in self.source.graph.inputs]
        for operator in self.reader.original_operators:
            if self._is_integer(operator):
                self._write_integer(operator)
            else:
                self._write_float(operator)
        outputs = [self._write_output(name, io) for name in self.source.graph.outputs]
        self.editor.set_interface(
            dict(zip(self.source.float_file.input_names, inputs, strict=True)),
            list(zip(self.source.float_file.output_names, outputs, strict=True)),
        )
        return self.editor.finish()

    def _write_input(self, name: str, io: str) -> int:
        index = self.reader.index[name]
        if io == "int8" and index in self._plan_of:
            self._tensors.become_int8(index, StoredRange.of(self._plan_of[index]))
        return index

    def _write_output(self, name: str, io: str) -> int:
        index = self.reader.index[name]
        if io == "int8" and index in self._plan_of:
            return self._tensors.as_int8(index)
        return self._tensors.as_float(index)

    def _is_integer(self, operator: OperatorT) -> bool:
        node = self.reader.node(operator)
        return node is not None and self.source.plan.layer(node.name).quantized

    def _moves_inside(self, operator: OperatorT) -> bool:
        """Whether an operator only moves the values that a layer computes from or gives."""
        return (
            self.editor.builtin_code(operator) in MOVES_VALUES
            and not self.reader.is_result(operator)
            and len(self.reader.computed_inputs(operator)) == 1
        )

    def _write_float(self, operator: OperatorT) -> None:
        constant = {int(i) for i in operator.inputs} - set(self.reader.computed_inputs(operator))
        operator.inputs = np.asarray(
            [i if int(i) in constant else self._tensors.as_float(int(i)) for i in operator.inputs],
            dtype=np.int32,
        )
        self.editor.keep(operator)

    def _write_integer(self, operator: OperatorT) -> None:
        builtin = self.editor.builtin_code(operator)
        node = self.reader.node(operator)
        if builtin not in INT8_VERSIONS:
            raise TargetError(
                f"Layer {node.name!r} ({node.layer_type}) must convert to an operator with an int8 "
                f"kernel. Received: {self.reader.name(operator)}. Leave it in float with a rule: "
                f"match: {node.name!r}, quantize: false."
            )
        output = int(operator.outputs[0])
        inputs = self.reader.computed_inputs(operator)
        if builtin in MOVES_VALUES:
            stored = self._tensors.stored(self._tensors.as_int8(inputs[0]))
        else:
            stored = StoredRange.of(self.source.plan.tensors[node.output])
        if builtin in ON_ONE_SCALE:
            replaced = {index: self._tensors.requantized(index, stored) for index in inputs}
        else:
            replaced = {index: self._tensors.as_int8(index) for index in inputs}
        operator.inputs = np.asarray(
            [replaced.get(int(index), index) for index in operator.inputs], dtype=np.int32
        )
        if node.rule.weighted and builtin in WEIGHT_AXES:
            self._write_weights(operator, node, builtin)
        elif builtin in TAKES_CONSTANTS:
            self._quantize_constants(operator, builtin, stored)
        if builtin in _FUSED:
            operator = self._tensors.append_rescaling(replaced[inputs[0]], output, _FUSED[builtin])
        else:
            self.editor.keep(operator, self._version(operator, builtin, node))
        self._write_result(operator, output, stored, node)

    def _version(self, operator: OperatorT, builtin: int, node: Node) -> int:
        """The version that means int8, or a later one that the float operator has already."""
        current = self.editor.model.operatorCodes[operator.opcodeIndex].version
        return max(INT8_VERSIONS[builtin], current)

    def _quantize_constants(self, operator: OperatorT, builtin: int, stored: StoredRange) -> None:
        """Constants that an operator computes with, on an 8-bit grid of their own."""
        inputs = [int(index) for index in operator.inputs]
        for place, index in enumerate(inputs):
            values = self.editor.constant(index) if index >= 0 else None
            if values is not None and values.dtype == np.float32:
                adds = builtin in (BuiltinOperator.ADD, BuiltinOperator.SUB)
                least = LEAST_SCALE_OF_TERM * stored.scale if adds else 0.0
                integers, scale = array_on_grid(values, least)
                grid = StoredRange(scale, 0, INT8_MIN).quantization()
                name = f"{self.editor.tensors[index].name.decode()}/quantized"
                inputs[place] = self.editor.add_constant(name, integers, grid)
        operator.inputs = np.asarray(inputs, dtype=np.int32)

    def _write_result(
        self, operator: OperatorT, output: int, stored: StoredRange, node: Node
    ) -> None:
        """Let the operator write its output within the planned levels."""
        self._tensors.become_int8(output, stored)
        if self._stays_above(stored, node, self.editor.builtin_code(operator)):
            return
        bottom = stored.from_the_bottom
        first = self.editor.twin(output, "/unclipped", TensorType.INT8, bottom.quantization())
        operator.outputs = np.asarray([first], dtype=np.int32)
        self._tensors.append_quantize(first, output)

    def _stays_above(self, stored: StoredRange, node: Node, builtin: int) -> bool:
        """Whether an operator cannot write integers below the planned levels."""
        if stored.first == INT8_MIN or builtin in MOVES_VALUES:
            return True
        # The inputs of these are within the levels already.
        kept = node.rule.output_scale is OutputScale.INPUT or builtin in ON_ONE_SCALE
        return kept or node.output in self.source.graph.nonnegative

    def _write_weights(self, operator: OperatorT, node: Node, builtin: int) -> None:
        weights = self.source.weights[node.name]
        image, kernel_place, _ = input_places(builtin)
        found = self.editor.constant(int(operator.inputs[kernel_place]))
        require_own_weights(node, builtin, found, self.source.float_file.stand_ins.get(node.name))
        integers = weights_for_operator(node, weights.integers, builtin, found.shape)
        kernel = self._add_kernel(node, integers, weights, builtin)
        bias = self._add_bias(node, weights, self._tensors.stored(int(operator.inputs[image])))
        with_weights(operator, builtin, kernel, bias)

    def _add_kernel(
        self, node: Node, integers: NDArray[np.int8], weights: LayerWeights, builtin: int
    ) -> int:
        quantization = per_channel_quantization(weights.scale, WEIGHT_AXES[builtin])
        return self.editor.add_constant(f"{node.name}/kernel", integers, quantization)

    def _add_bias(self, node: Node, weights: LayerWeights, input_range: StoredRange) -> int:
        integers = weights.bias_integers(self.source.plan.tensors[node.inputs[0]])
        quantization = per_channel_quantization(input_range.scale * weights.scale, 0)
        return self.editor.add_constant(f"{node.name}/bias", integers, quantization)
