"""The tensors of a file as LiteRT computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from tiny_tflite import pack


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
