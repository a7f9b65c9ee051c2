"""Target `int8_container`: int8 tensors, each held to the range of its own 2 to 8 bits.

An activation of b bits uses the 2^b integers up to 127, so that the saturation of int8 is its
upper clip. The lower clip is a fused ReLU, whose zero is then at 128 - 2^b (112 for 4 bits), or,
where the values have a sign, a pair of tensors: the operator writes one whose range begins at
-128, which saturates below, and QUANTIZE moves it to the one that ends at 127, which saturates
above. Every int8 runtime computes such a file, at its full speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.export_source import ExportSource, FloatFileReader
from tflite_ptq4.converters.integer_operators import (
    INT8_VERSIONS,
    MOVES_VALUES,
    TAKES_CONSTANTS,
)
from tflite_ptq4.converters.schema import (
    ActivationFunctionType,
    BuiltinOperator,
    BuiltinOptions,
    ModelT,
    MulOptionsT,
    OperatorT,
    QuantizationParametersT,
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
from tflite_ptq4.layer_weights import LayerWeights
from tflite_ptq4.numerics.affine import quantize
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.ranges import symmetric_scale
from tflite_ptq4.operator_rules import OutputScale
from tflite_ptq4.plan import INT8_MAX, INT8_MIN, TensorPlan

_CONSTANT_GRID = IntegerGrid(8, signed=True, narrow_range=True)

# A ReLU on its own has no XNNPACK kernel, and the builtin one rounds twice; fused, it has neither.
_FUSED = {
    BuiltinOperator.RELU: ActivationFunctionType.RELU,
    BuiltinOperator.RELU6: ActivationFunctionType.RELU6,
}


@dataclass(frozen=True)
class StoredRange:
    """The int8 integers of one tensor: scale, zero point, and where its levels begin and end."""

    scale: float
    zero_point: int
    first: int
    last: int = INT8_MAX

    @classmethod
    def of(cls, plan: TensorPlan) -> StoredRange:
        """The levels of a plan, moved so that the highest is 127."""
        zero_point = int(plan.stored_zero_point[0])
        return cls(float(plan.scale[0]), zero_point, zero_point + int(plan.lower[0]))

    @property
    def from_the_bottom(self) -> StoredRange:
        """The same levels, moved so that the lowest is -128; those above go on to 127."""
        return StoredRange(self.scale, self.zero_point - (self.first - INT8_MIN), INT8_MIN)

    def quantization(self) -> QuantizationParametersT:
        """As the file says it."""
        return QuantizationParametersT(
            scale=np.array([self.scale], dtype=np.float32),
            zeroPoint=np.array([self.zero_point], dtype=np.int64),
        )


def require_integer_plan(source: ExportSource) -> None:
    """Refuse what only float arithmetic can hold.

    Raises:
        TargetError: a tensor has a scale per channel, or weights lie off the integer grid.
    """
    per_channel = source.plan.per_channel_tensors
    if per_channel:
        raise TargetError(
            f"An integer target must have one scale per activation tensor. Received: a plan with "
            f"one per channel for {len(per_channel)} tensors, the first is {per_channel[0]!r}. "
            "Export to target='float_simulated', or set activation_granularity: per_tensor and "
            "activation_bit_allocation: none."
        )
    if source.plan.config.quantized_tensors == "layer_inputs":
        raise TargetError(
            "An integer target must have integers between its layers. Received: a plan with "
            "quantized_tensors 'layer_inputs', in which sums stay in float. Export to "
            "target='float_simulated', or set quantized_tensors: all."
        )
    for name, weights in source.weights.items():
        if np.any(weights.offset):
            raise TargetError(
                f"An integer target must have weights on the integer grid. Received: layer "
                f"{name!r} with mean_correction 'weights', the paper's form, which leaves it. "
                "Export to target='float_simulated', or set mean_correction: bias."
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
        self._stored: dict[int, StoredRange] = {}  # tensors that are int8 now
        self._int8_twin: dict[int, int] = {}
        self._float_twin: dict[int, int] = {}
        self._plan_of: dict[int, TensorPlan] = {}
        self._one: int | None = None
        for name, index in self.reader.index.items():
            if name in source.plan.tensors:
                self._plan_of.setdefault(index, source.plan.tensors[name])
        for operator in self.reader.original_operators:
            inputs = self.reader.computed_inputs(operator)
            if self._moves_inside(operator) and inputs[0] in self._plan_of:
                self._plan_of[int(operator.outputs[0])] = self._plan_of[inputs[0]]

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
            dict(zip(self.source.input_names, inputs, strict=True)),
            list(zip(self.source.output_names, outputs, strict=True)),
        )
        return self.editor.finish()

    def _write_input(self, name: str, io: str) -> int:
        index = self.reader.index[name]
        if io == "int8" and index in self._plan_of:
            self._become_int8(index, StoredRange.of(self._plan_of[index]))
        return index

    def _write_output(self, name: str, io: str) -> int:
        index = self.reader.index[name]
        if io == "int8" and index in self._plan_of:
            return self._as_int8(index)
        return self._as_float(index)

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
            [i if int(i) in constant else self._as_float(int(i)) for i in operator.inputs],
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
            stored = self._stored[self._as_int8(inputs[0])]
        else:
            stored = StoredRange.of(self.source.plan.tensors[node.output])
        if builtin == BuiltinOperator.CONCATENATION:
            replaced = {index: self._requantized(index, stored) for index in inputs}
        else:
            replaced = {index: self._as_int8(index) for index in inputs}
        operator.inputs = np.asarray(
            [replaced.get(int(index), index) for index in operator.inputs], dtype=np.int32
        )
        if node.rule.weighted and builtin in WEIGHT_AXES:
            self._write_weights(operator, node, builtin)
        elif builtin in TAKES_CONSTANTS:
            self._quantize_constants(operator)
        if builtin in _FUSED:
            operator = self._append_rescaling(replaced[inputs[0]], output, _FUSED[builtin])
        else:
            self.editor.keep(operator, self._version(operator, builtin, node))
        self._write_result(operator, output, stored, node)

    def _version(self, operator: OperatorT, builtin: int, node: Node) -> int:
        """The version that means int8, or a later one that the float operator has already."""
        current = self.editor.model.operatorCodes[operator.opcodeIndex].version
        return max(INT8_VERSIONS[builtin], current)

    def _quantize_constants(self, operator: OperatorT) -> None:
        """Constants that an operator computes with, on a symmetric 8-bit grid of their own."""
        inputs = [int(index) for index in operator.inputs]
        for place, index in enumerate(inputs):
            values = self.editor.constant(index) if index >= 0 else None
            if values is not None and values.dtype == np.float32:
                scale = symmetric_scale(np.abs(values).max(), 8)
                grid = StoredRange(float(scale), 0, INT8_MIN).quantization()
                integers = quantize(values, scale, 0, _CONSTANT_GRID).astype(np.int8)
                name = f"{self.editor.tensors[index].name.decode()}/quantized"
                inputs[place] = self.editor.add_constant(name, integers, grid)
        operator.inputs = np.asarray(inputs, dtype=np.int32)

    def _write_result(
        self, operator: OperatorT, output: int, stored: StoredRange, node: Node
    ) -> None:
        """Let the operator write its output within the planned levels."""
        self._become_int8(output, stored)
        if self._stays_above(stored, node, self.editor.builtin_code(operator)):
            return
        bottom = stored.from_the_bottom
        first = self.editor.twin(output, "/unclipped", TensorType.INT8, bottom.quantization())
        operator.outputs = np.asarray([first], dtype=np.int32)
        self._append_quantize(first, output)

    def _stays_above(self, stored: StoredRange, node: Node, builtin: int) -> bool:
        """Whether an operator cannot write integers below the planned levels."""
        if stored.first == INT8_MIN or builtin in MOVES_VALUES:
            return True
        # The inputs of these are within the levels already.
        kept = node.rule.output_scale is OutputScale.INPUT or node.kind == "concatenate"
        return kept or node.output in self.source.graph.nonnegative

    def _write_weights(self, operator: OperatorT, node: Node, builtin: int) -> None:
        weights = self.source.weights[node.name]
        image, kernel_place, _ = input_places(builtin)
        found = self.editor.constant(int(operator.inputs[kernel_place]))
        require_own_weights(node, builtin, found, self.source.stand_ins.get(node.name))
        integers = weights_for_operator(node, weights.integers, builtin, found.shape)
        kernel = self._add_kernel(node, integers, weights, builtin)
        bias = self._add_bias(node, weights, self._stored[int(operator.inputs[image])])
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

    def _become_int8(self, index: int, stored: StoredRange) -> None:
        tensor = self.editor.tensors[index]
        tensor.type, tensor.quantization = TensorType.INT8, stored.quantization()
        self._stored[index] = stored

    def _as_int8(self, index: int) -> int:
        """The int8 form of a tensor, quantized here where it is still in float."""
        if index in self._stored:
            return index
        if index not in self._int8_twin:
            stored = StoredRange.of(self._plan_of[index])
            self._int8_twin[index] = self._append_clipped(index, stored, "/quantized")
        return self._int8_twin[index]

    def _as_float(self, index: int) -> int:
        """The float form of a tensor, dequantized here where it is int8."""
        if index not in self._stored:
            if index not in self._plan_of:
                return index
            index = self._as_int8(index)  # planned: float layers read what integer ones read
        if index not in self._float_twin:
            twin = self.editor.twin(index, "/dequantized", TensorType.FLOAT32)
            self.editor.append(BuiltinOperator.DEQUANTIZE, 2, [index], [twin])
            self._float_twin[index] = twin
        return self._float_twin[index]

    def _requantized(self, index: int, stored: StoredRange) -> int:
        """The int8 form of a tensor on another scale."""
        index = self._as_int8(index)
        if self._stored[index] == stored:
            return index
        return self._append_clipped(index, stored, "/rescaled")

    def _append_clipped(self, index: int, stored: StoredRange, suffix: str) -> int:
        """QUANTIZE a tensor to these levels, through the bottom of int8 where it must saturate."""
        source = self._stored.get(index)
        nonnegative = source is not None and source.first == source.zero_point
        if stored.first != INT8_MIN and not nonnegative:
            bottom = stored.from_the_bottom
            first = self.editor.twin(
                index, f"{suffix}/unclipped", TensorType.INT8, bottom.quantization()
            )
            index = self._append_quantize(index, first)
        twin = self.editor.twin(index, suffix, TensorType.INT8, stored.quantization())
        self._stored[twin] = stored
        return self._append_quantize(index, twin)

    def _append_quantize(self, source: int, target: int) -> int:
        before, after = self.editor.tensors[source], self.editor.tensors[target]
        if before.type == TensorType.FLOAT32:
            self.editor.append(BuiltinOperator.QUANTIZE, 1, [source], [target])
        elif before.quantization.scale[0] == after.quantization.scale[0]:
            self.editor.append(BuiltinOperator.QUANTIZE, 2, [source], [target])
        else:
            self._append_rescaling(source, target, ActivationFunctionType.NONE)
        return target

    def _append_rescaling(self, source: int, target: int, activation: int) -> OperatorT:
        """Multiply by one: XNNPACK holds this ratio of scales in float32, QUANTIZE's in 8 bits."""
        if self._one is None:
            grid = StoredRange(2.0**-6, 0, INT8_MIN).quantization()
            self._one = self.editor.add_constant("one", np.array([64], dtype=np.int8), grid)
        return self.editor.append(
            BuiltinOperator.MUL,
            2,
            [source, self._one],
            [target],
            options_type=BuiltinOptions.MulOptions,
            options=MulOptionsT(activation),
        )


def per_channel_quantization(scale: NDArray, axis: int) -> QuantizationParametersT:
    """Scales along one axis, every zero point 0."""
    return QuantizationParametersT(
        scale=np.asarray(scale, dtype=np.float32),
        zeroPoint=np.zeros(len(scale), dtype=np.int64),
        quantizedDimension=axis,
    )
