"""Run a .tflite file in numpy, tensor by tensor, with the integer arithmetic of XNNPACK.

The file is read only through the flatbuffer schema and nothing of the package under test is
imported, so an agreement between the two is evidence. Integer operators that XNNPACK takes
follow its kernels; the ones it always leaves to the builtin kernels (AVERAGE_POOL_2D, SOFTMAX, a
standalone RELU) follow those. INT4 weights leave XNNPACK in CONV_2D, in DEPTHWISE_CONV_2D and in
a FULLY_CONNECTED of odd width; they keep its arithmetic here, and LiteRT, which rounds twice,
then differs by 1 on up to a few outputs in a hundred. Float operators accumulate in float64 and
round once to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.lib.stride_tricks import sliding_window_view
from tiny_tflite import pack

_DTYPES = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.UINT8: np.dtype(np.uint8),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT64: np.dtype(np.int64),
    schema.TensorType.INT4: np.dtype(np.int8),
}
_ACTIVATION_BOUNDS = {
    schema.ActivationFunctionType.NONE: (-np.inf, np.inf),
    schema.ActivationFunctionType.RELU: (0.0, np.inf),
    schema.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
    schema.ActivationFunctionType.RELU6: (0.0, 6.0),
}
_BUILTIN_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file; `scale` is float32[C] (C = 1 per tensor) or empty when unquantized."""

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype
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


@dataclass(frozen=True)
class Node:
    """One operator with the values of its inputs."""

    name: str
    options: Any
    inputs: tuple[Tensor | None, ...]
    values: tuple[np.ndarray | None, ...]
    output: Tensor

    def unsupported(self, reason: str) -> NotImplementedError:
        return NotImplementedError(f"{self.name} (output tensor {self.output.index}): {reason}")


_OPERATORS: dict[str, Callable[[Node], np.ndarray]] = {}


