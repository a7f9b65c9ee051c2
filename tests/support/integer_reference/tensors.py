"""What a .tflite file says of its tensors and operators, and the register of what runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_DTYPES = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.UINT8: np.dtype(np.uint8),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT64: np.dtype(np.int64),
    schema.TensorType.BOOL: np.dtype(np.bool_),
    schema.TensorType.INT4: np.dtype(np.int8),
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the file; `scale` is float32[C] (C = 1 per tensor) or empty when unquantized."""

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype
    packed: bool
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    constant: np.ndarray | None

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"

    @property
    def is_quantized(self) -> bool:
        return self.dtype.itemsize == 1 and self.scale.size > 0

    @property
    def grid(self) -> tuple[np.float32, int]:
        """The (scale, zero point) of a per-tensor quantized tensor."""
        if self.scale.size != 1:
            raise NotImplementedError(f"tensor {self.index} must have one scale")
        return self.scale[0], int(self.zero_point[0])

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest integer of the type."""
        limits = np.iinfo(self.dtype)
        return limits.min, limits.max

    def centred(self, value: np.ndarray) -> np.ndarray:
        """q - zero_point as int64."""
        return value.astype(np.int64) - self.per_axis(self.zero_point, value.ndim)

    def per_axis(self, parameter: np.ndarray, rank: int) -> np.ndarray:
        """One number per channel, in the shape that broadcasts along the channels."""
        if parameter.size == 1:
            return parameter[0]
        return parameter.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])


@dataclass(frozen=True, eq=False)
class Node:
    """One operator with the values of its inputs."""

    name: str
    options: Any
    inputs: tuple[Tensor | None, ...]
    values: tuple[np.ndarray | None, ...]
    output: Tensor

    @property
    def activation(self) -> int:
        """The fused activation, NONE where the operator has no such field."""
        none = schema.ActivationFunctionType.NONE
        return getattr(self.options, "fusedActivationFunction", none)

    def kind(self, *places: int) -> str:
        """Name the arithmetic, "int8" or "float", of these inputs and the output."""
        involved = [*(self.inputs[place] for place in places), self.output]
        if all(tensor.is_float for tensor in involved):
            return "float"
        if all(tensor.is_quantized for tensor in involved):
            return "int8"
        mixed = ", ".join(str(tensor.dtype) for tensor in involved)
        raise self.unsupported(f"inputs and output mix {mixed}")

    def require_one_grid(self, *places: int) -> None:
        """A kernel that moves q unchanged needs one scale and zero point throughout."""
        if self.kind(*places) == "int8":
            for place in places:
                tensor = self.inputs[place]
                if tensor.grid != self.output.grid:
                    raise self.unsupported(f"tensor {tensor.index} has another scale or zero point")

    def unsupported(self, reason: str) -> NotImplementedError:
        return NotImplementedError(f"{self.name} (output tensor {self.output.index}): {reason}")


Operator = Callable[[Node], np.ndarray]

# Filled by the modules of operators.
OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register what computes the output of the operators of these names."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def read_tensor(model: Any, graph: Any, index: int) -> Tensor:
    """A tensor of the file, the value of a constant included; INT4 comes unpacked as int8."""
    tensor = graph.tensors[index]
    if tensor.type not in _DTYPES:
        raise NotImplementedError(f"tensor {index} has TensorType {tensor.type}")
    shape = tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ()
    quantization = tensor.quantization
    scale = zero_point = None
    if quantization is not None:
        scale, zero_point = quantization.scale, quantization.zeroPoint
    packed = tensor.type == schema.TensorType.INT4
    data = model.buffers[tensor.buffer].data
    constant = None
    if data is not None and len(data):
        raw = np.asarray(data, np.uint8)
        if packed:
            nibbles = np.stack([raw & 15, raw >> 4], axis=1).ravel()[: int(np.prod(shape))]
            constant = ((nibbles.astype(np.int8) ^ 8) - 8).reshape(shape)
        else:
            constant = raw.view(_DTYPES[tensor.type]).reshape(shape)
    return Tensor(
        index=index,
        shape=shape,
        dtype=_DTYPES[tensor.type],
        packed=packed,
        scale=np.asarray(scale if scale is not None else [], np.float32),
        zero_point=np.asarray(zero_point if zero_point is not None else [], np.int64),
        axis=int(quantization.quantizedDimension) if quantization is not None else 0,
        constant=constant,
    )
