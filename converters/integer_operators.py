"""Which TFLite operators have int8 kernels, and the lowest operator version that means int8."""

from __future__ import annotations

from tflite_ptq4.converters.schema import BuiltinOperator

INT8_VERSIONS: dict[int, int] = {
    BuiltinOperator.CONV_2D: 3,
    BuiltinOperator.DEPTHWISE_CONV_2D: 3,
    BuiltinOperator.FULLY_CONNECTED: 4,
    BuiltinOperator.ADD: 2,
    BuiltinOperator.CONCATENATION: 2,
    BuiltinOperator.MEAN: 2,
    BuiltinOperator.MAX_POOL_2D: 2,
    BuiltinOperator.AVERAGE_POOL_2D: 2,
    BuiltinOperator.PAD: 2,
    BuiltinOperator.RESHAPE: 1,
    BuiltinOperator.RELU: 2,
    BuiltinOperator.RELU6: 2,
    BuiltinOperator.SOFTMAX: 2,
}

# Operators that the converter adds of its own inside a layer (a Dense on images, say): they move
# values, whatever the layer is, and keep the scale of their input.
MOVES_VALUES = frozenset({BuiltinOperator.RESHAPE, BuiltinOperator.PAD})