def run_reference(model_bytes: bytes, inputs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Every tensor of subgraph 0, constants included, by tensor index.

    Args:
        model_bytes: The .tflite file.
        inputs: One array per graph input, of its dtype; the batch may differ from the file's.

    Returns:
        {tensor index: value}; INT4 constants come unpacked as int8.

    Raises:
        NotImplementedError: An operator, or a mix of dtypes, without a reference.
    """
    model = schema.ModelT.InitFromPackedBuf(model_bytes, 0)
    graph = model.subgraphs[0]
    tensors = [_read_tensor(model, graph, index) for index in range(len(graph.tensors))]
    values = {t.index: t.constant for t in tensors if t.constant is not None}
    for index, value in zip(graph.inputs, inputs, strict=True):
        if value.dtype != tensors[index].dtype:
            raise TypeError(f"input {index} must be {tensors[index].dtype}, got {value.dtype}")
        values[int(index)] = value
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        # Files older than the 127th operator keep the code in the deprecated byte only.
        name = _BUILTIN_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if name not in _OPERATORS:
            raise NotImplementedError(f"operator {name} has no numpy reference")
        if len(operator.outputs) != 1:
            raise NotImplementedError(f"operator {name} has {len(operator.outputs)} outputs")
        output = tensors[operator.outputs[0]]
        node = Node(
            name=name,
            options=operator.builtinOptions,
            inputs=tuple(tensors[i] if i >= 0 else None for i in operator.inputs),
            values=tuple(values[int(i)] if i >= 0 else None for i in operator.inputs),
            output=output,
        )
        values[output.index] = _OPERATORS[name](node).astype(output.dtype)
    return values


def run_litert(model_bytes: bytes, inputs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Every tensor computed from the inputs, by index, from LiteRT with its XNNPACK default."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=expose_all_tensors(model_bytes), num_threads=1)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return {
        detail["index"]: interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_output_details()
    }


def expose_all_tensors(model_bytes: bytes) -> bytes:
    """The same file with every tensor computed from its inputs listed as a graph output.

    A delegated partition only materializes the tensors that leave it; graph outputs always do.
    The file's own outputs stay first, in their order. What depends on constants alone, such as
    dequantized weights, stays hidden: XNNPACK folds it and leaves garbage in that tensor.
    """
    model = schema.ModelT.InitFromPackedBuf(model_bytes, 0)
    graph = model.subgraphs[0]
    fed, computed = set(graph.inputs.tolist()), []
    for operator in graph.operators:
        if not fed.isdisjoint(operator.inputs.tolist()):
            computed += operator.outputs.tolist()
            fed.update(operator.outputs.tolist())
    outputs = dict.fromkeys([*graph.outputs.tolist(), *computed])
    graph.outputs = np.asarray(list(outputs), np.int32)
    return pack(model)


def _read_tensor(model: Any, graph: Any, index: int) -> Tensor:
    tensor = graph.tensors[index]
    if tensor.type not in _DTYPES:
        raise NotImplementedError(f"tensor {index} has TensorType {tensor.type}")
    shape = tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ()
    quantization = tensor.quantization
    scale = zero_point = None
    if quantization is not None:
        scale, zero_point = quantization.scale, quantization.zeroPoint
    scale = np.asarray(scale if scale is not None else [], np.float32)
    zero_point = np.asarray(zero_point if zero_point is not None else [], np.int64)
    data = model.buffers[tensor.buffer].data
    constant = None
    if data is not None and len(data):
        raw = np.asarray(data, np.uint8)
        if tensor.type == schema.TensorType.INT4:
            nibbles = np.stack([raw & 15, raw >> 4], axis=1).ravel()[: int(np.prod(shape))]
            constant = ((nibbles.astype(np.int8) ^ 8) - 8).reshape(shape)
        else:
            constant = raw.view(_DTYPES[tensor.type]).reshape(shape)
    return Tensor(
        index=index,
        shape=shape,
        dtype=_DTYPES[tensor.type],
        scale=scale,
        zero_point=zero_point,
        axis=int(quantization.quantizedDimension) if quantization is not None else 0,
        constant=constant,
    )


# --- what the integer operators share ---


def _centred(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    """q - zero_point as int64."""
    return value.astype(np.int64) - _per_axis(tensor.zero_point, tensor, value.ndim)


def _per_axis(parameter: np.ndarray, tensor: Tensor, rank: int) -> np.ndarray:
    if parameter.size == 1:
        return parameter[0]
    return parameter.reshape([-1 if axis == tensor.axis else 1 for axis in range(rank)])


def _scalar(tensor: Tensor) -> tuple[np.float32, int]:
    """The (scale, zero point) of a per-tensor quantized tensor."""
    if tensor.scale.size != 1:
        raise NotImplementedError(f"tensor {tensor.index} must have one scale")
    return tensor.scale[0], int(tensor.zero_point[0])


def _integer_bounds(activation: int, tensor: Tensor) -> tuple[int, int]:
    """The fused activation as a range of q: round(bound/scale + zero point) in float32."""
    scale, zero_point = _scalar(tensor)
    limits = np.iinfo(tensor.dtype)
    low, high = (
        int(np.rint(np.clip(np.float32(bound) / scale + np.float32(zero_point), *_pair(limits))))
        for bound in _ACTIVATION_BOUNDS[activation]
    )
    return low, high


def _builtin_bounds(bounds: tuple[float, float], tensor: Tensor) -> tuple[int, int]:
    """The same range in the builtin kernels: zero point + round_half_away(bound/scale)."""
    scale, zero_point = _scalar(tensor)
    limits = np.iinfo(tensor.dtype)
    low, high = (
        int(np.clip(_round_half_away(np.float32(bound) / scale) + zero_point, *_pair(limits)))
        for bound in bounds
    )
    return low, high


def _pair(limits: np.iinfo) -> tuple[np.float32, np.float32]:
    return np.float32(limits.min), np.float32(limits.max)


def _round_half_away(x: Any) -> Any:
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def _scale_ratio(node: Node, source: Tensor, low: float, high: float) -> np.float32:
    """float32(s_in / s_out); outside [low, high) the operator would not be in XNNPACK."""
    ratio = _scalar(source)[0] / _scalar(node.output)[0]
    if not low <= ratio < high:
        raise node.unsupported(f"scale ratio {ratio} is outside [{low}, {high})")
    return ratio


def _requantized(accumulator: np.ndarray, multiplier: np.ndarray, node: Node) -> np.ndarray:
    """clip(rint(float32(acc) * float32(multiplier)) + zp_out) to the fused activation."""
    scaled = accumulator.astype(np.float32) * np.asarray(multiplier, np.float32)
    return _integer_output(np.rint(scaled).astype(np.int64) + _scalar(node.output)[1], node)


def _integer_output(q: np.ndarray, node: Node) -> np.ndarray:
    return np.clip(q, *_integer_bounds(_activation(node), node.output))


def _float_output(real: np.ndarray, node: Node) -> np.ndarray:
    low, high = _ACTIVATION_BOUNDS[_activation(node)]
    return np.clip(real.astype(np.float32), np.float32(low), np.float32(high))


def _activation(node: Node) -> int:
    return getattr(node.options, "fusedActivationFunction", schema.ActivationFunctionType.NONE)


def _kind(node: Node, operands: int) -> str:
    """Name the arithmetic, "int8" or "float", of the first `operands` inputs and the output."""
    involved = [*node.inputs[:operands], node.output]
    if all(t.is_float for t in involved):
        return "float"
    if all(t.is_quantized for t in involved):
        return "int8"
    raise node.unsupported("inputs and output mix " + ", ".join(str(t.dtype) for t in involved))


def _operator(*names: str) -> Callable[[Callable], Callable]:
    def register(function: Callable[[Node], np.ndarray]) -> Callable[[Node], np.ndarray]:
        _OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


# --- convolutions and FULLY_CONNECTED ---


def _windows(
    x: np.ndarray,
    size: tuple[int, int],
    options: Any,
    fill: float = 0,
    dilation: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """[N,H,W,C] -> [N,outH,outW,C,kh,kw], SAME padding (more at the end) filled with `fill`."""
    stride = (options.strideH, options.strideW)
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    pads = [(0, 0)] * 4
    if options.padding == schema.Padding.SAME:
        for axis in (0, 1):
            length = x.shape[1 + axis]
            steps = -(-length // stride[axis])
            total = max((steps - 1) * stride[axis] + reach[axis] - length, 0)
            pads[1 + axis] = (total // 2, total - total // 2)
    padded = np.pad(x, pads, constant_values=fill)
    views = sliding_window_view(padded, reach, axis=(1, 2))
    return views[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def _conv_2d(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    options = node.options
    dilation = (options.dilationHFactor, options.dilationWFactor)
    views = _windows(x, w.shape[1:3], options, dilation=dilation)
    groups = x.shape[-1] // w.shape[-1]
    columns = np.split(views, groups, axis=3)
    kernels = np.split(w.transpose(3, 1, 2, 0).reshape(-1, w.shape[0]), groups, axis=1)
    return np.concatenate(
        [c.reshape(*views.shape[:3], -1) @ k for c, k in zip(columns, kernels, strict=True)],
        axis=-1,
    )


def _depthwise_conv_2d(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    options = node.options
    dilation = (options.dilationHFactor, options.dilationWFactor)
    views = _windows(x, w.shape[1:3], options, dilation=dilation)
    # Output channel c * multiplier + m reads input channel c.
    kernel = w.reshape(*w.shape[1:3], x.shape[-1], -1)
    product = np.einsum("nhwcij,ijcm->nhwcm", views, kernel, optimize=True)
    return product.reshape(*views.shape[:3], -1)


def _fully_connected(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    product = x.reshape(-1, w.shape[1]) @ w.T
    return product.reshape(*x.shape[:-1], -1) if node.options.keepNumDims else product


_PRODUCTS = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
}


@_operator(*_PRODUCTS)
def _weighted(node: Node) -> np.ndarray:
    x, w = node.values[:2]
    bias = node.values[2] if len(node.values) > 2 and node.values[2] is not None else 0
    if _kind(node, 2) == "float":
        product = _PRODUCTS[node.name](node, x.astype(np.float64), w.astype(np.float64))
        return _float_output(product + bias, node)
    # Sums of int8 products stay far below 2^53, so float64 (and its fast matmul) is exact.
    product = _PRODUCTS[node.name](
        node,
        _centred(x, node.inputs[0]).astype(np.float64),
        _centred(w, node.inputs[1]).astype(np.float64),
    )
    multiplier = _scalar(node.inputs[0])[0] * node.inputs[1].scale / _scalar(node.output)[0]
    return _requantized(product + bias, multiplier, node)


# --- elementwise ---


@_operator("ADD", "SUB")
def _add_sub(node: Node) -> np.ndarray:
    a, b = node.values
    if _kind(node, 2) == "float":
        return _float_output(a + b if node.name == "ADD" else a - b, node)
    (_, zero_a), (_, zero_b), (_, zero_out) = map(_scalar, (*node.inputs, node.output))
    ratio_a, ratio_b = (_scale_ratio(node, t, 2.0**-10, 2.0**8) for t in node.inputs)
    shift = 20 - (int(np.frexp(max(ratio_a, ratio_b))[1]) - 1)
    # A float32 times a power of two is exact, so this is one rounding to an integer.
    factor_a, factor_b = (int(np.rint(np.float64(r) * 2.0**shift)) for r in (ratio_a, ratio_b))
    if node.name == "SUB":
        factor_b = -factor_b
    bias = (1 << (shift - 1)) - factor_a * zero_a - factor_b * zero_b
    total = a.astype(np.int64) * factor_a + b.astype(np.int64) * factor_b + bias
    return _integer_output((total >> shift) + zero_out, node)


@_operator("MUL")
def _mul(node: Node) -> np.ndarray:
    a, b = node.values
    if _kind(node, 2) == "float":
        return _float_output(a * b, node)
    product = _centred(a, node.inputs[0]) * _centred(b, node.inputs[1])
    scale_a, scale_b = node.inputs[0].scale[0], node.inputs[1].scale[0]
    return _requantized(product, scale_a * scale_b / _scalar(node.output)[0], node)


@_operator("MINIMUM", "MAXIMUM")
def _minimum_maximum(node: Node) -> np.ndarray:
    _same_grid(node, node.inputs)
    return (np.minimum if node.name == "MINIMUM" else np.maximum)(*node.values)


@_operator("ROUND")
def _round(node: Node) -> np.ndarray:
    return np.rint(node.values[0])


_RELU_BOUNDS = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


@_operator(*_RELU_BOUNDS)
def _relu(node: Node) -> np.ndarray:
    (x,) = node.values
    if _kind(node, 1) == "float":
        return np.clip(x, *map(np.float32, _RELU_BOUNDS[node.name]))
    (scale_in, _), (scale_out, zero_out) = _scalar(node.inputs[0]), _scalar(node.output)
    q = _doubly_rounded(_centred(x, node.inputs[0]), float(scale_in / scale_out)) + zero_out
    return np.clip(q, *_builtin_bounds(_RELU_BOUNDS[node.name], node.output))


def _doubly_rounded(x: np.ndarray, multiplier: float) -> np.ndarray:
    """x * multiplier as the builtin kernels do it: a 31-bit product, rounded twice."""
    mantissa, exponent = np.frexp(multiplier)
    fixed = int(_round_half_away(mantissa * 2.0**31))
    if fixed == 1 << 31:
        fixed, exponent = fixed >> 1, exponent + 1
    left, right = max(int(exponent), 0), max(-int(exponent), 0)
    product = (x << left) * fixed
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    # C++ division truncates towards zero, unlike a shift.
    high = np.sign(product + nudge) * (np.abs(product + nudge) >> 31)
    remainder = high & ((1 << right) - 1)
    threshold = (((1 << right) - 1) >> 1) + (high < 0)
    return (high >> right) + (remainder > threshold)


def _tabulated(node: Node, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    (x,) = node.values
    if _kind(node, 1) == "float":
        return function(x.astype(np.float64)).astype(np.float32)
    scale_out, zero_out = _scalar(node.output)
    real = _centred(x, node.inputs[0]) * np.float64(_scalar(node.inputs[0])[0])
    q = np.rint(function(real) / np.float64(scale_out)) + zero_out
    limits = np.iinfo(node.output.dtype)
    return np.clip(q, limits.min, limits.max)


@_operator("LOGISTIC")
def _logistic(node: Node) -> np.ndarray:
    return _tabulated(node, lambda x: 1 / (1 + np.exp(-x)))


@_operator("TANH")
def _tanh(node: Node) -> np.ndarray:
    return _tabulated(node, np.tanh)


@_operator("SOFTMAX")
def _softmax(node: Node) -> np.ndarray:
    (x,) = node.values
    if _kind(node, 1) == "float":
        below = (x - x.max(axis=-1, keepdims=True)).astype(np.float64)
        powers = np.exp(below * node.options.beta)
        return powers / powers.sum(axis=-1, keepdims=True)
    scale_in, _ = _scalar(node.inputs[0])
    scale_out, zero_out = _scalar(node.output)
    # The builtin kernel tabulates exp in float32, then sums and rescales in float32.
    below = x.astype(np.int32) - x.max(axis=-1, keepdims=True).astype(np.int32)
    exponent = below.astype(np.float32) * (scale_in * np.float32(node.options.beta))
    powers = np.exp(exponent.astype(np.float64)).astype(np.float32)
    total = np.cumsum(powers, axis=-1, dtype=np.float32)[..., -1:]
    share = powers * (np.float32(1) / (total * scale_out))
    limits = np.iinfo(node.output.dtype)
    return np.clip(_round_half_away(share) + zero_out, limits.min, limits.max)


# --- pools and reductions ---


@_operator("MAX_POOL_2D")
def _max_pool(node: Node) -> np.ndarray:
    (x,) = node.values
    kind = _kind(node, 1)
    lowest = -np.inf if kind == "float" else np.iinfo(x.dtype).min
    size = (node.options.filterHeight, node.options.filterWidth)
    largest = _windows(x, size, node.options, lowest).max(axis=(-2, -1))
    if kind == "float":
        return _float_output(largest, node)
    _same_grid(node, node.inputs)
    return _integer_output(largest, node)


@_operator("AVERAGE_POOL_2D")
def _average_pool(node: Node) -> np.ndarray:
    (x,) = node.values
    size = (node.options.filterHeight, node.options.filterWidth)
    # Padded positions count neither in the sum nor in the divisor.
    count = _windows(np.ones_like(x, np.int64), size, node.options).sum(axis=(-2, -1))
    if _kind(node, 1) == "float":
        total = _windows(x.astype(np.float64), size, node.options).sum(axis=(-2, -1))
        return _float_output(total / count, node)
    _same_grid(node, node.inputs)
    total = _windows(x.astype(np.int64), size, node.options).sum(axis=(-2, -1))
    # The builtin kernel rounds half away from zero on q itself, zero point included.
    q = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return np.clip(q, *_builtin_bounds(_ACTIVATION_BOUNDS[_activation(node)], node.output))


@_operator("MEAN")
def _mean(node: Node) -> np.ndarray:
    x, axes = node.values
    axes = tuple(int(axis) % x.ndim for axis in np.ravel(axes))
    keep = bool(node.options.keepDims)
    if _kind(node, 1) == "float":
        return x.astype(np.float64).mean(axis=axes, keepdims=keep)
    (scale_in, zero_in), (scale_out, zero_out) = _scalar(node.inputs[0]), _scalar(node.output)
    total = x.astype(np.int64).sum(axis=axes, keepdims=keep)
    count = int(np.prod([x.shape[axis] for axis in axes]))
    multiplier = scale_in / scale_out * (np.float32(1) / np.float32(count))
    # Unlike the convolutions, both zero points enter in float32 before the rounding.
    offset = np.float32(zero_out) - np.float32(zero_in * count) * multiplier
    return _integer_output(np.rint(total.astype(np.float32) * multiplier + offset), node)


# --- data movement ---


def _same_grid(node: Node, sources: Sequence[Tensor]) -> None:
    """A kernel that moves q unchanged needs one scale and zero point throughout."""
    if _kind(node, len(sources)) == "int8":
        for tensor in sources:
            if _scalar(tensor) != _scalar(node.output):
                raise node.unsupported(f"tensor {tensor.index} has another scale or zero point")


@_operator("CONCATENATION")
def _concatenation(node: Node) -> np.ndarray:
    _same_grid(node, node.inputs)
    if _activation(node) != schema.ActivationFunctionType.NONE:
        raise node.unsupported("LiteRT ignores the fused activation of a CONCATENATION")
    return np.concatenate(node.values, axis=node.options.axis)


@_operator("PAD", "PADV2")
def _pad(node: Node) -> np.ndarray:
    x, widths = node.values[:2]
    fill = 0 if node.output.is_float else _scalar(node.output)[1]
    _same_grid(node, node.inputs[:1])
    if node.name == "PADV2":
        fill = node.values[2].item()
    return np.pad(x, widths.astype(np.int64), constant_values=fill)


@_operator("RESHAPE")
def _reshape(node: Node) -> np.ndarray:
    (x,) = node.values[:1]
    shape = list(node.output.shape)
    # A larger batch than the file's goes to the leading dimension.
    if x.size != np.prod(shape):
        shape[0] = -1
    return x.reshape(shape)


@_operator("TRANSPOSE")
def _transpose(node: Node) -> np.ndarray:
    return node.values[0].transpose(node.values[1])


@_operator("QUANTIZE")
def _quantize(node: Node) -> np.ndarray:
    (x,) = node.values
    (source,) = node.inputs
    scale, zero_point = _scalar(node.output)
    if source.is_float:
        return _integer_output(np.rint(x * (np.float32(1) / scale)) + zero_point, node)
    # The int8 converter carries the scale ratio with 8 fractional bits.
    factor = int(np.rint(np.float32(256) * _scale_ratio(node, source, 2.0**-8, 2.0**7)))
    return _integer_output(((_centred(x, source) * factor + 128) >> 8) + zero_point, node)


@_operator("DEQUANTIZE")
def _dequantize(node: Node) -> np.ndarray:
    (x,), (source,) = node.values, node.inputs
    if source.is_float:
        return x.astype(np.float32)
    return _centred(x, source).astype(np.float32) * _per_axis(source.scale, source, x.ndim)
