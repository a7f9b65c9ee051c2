"""Keras layers that compute what XNNPACK's int8 kernels compute, integer by integer.

Tensors between layers hold real numbers, scale * q. Inside, a layer takes the integers q (zero
standing for 0.0), adds up exactly, and rounds as the kernel does:

    linear    q = rint(float32(acc) * float32(s_in * s_w / s_out)),  acc = sum of q_x q_w + bias
    multiply  q = rint(float32(q_a q_b) * float32(s_a * s_b / s_out))
    add       q = (q_a m_a + q_b m_b + 2^(k-1)) >> k,  m = rint(s / s_out * 2^k), k = 20 - e,
              e the exponent of the larger ratio of scales
    mean      q = rint(float32(sum) * m + offset),  m = float32(s_in / s_out / n)
    average   rounds half away from zero on the stored int8 value
    table     a function of one value that kernels compute in fixed point, see
              numerics/hard_swish.py and numerics/leaky_relu.py

One deep network in which a single value falls to the other side of a tie can end up elsewhere; that
is why simulating with real numbers would not do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, prod

import keras
import numpy as np
from keras import ops

from tflite_ptq4.plan import INT8_MAX, TensorPlan

_ADD_BITS = 20


@dataclass(frozen=True)
class IntegerRange:
    """Scale and integers of one tensor; `lower` and `upper` count from zero."""

    scale: float
    lower: int
    upper: int

    @classmethod
    def of(cls, plan: TensorPlan, activation: str | None = None) -> IntegerRange:
        """The range of a plan with one scale, within the bounds of a fused activation."""
        scale, lower, upper = float(plan.scale[0]), int(plan.lower[0]), int(plan.upper[0])
        if activation is not None:
            lower = max(lower, 0)
        if activation == "relu6":
            zero = np.float32(plan.stored_zero_point[0])
            upper = min(upper, int(np.rint(np.float32(6.0) / np.float32(scale) + zero) - zero))
        return cls(scale, lower, upper)

    @property
    def stored_zero(self) -> int:
        """Where 0.0 lies on the int8 grid of a file, for a range that is not cut by a ReLU6."""
        return INT8_MAX - self.upper

    def codes(self, values):
        """The integers of real numbers that lie on the range's levels."""
        return ops.round(values * np.float32(np.float32(1.0) / np.float32(self.scale)))

    def real(self, codes):
        """Integers, clipped to the range, as real numbers."""
        clipped = ops.minimum(ops.maximum(codes, float(self.lower)), float(self.upper))
        return ops.cast(clipped, "float32") * np.float32(self.scale)

    def to_config(self) -> list:
        """As plain values."""
        return [self.scale, self.lower, self.upper]


class _IntegerLayer(keras.layers.Layer):
    """Inputs and output on integer ranges."""

    def __init__(self, inputs: list[list], output: list, **kwargs) -> None:
        super().__init__(**kwargs)
        self.input_ranges = [IntegerRange(*values) for values in inputs]
        self.output_range = IntegerRange(*output)

    def get_config(self) -> dict:
        """What the layer was made with."""
        return {
            **super().get_config(),
            "inputs": [entry.to_config() for entry in self.input_ranges],
            "output": self.output_range.to_config(),
        }

    def _requantized(self, total, multiplier: np.ndarray):
        return self.output_range.real(ops.round(ops.cast(total, "float32") * multiplier))


class _WrappingLayer(_IntegerLayer):
    """An integer layer that leaves geometry to a Keras layer inside."""

    def __init__(self, inner: keras.layers.Layer | dict, inputs, output, **kwargs) -> None:
        super().__init__(inputs, output, **kwargs)
        if isinstance(inner, dict):
            inner = keras.saving.deserialize_keras_object(inner)
        self.inner = inner

    def build(self, input_shape) -> None:
        """Build the layer inside."""
        if not self.inner.built:
            self.inner.build(input_shape)

    def compute_output_shape(self, input_shape):
        """The output shape of the layer inside."""
        return self.inner.compute_output_shape(input_shape)

    def get_config(self) -> dict:
        """What the layer was made with."""
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}


@keras.saving.register_keras_serializable(package="tflite_ptq4")
class IntegerLinear(_WrappingLayer):
    """A convolution or Dense of integer weights, integer bias and a fused activation.

    Args:
        inner: the Keras layer, without bias and activation; its kernel holds the integers.
        inputs: the range of the input.
        output: the range of the output, cut by the activation.
        weight_scale: scale of each output channel's weights.
    """

    def __init__(self, inner, inputs, output, weight_scale: list[float], **kwargs) -> None:
        super().__init__(inner, inputs, output, **kwargs)
        self.weight_scale = list(weight_scale)
        scale = np.asarray(weight_scale, dtype=np.float32)
        scale = np.float32(self.input_ranges[0].scale) * scale
        self._multiplier = scale / np.float32(self.output_range.scale)

    def build(self, input_shape) -> None:
        """Build the layer inside, and the bias."""
        super().build(input_shape)
        self.bias = self.add_weight(
            shape=(len(self.weight_scale),),
            dtype="int32",
            trainable=False,
            name="bias",
            initializer="zeros",
        )

    def call(self, inputs):
        """Compute on the integers."""
        # Products of integers of 8 bits add up exactly in float32, in any order, below 2^24.
        total = self.inner(self.input_ranges[0].codes(inputs))
        total = ops.cast(total, "float64") + ops.cast(self.bias, "float64")
        return self._requantized(total, self._multiplier)

    def get_config(self) -> dict:
        """What the layer was made with."""
        return {**super().get_config(), "weight_scale": self.weight_scale}


