"""Which TFLite operators have int8 kernels, and the lowest operator version that means int8."""

from __future__ import annotations

from tflite_ptq4.converters.schema import BuiltinOperator as Op

INT8_VERSIONS: dict[int, int] = {
    # with weights
    Op.CONV_2D: 3,
    Op.DEPTHWISE_CONV_2D: 3,
    Op.TRANSPOSE_CONV: 3,
    Op.FULLY_CONNECTED: 4,
    # joining
    Op.ADD: 2,
    Op.SUB: 2,
    Op.MUL: 2,
    Op.MAXIMUM: 2,
    Op.MINIMUM: 2,
    Op.CONCATENATION: 2,
    # reducing
    Op.MEAN: 2,
    Op.REDUCE_MAX: 2,
    # functions of one value
    Op.RELU: 2,
    Op.RELU6: 2,
    Op.LEAKY_RELU: 2,
    Op.PRELU: 1,
    Op.ELU: 1,
    Op.GELU: 2,
    Op.HARD_SWISH: 1,
    Op.LOGISTIC: 2,
    Op.TANH: 2,
    Op.SOFTMAX: 2,
    Op.RSQRT: 2,
    # moving, selecting, interpolating
    Op.MAX_POOL_2D: 2,
    Op.AVERAGE_POOL_2D: 2,
    Op.RESIZE_BILINEAR: 2,
    Op.RESIZE_NEAREST_NEIGHBOR: 2,
    Op.PAD: 2,
    Op.STRIDED_SLICE: 2,
    Op.RESHAPE: 1,
    Op.TRANSPOSE: 2,
    Op.DEPTH_TO_SPACE: 1,
}

# Operators that the converter adds of its own inside a layer (around a Conv1D, say): they move
# values, whatever the layer is, and keep the scale of their input.
MOVES_VALUES = frozenset({Op.RESHAPE, Op.PAD, Op.TRANSPOSE, Op.STRIDED_SLICE})

# Operators that take every input on the scale of their output.
ON_ONE_SCALE = frozenset({Op.CONCATENATION, Op.MAXIMUM, Op.MINIMUM})

# Operators whose other input may be a constant that is computed with.
TAKES_CONSTANTS = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.PRELU})
