"""Simulated quantization of a tensor, in float32 and in the order of the exported operators."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tflite_ptq4.graph import Node
from tflite_ptq4.operator_rules import TIE_NUDGE
from tflite_ptq4.plan import TensorPlan


def fake_quantize(values, plan: TensorPlan, rounding: str = "half_even"):
    """Round a tensor to the levels of its plan.

        y = scale * clip(round(x * (1 / scale)), lower, upper)

    The reciprocal is taken once, in float32, as the exported operators do.

    Args:
        values: float32 tensor [..., C].
        plan: one scale, or one for each of the C channels.
        rounding: "half_even", or "half_away" from zero on the stored int8 value, as
            AVERAGE_POOL_2D does.

    Returns:
        float32 tensor of the same shape.
    """
    return levels(values, plan, rounding) * _row(plan.scale)


def levels(values, plan: TensorPlan, rounding: str = "half_even"):
    """The numbers of steps that a tensor is rounded to: `fake_quantize` before the scale.

    Args:
        values: as there.
        plan: as there.
        rounding: as there.

    Returns:
        float32 tensor of the same shape, whole numbers from `plan.lower` to `plan.upper`.
    """
    steps = values * _row(1.0 / plan.scale.astype(np.float32))
    if rounding == "half_away":
        # A mean of n levels is a tie or 1 / (2 n) away from one: only ties are turned.
        away = ops.clip(steps + _row(plan.stored_zero_point), -TIE_NUDGE, TIE_NUDGE)
        steps = steps + away
    steps = ops.round(steps)
    return ops.minimum(ops.maximum(steps, _row(plan.lower)), _row(plan.upper))


def rounds_after(node: Node, *, quantized: bool) -> str | None:
    """How the output of an operator is rounded to its grid, or None where it is on it already.

    Args:
        node: the operator.
        quantized: whether it computes on integers. What others move lies on no grid.

    Returns:
        "half_even", "half_away", or None for operators that only move or select values.
    """
    if not quantized:
        return "half_even"
    if node.rule.interpolates:
        return "half_away"
    return "half_even" if node.rule.rounds else None


def _row(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


@keras.saving.register_keras_serializable(package="tflite_ptq4")
class FakeQuantize(keras.layers.Layer):
    """Keras layer that holds a tensor to the levels of its plan.

    Args:
        bits: bits per channel, or one value.
        scale: scale per channel, or one value; divides.
        zero_point: zero point per channel, or one value, on the unsigned grid.
        rounding: "half_even" or "half_away".
    """

    def __init__(
        self,
        bits: list[int],
        scale: list[float],
        zero_point: list[int],
        rounding: str = "half_even",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.bits, self.scale, self.zero_point = list(bits), list(scale), list(zero_point)
        self.rounding = rounding
        self._plan = TensorPlan(
            name=self.name,
            source=self.name,
            bits=np.asarray(self.bits, dtype=np.int64),
            scale=np.asarray(self.scale, dtype=np.float64),
            zero_point=np.asarray(self.zero_point, dtype=np.int64),
            method=(),
            reason="",
        )

    @classmethod
    def of(cls, plan: TensorPlan, *, rounding: str, name: str) -> FakeQuantize:
        """The layer that rounds a tensor to its plan."""
        return cls(
            plan.bits.tolist(), plan.scale.tolist(), plan.zero_point.tolist(), rounding, name=name
        )

    def call(self, inputs):
        """Round the tensor."""
        return fake_quantize(inputs, self._plan, self.rounding)

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict:
        """What the layer was made with."""
        return {
            **super().get_config(),
            "bits": self.bits,
            "scale": self.scale,
            "zero_point": self.zero_point,
            "rounding": self.rounding,
        }
