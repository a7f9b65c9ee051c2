"""Reading a written file back, and holding it against the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.export_source import ExportSource, FloatFileReader
from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.converters.schema import TensorT, TensorType
from tflite_ptq4.converters.weight_layout import WEIGHT_AXES, input_places, weights_for_operator
from tflite_ptq4.errors import ReadbackError
from tflite_ptq4.graph import Node
from tflite_ptq4.operator_rules import TIE_NUDGE
from tflite_ptq4.plan import INT8_MIN, TensorPlan
from tflite_ptq4.weights.kernel_layout import along_outputs
from tflite_ptq4.weights.layer_weights import LayerWeights, weight_grid


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
    """Read a file and compare it with what was to be written.

    Of each layer with weights: integers or floats, biases, scales and zero points. Of each planned
    tensor: scale and zero point where it is int8, the constants of its rounding where it is float.

    Args:
        data: the file.
        source: what it was written from.
        target: the target that it was written for.

    Raises:
        ReadbackError: a layer or a tensor is missing, or holds other numbers than planned.
    """
    editor = GraphEditor(parse(data))
    check_tensor = _check_rounding if target == "float_simulated" else _check_int8
    found: dict[str, list[int]] = {}
    for index, tensor in enumerate(editor.tensors):
        found.setdefault(tensor.name.decode(), []).append(index)
    for names in _names_of_one_tensor(source):
        for name in names:
            if name in source.plan.tensors:
                check_tensor(editor, found, source, source.plan.tensors[name], names)
    written = _written_layers(editor)
    nodes = {node.name: node for node in source.graph.nodes}
    for name, weights in source.weights.items():
        node = nodes[name]
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


def _names_of_one_tensor(source: ExportSource) -> list[list[str]]:
    """The graph's tensors, those together that are one in the file, the computed one first.

    Of an operator that does nothing, a file has no more than the tensor that it reads. It bears the
    last of the names.
    """
    names: dict[int, list[str]] = {}
    for name, index in FloatFileReader(source).index.items():
        names.setdefault(index, []).append(name)
    return list(names.values())


def _check_int8(
    editor: GraphEditor,
    found: dict[str, list[int]],
    source: ExportSource,
    plan: TensorPlan,
    names: list[str],
) -> None:
    """A planned tensor is int8, or, where it is computed in float, has an int8 form beside it."""
    zero_points = {
        "": plan.stored_zero_point,
        "/quantized": plan.stored_zero_point,
        # The first of a pair saturates at the lower end of the levels.
        "/unclipped": INT8_MIN - plan.lower,
        "/quantized/unclipped": INT8_MIN - plan.lower,
    }
    forms = 0
    for ending, zero_point in zero_points.items():
        if ending and names[-1] + ending in source.graph.shapes:
            continue  # a layer of that name
        for index in found.get(names[-1] + ending, []):
            tensor = editor.tensors[index]
            if tensor.type != TensorType.INT8:
                continue
            forms += not ending.endswith("/unclipped")
            stored = tensor.quantization
            scale = plan.scale.astype(np.float32)
            if not (np.array_equal(stored.zeroPoint, zero_point) and _same(stored.scale, scale)):
                raise _other_tensor(
                    "scale and zero point", plan, f"{stored.scale} and {stored.zeroPoint}"
                )
    if not forms:
        raise _other_tensor("integers", plan, "no int8 tensor of that name")


def _check_rounding(
    editor: GraphEditor,
    found: dict[str, list[int]],
    source: ExportSource,
    plan: TensorPlan,
    names: list[str],
) -> None:
    """A planned tensor goes through its rounding, or moves values that have gone through it."""
    name = names[0]
    producer = source.graph.producer.get(name)
    moves = producer is not None and not producer.rule.rounds
    if moves and source.plan.layer(producer.name).quantized:
        return
    scale = plan.scale.astype(np.float32)
    expected = {
        "inverse_scale": np.float32(1.0) / scale,
        "upper": plan.upper,
        "lower": plan.lower,
        "scale": scale,
    }
    if name in source.graph.nonnegative and not np.any(plan.lower):
        del expected["lower"]
    if producer is not None and producer.rule.interpolates:
        expected["stored_zero"] = plan.stored_zero_point
        expected["nudge_up"], expected["nudge_down"] = [TIE_NUDGE], [-TIE_NUDGE]
    for what, values in expected.items():
        constants = [editor.constant(index) for index in found.get(f"{name}/{what}", [])]
        constants = [constant for constant in constants if constant is not None]
        if not constants:
            raise _other_tensor(f"constant {what!r}", plan, "none of that name")
        for constant in constants:
            if not np.array_equal(constant.ravel(), np.asarray(values, dtype=np.float32)):
                raise _other_tensor(f"constant {what!r}", plan, f"{constant.ravel()}")


def _other_tensor(what: str, plan: TensorPlan, received: str) -> ReadbackError:
    return ReadbackError(
        f"The written file must hold the planned {what} of tensor {plan.name!r}. Received: "
        f"{received}. Please report this model."
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
    _require(node, "offsets", not np.any(weights.offset))
    _require(node, "integers", np.array_equal(layer.kernel, expected))
    stored = layer.kernel_tensor.quantization
    _require(node, "weight scales", _same(stored.scale, scale))
    _require(node, "weight zero points", np.array_equal(stored.zeroPoint, np.zeros(len(scale))))
    _require(node, "biases", np.array_equal(layer.bias, weights.bias_integers(plan)))
    bias_scale = (plan.scale * weights.scale).astype(np.float32)
    _require(node, "bias scales", _same(layer.bias_tensor.quantization.scale, bias_scale))
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
