"""What quantization each kind of operator asks of its tensors.

A *kind* is the name that this package gives to one operator of the lowered graph, whatever Keras
class it came from. Adding a kind is one row in `RULES`, one way to lower it in
`keras_side/primitives.py`, and one row in the converter's table of integer kernels.
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
        nonnegative: the output has no negative value, whatever the inputs are.
        fixed: (scale, zero_point) on the 8-bit unsigned grid where the specification names them.
    """

    output_scale: OutputScale
    weighted: bool = False
    fuses_relu: bool = False
    keeps_sign: bool = False
    nonnegative: bool = False
    fixed: tuple[float, int] | None = None


RULES: dict[str, OperatorRule] = {
    "conv2d": OperatorRule(OutputScale.OWN, weighted=True, fuses_relu=True),
    "depthwise_conv2d": OperatorRule(OutputScale.OWN, weighted=True, fuses_relu=True),
    "dense": OperatorRule(OutputScale.OWN, weighted=True, fuses_relu=True),
    "add": OperatorRule(OutputScale.OWN, fuses_relu=True, keeps_sign=True),
    "concatenate": OperatorRule(OutputScale.OWN, keeps_sign=True),
    "mean": OperatorRule(OutputScale.OWN, keeps_sign=True),
    "relu": OperatorRule(OutputScale.OWN, nonnegative=True),
    "relu6": OperatorRule(OutputScale.OWN, nonnegative=True),
    "max_pool": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "average_pool": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "pad": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "reshape": OperatorRule(OutputScale.INPUT, keeps_sign=True),
    "softmax": OperatorRule(OutputScale.FIXED, nonnegative=True, fixed=(1.0 / 256.0, 0)),
    "float": OperatorRule(OutputScale.FLOAT),
}

FUSED_ACTIVATIONS = ("relu", "relu6")