@keras.saving.register_keras_serializable(package="tflite_ptq4")
class IntegerJoin(_IntegerLayer):
    """A sum, difference or product of two tensors, or of a tensor and a number.

    Args:
        inputs: the ranges of both.
        output: the range of the output, cut by the activation.
        kind: "add", "subtract" or "multiply".
        number: the integer of the second input where it is a number; None for a tensor.
    """

    def __init__(self, inputs, output, kind: str, number: int | None = None, **kwargs) -> None:
        super().__init__(inputs, output, **kwargs)
        self.kind = kind
        self.number = number
        first, second = (np.float32(entry.scale) for entry in self.input_ranges)
        scale = np.float32(self.output_range.scale)
        self._multiplier = first * second / scale
        ratios = [float(first / scale), float(second / scale)]
        self._shift = _ADD_BITS - (frexp(max(ratios))[1] - 1)
        self._factors = [float(np.rint(ratio * 2.0**self._shift)) for ratio in ratios]
        if kind == "subtract":
            self._factors[1] = -self._factors[1]

    def call(self, inputs):
        """Compute on the integers."""
        tensors = [inputs] if self.number is not None else inputs
        codes = [
            ops.cast(entry.codes(value), "float64")
            for entry, value in zip(self.input_ranges, tensors, strict=False)
        ]
        first, second = codes if self.number is None else (codes[0], float(self.number))
        if self.kind == "multiply":
            return self._requantized(first * second, self._multiplier)
        total = first * self._factors[0] + second * self._factors[1]
        return self.output_range.real(ops.floor(total / 2.0**self._shift + 0.5))

    def get_config(self) -> dict:
        """What the layer was made with."""
        return {**super().get_config(), "kind": self.kind, "number": self.number}


@keras.saving.register_keras_serializable(package="tflite_ptq4")
class IntegerRescale(_IntegerLayer):
    """A tensor moved to another range: the product with one, that the file computes as MUL."""

    def call(self, inputs):
        """Compute on the integers."""
        entry = self.input_ranges[0]
        ratio = np.float32(entry.scale) * np.float32(2.0**-6) / np.float32(self.output_range.scale)
        return self._requantized(entry.codes(inputs) * 64.0, ratio)

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape


@keras.saving.register_keras_serializable(package="tflite_ptq4")
class IntegerTable(_IntegerLayer):
    """A function of one value, looked up for each integer.

    Args:
        inputs: the range of the input.
        output: the range of the output.
        table: what the input's integers become, from the lowest to the highest, zero standing for
            0.0; values beyond the output's range are clipped. One table, or one for each channel.
    """

    def __init__(self, inputs, output, table: list[int] | list[list[int]], **kwargs) -> None:
        super().__init__(inputs, output, **kwargs)
        self.table = list(table)
        self._codes = np.asarray(self.table, dtype=np.float32)

    def call(self, inputs):
        """Compute on the integers."""
        (entry,) = self.input_ranges
        places = ops.cast(entry.codes(inputs), "int32") - entry.lower
        if self._codes.ndim == 2:
            channels, length = self._codes.shape
            places = places + np.arange(channels, dtype=np.int32) * length
        return self.output_range.real(ops.take(self._codes.reshape(-1), places))

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict:
        """What the layer was made with."""
        return {**super().get_config(), "table": self.table}


@keras.saving.register_keras_serializable(package="tflite_ptq4")
class IntegerMean(_IntegerLayer):
    """The mean over some axes.

    Args:
        inputs: the range of the input.
        output: the range of the output.
        axes: which, the batch axis not among them.
        keepdims: whether the axes stay, of size 1.
    """

    def __init__(self, inputs, output, axes: list[int], keepdims: bool, **kwargs) -> None:
        super().__init__(inputs, output, **kwargs)
        self.axes = list(axes)
        self.keepdims = keepdims

    def call(self, inputs):
        """Compute on the integers."""
        entry, output = self.input_ranges[0], self.output_range
        # Of an input of any size, the number of positions is known when the layer runs.
        count = ops.cast(prod(ops.shape(inputs)[axis] for axis in self.axes), "float32")
        multiplier = np.float32(entry.scale) / np.float32(output.scale) * (1.0 / count)
        zero = entry.stored_zero * count
        offset = output.stored_zero - zero * multiplier
        total = ops.sum(entry.codes(inputs), axis=self.axes, keepdims=self.keepdims) + zero
        return output.real(ops.round(total * multiplier + offset) - float(output.stored_zero))

    def get_config(self) -> dict:
        """What the layer was made with."""
        return {**super().get_config(), "axes": self.axes, "keepdims": self.keepdims}


@keras.saving.register_keras_serializable(package="tflite_ptq4")
class IntegerInterpolation(_WrappingLayer):
    """A pooling or resizing that gives values between the levels, rounded half away from zero."""

    def call(self, inputs):
        """Compute on the integers."""
        zero = float(self.output_range.stored_zero)
        stored = self.inner(self.input_ranges[0].codes(inputs)) + zero
        rounded = ops.sign(stored) * ops.floor(ops.abs(stored) + 0.5)
        return self.output_range.real(rounded - zero)
