"""What quantization each kind of operator asks of its tensors.

A *kind* is the name that this package gives to one operator of the lowered graph, whatever Keras
class it came from. Adding a kind is one row in `RULES`, one way to lower it in
`keras_side/primitives/`, and one row in the converter's table of integer kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class OutputScale(Enum):
    """Where the scale of an operator's output comes from."""

    OWN = "own"  # from the statistics of the output
    INPUT = "input"  # the operator only moves or selects values: the input's, unchanged
    FIXED = "fixed"  # the TFLite specification names it
    FLOAT = "float"  # no integer form: the operator stays in float


@dataclass(frozen=True)
class OperatorRule:
    """How one kind of operator is quantized.

    Attributes:
        output_scale: where the scale of the output comes from.
        weighted: the operator has a kernel (and may have a bias).
        fuses_relu: TFLite can fuse a ReLU or ReLU6 that follows into the operator.
        keeps_sign: the output has no negative value where no input has one.
        sign_of_any: with `keeps_sign`, one input without negative values is enough.
        nonnegative: the output has no negative value, whatever the inputs are.
        rescales_inputs: the operator takes its inputs on the scale of its output.
        interpolates: the output, on its input's scale, lies between the levels and is rounded.
        fixed: (scale, zero_point) on the 8-bit unsigned grid where the specification names them.
    """

    output_scale: OutputScale
    weighted: bool = False
    fuses_relu: bool = False
    keeps_sign: bool = False
    sign_of_any: bool = False
    nonnegative: bool = False
    rescales_inputs: bool = False
    interpolates: bool = False
    fixed: tuple[float, int] | None = None

    @property
    def rounds(self) -> bool:
        """Whether the output of the integer operator is rounded, not on its input's levels."""
        return self.interpolates or self.output_scale is not OutputScale.INPUT


RULES: dict[str, OperatorRule] = {
    # with weights
    "conv2d": OperatorRule(OutputScale.OWN, weighted=True, fuses_relu=True),
    "depthwise_conv2d": OperatorRule(OutputScale.OWN, weighted=True, fuses_relu=True),
    "conv2d_transpose": OperatorRule(OutputScale.OWN, weighted=True, fuses_relu=True),
    "dense": OperatorRule(OutputScale.OWN, weighted=True, fuses_relu=True),
    # joining tensors, or a tensor and a number
    "add": OperatorRule(OutputScale.OWN, fuses_relu=True, keeps_sign=True),
    "subtract": OperatorRule(OutputScale.OWN, fuses_relu=True),
    "multiply": OperatorRule(OutputScale.OWN, fuses_relu=True, keeps_sign=True),
    "maximum": OperatorRule(
        OutputScale.OWN, keeps_sign=True, sign_of_any=True, rescales_inputs=True
    ),
    "minimum": OperatorRule(OutputScale.OWN, keeps_sign=True, rescales_inputs=True),
    "concatenate": OperatorRule(OutputScale.OWN, keeps_sign=True, rescales_inputs=True),
    # reducing
    "mean": OperatorRule(OutputScale.OWN, keeps_sign=True),
    "max": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    # functions of one value
    "rsqrt": OperatorRule(OutputScale.OWN, nonnegative=True),
    "relu": OperatorRule(OutputScale.OWN, nonnegative=True),
    "relu6": OperatorRule(OutputScale.OWN, nonnegative=True),
    "leaky_relu": OperatorRule(OutputScale.OWN),
    "prelu": OperatorRule(OutputScale.OWN),
    "elu": OperatorRule(OutputScale.OWN),
    "gelu": OperatorRule(OutputScale.OWN),
    "hard_swish": OperatorRule(OutputScale.OWN),
    "sigmoid": OperatorRule(OutputScale.FIXED, nonnegative=True, fixed=(1.0 / 256.0, 0)),
    "tanh": OperatorRule(OutputScale.FIXED, fixed=(1.0 / 128.0, 128)),
    "softmax": OperatorRule(OutputScale.FIXED, nonnegative=True, fixed=(1.0 / 256.0, 0)),
    # moving, selecting or interpolating values
    "max_pool": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "average_pool": OperatorRule(OutputScale.INPUT, keeps_sign=True, interpolates=True),
    "resize_bilinear": OperatorRule(OutputScale.INPUT, keeps_sign=True, interpolates=True),
    "resize_nearest": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "pad": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "crop": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "reshape": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "transpose": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "depth_to_space": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    # anything else
    "float": OperatorRule(OutputScale.FLOAT),
}

# The scale of what is added, in scales of the sum: XNNPACK takes no finer one, and at 1 / 512 of a
# step nothing of it is left.
LEAST_SCALE_OF_TERM = 2.0**-9

FUSED_ACTIVATIONS = ("relu", "relu6")

# What turns a tie away from zero, in steps, and nothing else that a mean of levels can be.
TIE_NUDGE = 2.0**-10
