"""Reading a written file back, and holding it against the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.export_source import ExportSource
from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.converters.schema import TensorT, TensorType
from tflite_ptq4.converters.weight_layout import WEIGHT_AXES, input_places, weights_for_operator
from tflite_ptq4.errors import ReadbackError
from tflite_ptq4.graph import Node
from tflite_ptq4.kernel_layout import along_outputs
from tflite_ptq4.layer_weights import LayerWeights, weight_grid


@dataclass(frozen=True, eq=False)
class _WrittenLayer:
    """A layer with weights as the file holds it."""

    builtin: int
    kernel: NDArray
    kernel_tensor: TensorT
    bias: NDArray
    bias_tensor: TensorT
    input_tensor: TensorT


def check_file(data: bytes, source: ExportSource, *, target: str) -> None:
    """Read a file and compare weights, biases, scales and zero points with what was to be written.

    Args:
        data: the file.
        source: what it was written from.
        target: the target that it was written for.

    Raises:
        ReadbackError: a layer is missing, or holds other numbers than planned.
    """
    editor = GraphEditor(parse(data))
    if target != "float_simulated":
        _check_tensors(editor, source)
    written = _written_layers(editor)
    for name, weights in source.weights.items():
        node = next(node for node in source.graph.nodes if node.name == name)
        if name not in written:
            raise ReadbackError(
                f"The written file must hold layer {name!r}. Received: none of it among "
                f"{len(written)} layers. Please report this model."
            )
        layer = written[name]
        if target == "float_simulated":
            _check_float(node, weights, layer, source)
        else:
            _check_integers(node, weights, layer, source)


def _check_tensors(editor: GraphEditor, source: ExportSource) -> None:
    """Hold every activation that has a planned tensor's name against the plan."""
    for tensor in editor.tensors:
        plan = source.plan.tensors.get(tensor.name.decode())
        if plan is None or tensor.type != TensorType.INT8:
            continue
        stored = tensor.quantization
        same_zero = np.array_equal(stored.zeroPoint, plan.stored_zero_point)
        if not (same_zero and _same(stored.scale, plan.scale.astype(np.float32))):
            raise ReadbackError(
                f"The written file must hold the planned scale and zero point of tensor "
                f"{plan.name!r}. Received: {stored.scale} and {stored.zeroPoint}. Please report "
                "this model."
            )


def _written_layers(editor: GraphEditor) -> dict[str, _WrittenLayer]:
    found = {}
    for operator in editor.graph.operators:
        builtin = editor.builtin_code(operator)
        places = input_places(builtin)
        if builtin not in WEIGHT_AXES or len(operator.inputs) <= max(places):
            continue
        indices = [int(operator.inputs[place]) for place in places]
        tensors = [editor.tensors[index] for index in indices]
        kernel_name = tensors[1].name.decode()
        if kernel_name.endswith("/kernel"):
            found[kernel_name.removesuffix("/kernel")] = _WrittenLayer(
                builtin=builtin,
                kernel=editor.constant(indices[1]),
                kernel_tensor=tensors[1],
                bias=editor.constant(indices[2]),
                bias_tensor=tensors[2],
                input_tensor=tensors[0],
            )
    return found


def _check_integers(
    node: Node, weights: LayerWeights, layer: _WrittenLayer, source: ExportSource
) -> None:
    expected = _arranged(node, weights.integers, layer)
    scale = weights.scale.astype(np.float32)
    plan = source.plan.tensors[node.inputs[0]]
    _require(node, "integers", np.array_equal(layer.kernel, expected))
    _require(node, "weight scales", _same(layer.kernel_tensor.quantization.scale, scale))
    _require(node, "biases", np.array_equal(layer.bias, weights.bias_integers(plan)))
    stored = layer.input_tensor.quantization
    _require(node, "input scale", _same(stored.scale, plan.scale.astype(np.float32)))
    zero_point = plan.stored_zero_point
    _require(node, "input zero point", np.array_equal(stored.zeroPoint, zero_point))
    bits = source.plan.layer(node.name).weight_bits
    limit = _arranged(node, np.broadcast_to(_limits(node, bits), node.kernel.shape), layer)
    _require(node, "bit widths", bool(np.all(np.abs(layer.kernel.astype(np.int32)) <= limit)))


def _check_float(
    node: Node, weights: LayerWeights, layer: _WrittenLayer, source: ExportSource
) -> None:
    expected = _arranged(node, weights.dequantized(node), layer)
    _require(node, "weights", np.array_equal(layer.kernel, expected))
    bias = weights.stored_bias(source.plan.tensors.get(node.inputs[0]))
    _require(node, "biases", np.array_equal(layer.bias, bias))


def _limits(node: Node, bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """The largest integer of each weight's grid, in a shape that broadcasts to the kernel."""
    return along_outputs(node, weight_grid(bits).qmax)


def _arranged(node: Node, values: NDArray, layer: _WrittenLayer) -> NDArray:
    return weights_for_operator(node, values, layer.builtin, layer.kernel.shape)


def _same(received: NDArray, expected: NDArray) -> bool:
    return np.array_equal(np.asarray(received, dtype=np.float32), expected)


def _require(node: Node, what: str, holds: bool) -> None:
    if not holds:
        raise ReadbackError(
            f"The written file must hold the planned {what} of layer {node.name!r}. Received: "
            "others. Please report this model."
        )
