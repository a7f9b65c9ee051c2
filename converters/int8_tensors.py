"""The int8 and the float forms of a file's tensors, each made where it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.converters.schema import (
    ActivationFunctionType,
    BuiltinOperator,
    BuiltinOptions,
    MulOptionsT,
    OperatorT,
    QuantizationParametersT,
    TensorType,
)
from tflite_ptq4.plan import INT8_MAX, INT8_MIN, TensorPlan


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


def per_channel_quantization(scale: NDArray, axis: int) -> QuantizationParametersT:
    """Scales along one axis, every zero point 0.

    Args:
        scale: float [c].
        axis: of the tensor.
    """
    return QuantizationParametersT(
        scale=np.asarray(scale, dtype=np.float32),
        zeroPoint=np.zeros(len(scale), dtype=np.int64),
        quantizedDimension=axis,
    )


class Int8Tensors:
    """Which tensors are int8, and the operators that bring others to it and back.

    Args:
        editor: of the graph; operators are appended to it.
        plan_of: what is planned for a tensor, by its index.
    """

    def __init__(self, editor: GraphEditor, plan_of: Mapping[int, TensorPlan]) -> None:
        self._editor, self._plan_of = editor, plan_of
        self._stored: dict[int, StoredRange] = {}  # tensors that are int8 now
        self._int8_twin: dict[int, int] = {}
        self._float_twin: dict[int, int] = {}
        self._one: int | None = None

    def stored(self, index: int) -> StoredRange:
        """The levels of a tensor that is int8."""
        return self._stored[index]

    def become_int8(self, index: int, stored: StoredRange) -> None:
        """Let a tensor itself hold these levels."""
        tensor = self._editor.tensors[index]
        tensor.type, tensor.quantization = TensorType.INT8, stored.quantization()
        self._stored[index] = stored

    def as_int8(self, index: int) -> int:
        """The int8 form of a tensor, quantized here where it is still in float."""
        if index in self._stored:
            return index
        if index not in self._int8_twin:
            stored = StoredRange.of(self._plan_of[index])
            self._int8_twin[index] = self._append_clipped(index, stored, "/quantized")
        return self._int8_twin[index]

    def as_float(self, index: int) -> int:
        """The float form of a tensor, dequantized here where it is int8."""
        if index not in self._stored:
            if index not in self._plan_of:
                return index
            index = self.as_int8(index)  # planned: float layers read what integer ones read
        if index not in self._float_twin:
            twin = self._editor.twin(index, "/dequantized", TensorType.FLOAT32)
            self._editor.append(BuiltinOperator.DEQUANTIZE, 2, [index], [twin])
            self._float_twin[index] = twin
        return self._float_twin[index]

    def requantized(self, index: int, stored: StoredRange) -> int:
        """The int8 form of a tensor on another scale."""
        index = self.as_int8(index)
        if self._stored[index] == stored:
            return index
        return self._append_clipped(index, stored, "/rescaled")

    def _append_clipped(self, index: int, stored: StoredRange, suffix: str) -> int:
        """QUANTIZE a tensor to these levels, through the bottom of int8 where it must saturate."""
        twin = self._editor.twin(index, suffix, TensorType.INT8, stored.quantization())
        self._stored[twin] = stored
        source = self._stored.get(index)
        nonnegative = source is not None and source.first == source.zero_point
        if stored.first != INT8_MIN and not nonnegative:
            bottom = stored.from_the_bottom
            first = self._editor.twin(
                index, f"{suffix}/unclipped", TensorType.INT8, bottom.quantization()
            )
            index = self.append_quantize(index, first)
        return self.append_quantize(index, twin)

    def append_quantize(self, source: int, target: int) -> int:
        """Bring one tensor to the scale of another, which is returned."""
        before, after = self._editor.tensors[source], self._editor.tensors[target]
        if before.type == TensorType.FLOAT32:
            self._editor.append(BuiltinOperator.QUANTIZE, 1, [source], [target])
        elif before.quantization.scale[0] == after.quantization.scale[0]:
            self._editor.append(BuiltinOperator.QUANTIZE, 2, [source], [target])
        else:
            self.append_rescaling(source, target, ActivationFunctionType.NONE)
        return target

    def append_rescaling(self, source: int, target: int, activation: int) -> OperatorT:
        """Multiply by one: XNNPACK holds this ratio of scales in float32, QUANTIZE's in 8 bits."""
        if self._one is None:
            grid = StoredRange(2.0**-6, 0, INT8_MIN).quantization()
            self._one = self._editor.add_constant("one", np.array([64], dtype=np.int8), grid)
        return self._editor.append(
            BuiltinOperator.MUL,
            2,
            [source, self._one],
            [target],
            options_type=BuiltinOptions.MulOptions,
            options=MulOptionsT(activation),
        )
