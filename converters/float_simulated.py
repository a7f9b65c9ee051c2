"""Target `float_simulated`: the quantized network in float arithmetic, on any scale and bit width.

Weights are float32 values on their grid. After each operator whose output is quantized,

    x -> x * (1 / scale) -> ROUND -> MINIMUM upper -> MAXIMUM lower -> x * scale

with one constant per tensor or per channel. All of it runs in XNNPACK, so that the paper's setting
(per-channel activations with bit allocation) can be validated on a device. The file is as large as
the float one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.export_source import ExportSource, FloatFileReader
from tflite_ptq4.converters.schema import (
    AddOptionsT,
    BuiltinOperator,
    BuiltinOptions,
    MaximumMinimumOptionsT,
    ModelT,
    MulOptionsT,
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
from tflite_ptq4.operator_rules import TIE_NUDGE
from tflite_ptq4.plan import TensorPlan


def export_float_simulated(source: ExportSource, *, io: str = "float32") -> ModelT:
    """Write the plan as a float file that rounds every planned tensor.

    Args:
        source: what to write.
        io: "float32"; this target has no integers at its ends.

    Returns:
        The model.

    Raises:
        TargetError: integers were asked for at the ends.
    """
    if io != "float32":
        raise TargetError(
            f"The target 'float_simulated' has float32 inputs and outputs. Received: io={io!r}. "
            "Leave io out, or export to target='int8_container'."
        )
    return _FloatWriter(source).write()


class _FloatWriter:
    """Copies the float file, with other weights and with rounding after each planned tensor."""

    def __init__(self, source: ExportSource) -> None:
        self.source = source
        self.reader = FloatFileReader(source)
        self.editor = self.reader.editor
        self._rounded: dict[int, int] = {}

    def write(self) -> ModelT:
        index = self.reader.index
        for name in self.source.graph.inputs:
            if name in self.source.plan.tensors:
                self._append_rounding(index[name], self.source.plan.tensors[name], False)
        for operator in self.reader.original_operators:
            operator.inputs = np.asarray(
                [self._rounded.get(int(i), i) for i in operator.inputs], dtype=np.int32
            )
            node = self.reader.node(operator)
            if node is not None and node.name in self.source.weights:
                self._replace_weights(operator, node)
            self.editor.keep(operator)
            for name in self._rounded_outputs(node, operator):
                plan = self.source.plan.tensors[name]
                nonnegative = name in self.source.graph.nonnegative
                self._append_rounding(index[name], plan, nonnegative, node.rule.interpolates)
        outputs = [self._rounded.get(index[n], index[n]) for n in self.source.graph.outputs]
        self.editor.set_interface(
            {
                shown: index[name]
                for shown, name in zip(
                    self.source.float_file.input_names, self.source.graph.inputs, strict=True
                )
            },
            list(zip(self.source.float_file.output_names, outputs, strict=True)),
        )
        return self.editor.finish()

    def _rounded_outputs(self, node: Node | None, operator: OperatorT) -> list[str]:
        """The planned tensors that an operator writes, where their values are not on levels yet."""
        if node is None:
            return []
        if self.source.plan.layer(node.name).quantized and not node.rule.rounds:
            return []
        written = {int(output) for output in operator.outputs}
        planned = self.source.plan.tensors
        return [n for n in node.outputs if n in planned and self.reader.index[n] in written]

    def _replace_weights(self, operator: OperatorT, node: Node) -> None:
        builtin = self.editor.builtin_code(operator)
        if builtin not in WEIGHT_AXES:
            return  # an operator that the converter put beside the weighted one
        weights = self.source.weights[node.name]
        found = self.editor.constant(int(operator.inputs[input_places(builtin)[1]]))
        require_own_weights(node, builtin, found, self.source.float_file.stand_ins.get(node.name))
        values = weights_for_operator(node, weights.dequantized(node), builtin, found.shape)
        kernel = self.editor.add_constant(f"{node.name}/kernel", values)
        stored_bias = weights.stored_bias(self.source.plan.tensors.get(node.inputs[0]))
        bias = self.editor.add_constant(f"{node.name}/bias", stored_bias)
        with_weights(operator, builtin, kernel, bias)

    def _append_rounding(
        self, index: int, plan: TensorPlan, nonnegative: bool, half_away: bool = False
    ) -> None:
        scale = plan.scale.astype(np.float32)
        value = self._append_binary(
            BuiltinOperator.MUL, index, np.float32(1.0) / scale, f"{plan.name}/inverse_scale"
        )
        if half_away:
            value = self._append_nudge(value, plan)
        rounded = self.editor.twin(index, "/round", TensorType.FLOAT32)
        self.editor.append(BuiltinOperator.ROUND, 1, [value], [rounded])
        value = self._append_binary(
            BuiltinOperator.MINIMUM, rounded, plan.upper, f"{plan.name}/upper"
        )
        if not nonnegative or np.any(plan.lower != 0):
            value = self._append_binary(
                BuiltinOperator.MAXIMUM, value, plan.lower, f"{plan.name}/lower"
            )
        self._rounded[index] = self._append_binary(
            BuiltinOperator.MUL, value, scale, f"{plan.name}/scale"
        )

    def _append_nudge(self, steps: int, plan: TensorPlan) -> int:
        """Move ties away from zero on the stored int8 value, as AVERAGE_POOL_2D rounds them.

        A mean of n levels is a tie or at least 1 / (2 n) away from one: the nudge turns no other.
        """
        stored = self._append_binary(
            BuiltinOperator.ADD, steps, plan.stored_zero_point, f"{plan.name}/stored_zero"
        )
        low = self._append_binary(
            BuiltinOperator.MINIMUM, stored, TIE_NUDGE, f"{plan.name}/nudge_up"
        )
        nudge = self._append_binary(
            BuiltinOperator.MAXIMUM, low, -TIE_NUDGE, f"{plan.name}/nudge_down"
        )
        output = self.editor.twin(steps, "/nudged", TensorType.FLOAT32)
        self.editor.append(
            BuiltinOperator.ADD,
            1,
            [steps, nudge],
            [output],
            options_type=BuiltinOptions.AddOptions,
            options=AddOptionsT(),
        )
        return output

    def _append_binary(self, builtin: int, index: int, values: NDArray, name: str) -> int:
        constant = self.editor.add_constant(name, np.asarray(values, dtype=np.float32))
        output = self.editor.twin(index, f"/{name.rsplit('/', 1)[-1]}", TensorType.FLOAT32)
        options_type, options = {
            BuiltinOperator.MUL: (BuiltinOptions.MulOptions, MulOptionsT()),
            BuiltinOperator.ADD: (BuiltinOptions.AddOptions, AddOptionsT()),
        }.get(builtin, (BuiltinOptions.MaximumMinimumOptions, MaximumMinimumOptionsT()))
        self.editor.append(
            builtin, 1, [index, constant], [output], options_type=options_type, options=options
        )
        return output
