"""Run a .tflite file over many images, and ask LiteRT which operators it left to XNNPACK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from integer_reference import expose_all_tensors

from tflite_ptq4.benchmark.interpreters import operators_left

# Both interpreters with their XNNPACK default, and LiteRT with its portable kernels instead.
RUNTIMES = ("litert", "tensorflow", "litert_reference")


def interpreter(data: bytes, runtime: str = "litert") -> Any:
    """An interpreter of one of `RUNTIMES`, ready to run."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    options: dict[str, Any] = {"num_threads": 1}
    if runtime == "tensorflow":
        from tensorflow import lite

        Interpreter = lite.Interpreter
    elif runtime == "litert_reference":
        options["experimental_op_resolver_type"] = OpResolverType.BUILTIN_REF
    ready = Interpreter(model_content=data, **options)
    ready.allocate_tensors()
    return ready


def as_stored(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Float images as an input takes them: quantized, where it is one of integers."""
    if detail["dtype"] != np.int8:
        return values
    scale, zero_point = detail["quantization"]
    steps = np.rint(values * (np.float32(1) / np.float32(scale))) + zero_point
    return np.clip(steps, -128, 127).astype(np.int8)


def outputs(data: bytes, images: Sequence[np.ndarray], runtime: str = "litert") -> list[np.ndarray]:
    """The outputs of a file in their order, one image after the other.

    Args:
        data: the file.
        images: for each input of the file its images, [n, ...].
        runtime: one of `RUNTIMES`.

    Returns:
        For each output an array [n, ...].
    """
    return [values for _, values in _run(data, images, runtime)]


def computed_tensors(data: bytes, images: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Every tensor that LiteRT computes from the inputs, by index, [n, ...] over the images."""
    return dict(_run(expose_all_tensors(data), images, "litert"))


def _run(data: bytes, images: Sequence[np.ndarray], runtime: str) -> list[tuple[int, np.ndarray]]:
    """Index and values of each output; one tensor may be several of them."""
    ready = interpreter(data, runtime)
    indices = [detail["index"] for detail in ready.get_output_details()]
    found: list[list[np.ndarray]] = [[] for _ in indices]
    for position in range(len(images[0])):
        for detail, values in zip(ready.get_input_details(), images, strict=True):
            ready.set_tensor(detail["index"], values[position : position + 1])
        ready.invoke()
        for index, values in zip(indices, found, strict=True):
            values.append(ready.get_tensor(index))
    return [(i, np.concatenate(values)) for i, values in zip(indices, found, strict=True)]


def operators_outside_xnnpack(data: bytes) -> list[str]:
    """The operators that LiteRT computes with its builtin kernels, by name."""
    return operators_left(interpreter(data))


def int8_tensors(data: bytes) -> dict[int, tuple[float, int]]:
    """Index -> (scale, zero point) of the int8 tensors of a file that are no constants."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    found = {}
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        content = model.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.INT8 and (content is None or len(content) == 0):
            quantization = tensor.quantization
            found[index] = (float(quantization.scale[0]), int(quantization.zeroPoint[0]))
    return found


def operator_names(data: bytes) -> list[str]:
    """The builtin names of a file's operators, in the order of execution."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [names[codes[operator.opcodeIndex]] for operator in model.subgraphs[0].operators]


def buffer_offsets(data: bytes) -> list[int]:
    """Where in the file the data of each buffer that holds any begins."""
    root = schema.Model.GetRootAs(data, 0)
    buffers = [root.Buffers(index) for index in range(root.BuffersLength())]
    return [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]
