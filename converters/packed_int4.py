"""Target `packed_int4`: INT4 weights, two in a byte; activations as in `int8_container`.

What a layer of more than 4 bits holds stays int8 in the same file. The layouts:

    fast      INT4 where it is accelerated: in FULLY_CONNECTED, and as such every convolution of
              1x1 and stride 1. XNNPACK takes neither INT4 convolutions nor an odd number of inputs:
              those layers stay int8.
    smallest  INT4 in every CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, at the price of speed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.export_source import ExportSource
from tflite_ptq4.converters.int8_container import Int8Writer, require_integer_plan
from tflite_ptq4.converters.int8_tensors import per_channel_quantization
from tflite_ptq4.converters.schema import (
    BuiltinOperator,
    BuiltinOptions,
    FullyConnectedOptionsT,
    ModelT,
    OperatorT,
    TensorType,
)
from tflite_ptq4.converters.weight_layout import WEIGHT_AXES
from tflite_ptq4.graph import Node
from tflite_ptq4.numerics.grid import IntegerGrid
from tflite_ptq4.numerics.nibbles import pack_int4
from tflite_ptq4.weights.layer_weights import LayerWeights

PACKED_BITS = 4

# The lowest version of each operator that says INT4 weights; a depthwise convolution of version 7
# would not load in the reference kernels.
_INT4_VERSIONS = {
    BuiltinOperator.CONV_2D: 7,
    BuiltinOperator.DEPTHWISE_CONV_2D: 6,
    BuiltinOperator.FULLY_CONNECTED: 10,
}


def export_packed_int4(
    source: ExportSource, *, io: str = "float32", layout: str = "fast"
) -> ModelT:
    """Write the plan as an integer-only file with packed 4-bit weights.

    Args:
        source: what to write.
        io: "float32" for QUANTIZE and DEQUANTIZE at the ends, "int8" for integers there as well.
        layout: "fast" or "smallest".

    Returns:
        The model.

    Raises:
        TargetError: the plan holds what integers cannot, or a layer has no integer operator.
    """
    require_integer_plan(source)
    return _PackedWriter(source, layout).write(io)


class _PackedWriter(Int8Writer):
    """Writes the int8 file, but the kernels of at most 4 bits packed."""

    def __init__(self, source: ExportSource, layout: str) -> None:
        super().__init__(source)
        self._layout = layout
        self._packed: set[str] = set()

    def _write_weights(self, operator: OperatorT, node: Node, builtin: int) -> None:
        super()._write_weights(operator, node, builtin)
        if builtin == BuiltinOperator.CONV_2D and node.name in self._packed and self._is_fast:
            operator.opcodeIndex = self.editor.opcode(BuiltinOperator.FULLY_CONNECTED, 1)
            operator.builtinOptionsType = BuiltinOptions.FullyConnectedOptions
            operator.builtinOptions = FullyConnectedOptionsT(
                fusedActivationFunction=operator.builtinOptions.fusedActivationFunction,
                keepNumDims=True,
            )

    def _add_kernel(
        self, node: Node, integers: NDArray[np.int8], weights: LayerWeights, builtin: int
    ) -> int:
        if not self._can_pack(node, integers, builtin):
            return super()._add_kernel(node, integers, weights, builtin)
        self._packed.add(node.name)
        axis = WEIGHT_AXES[builtin]
        if builtin == BuiltinOperator.CONV_2D and self._is_fast:
            integers = integers.reshape(len(integers), -1)
        kernel = self.editor.add_tensor(
            f"{node.name}/kernel",
            integers.shape,
            TensorType.INT4,
            per_channel_quantization(weights.scale, axis),
        )
        self.editor.set_data(kernel, pack_int4(integers).tobytes())
        return kernel

    @property
    def _is_fast(self) -> bool:
        return self._layout == "fast"

    def _can_pack(self, node: Node, integers: NDArray[np.int8], builtin: int) -> bool:
        """Whether the kernel fits 4 bits, in an operator whose INT4 kernel is right (and fast)."""
        limit = IntegerGrid(PACKED_BITS, signed=True, narrow_range=True).qmax
        if builtin not in _INT4_VERSIONS or np.abs(integers).max() > limit:
            return False
        if not self._is_fast:
            return True
        if builtin == BuiltinOperator.FULLY_CONNECTED:
            return integers.shape[-1] % 2 == 0
        return (
            builtin == BuiltinOperator.CONV_2D
            and integers.shape[1:3] == (1, 1)
            and tuple(node.attributes["strides"]) == (1, 1)
            and node.attributes["groups"] == 1
            and integers.shape[-1] % 2 == 0
        )

    def _version(self, operator: OperatorT, builtin: int, node: Node) -> int:
        builtin = self.editor.builtin_code(operator)
        if node.name in self._packed and builtin in _INT4_VERSIONS:
            return _INT4_VERSIONS[builtin]
        return super()._version(operator, builtin, node)
