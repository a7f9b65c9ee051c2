from __future__ import annotations

import copy

import numpy as np
import pytest
from small_networks import int8_conv

from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.converters.schema import BuiltinOperator, TensorType

KERNEL = np.arange(-4, 5).reshape(1, 3, 3, 1).astype(np.int8)


@pytest.fixture
def editor() -> GraphEditor:
    return GraphEditor(parse(int8_conv(KERNEL)))


def test_constants_are_read_and_computed_tensors_are_not(editor: GraphEditor) -> None:
    np.testing.assert_array_equal(editor.constant(1), KERNEL)
    assert editor.constant(0) is None
    assert editor.constant(3) is None


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int32, np.int64, np.bool_])
def test_an_added_constant_reads_back(editor: GraphEditor, dtype: type) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    index = editor.add_constant("added", values)
    read = editor.constant(index)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == dtype


def test_finish_drops_what_nothing_refers_to(editor: GraphEditor) -> None:
    editor.add_constant("idle", np.zeros(100, np.float32))
    twin = editor.twin(3, "/float", TensorType.FLOAT32)
    editor.keep(editor.graph.operators[0])
    editor.append(BuiltinOperator.DEQUANTIZE, 2, [3], [twin])
    editor.set_interface({"image": 0}, [("result", twin)])
    model = editor.finish()
    graph = model.subgraphs[0]
    names = [tensor.name for tensor in graph.tensors]
    assert b"idle" not in names
    assert len(names) == 5
    assert len(model.buffers) == 3  # the empty one, kernel, bias
    assert [t.buffer for t in graph.tensors] == [0, 1, 2, 0, 0]
    (signature,) = model.signatureDefs
    assert [(e.name, e.tensorIndex) for e in signature.outputs] == [(b"result", graph.outputs[0])]


def test_operators_of_one_kind_and_version_share_their_code(editor: GraphEditor) -> None:
    twins = [editor.twin(3, f"/{n}", TensorType.FLOAT32) for n in range(3)]
    editor.keep(editor.graph.operators[0])
    for version, twin in zip((2, 2, 3), twins, strict=True):
        editor.append(BuiltinOperator.DEQUANTIZE, version, [3], [twin])
    editor.set_interface({"image": 0}, [(f"r{t}", t) for t in twins])
    model = editor.finish()
    assert [o.opcodeIndex for o in model.subgraphs[0].operators] == [0, 1, 1, 2]
    assert [c.version for c in model.operatorCodes[1:]] == [2, 3]


def test_an_optional_input_that_is_absent_stays_absent(editor: GraphEditor) -> None:
    operator = editor.graph.operators[0]
    operator.inputs = np.array([0, 1, -1], dtype=np.int32)
    editor.keep(operator)
    editor.set_interface({"image": 0}, [("result", 3)])
    assert editor.finish().subgraphs[0].operators[0].inputs[2] == -1


def test_finish_keeps_what_other_graphs_refer_to(editor: GraphEditor) -> None:
    """Buffers and operator codes are of the model, not of its first graph: a loop has two more."""
    body = copy.deepcopy(editor.graph)
    editor.model.subgraphs.append(body)
    idle = editor.add_constant("idle", np.zeros(100, np.float32))
    scale = editor.add_constant("idle too", np.ones(1, np.float32))
    body.operators[0].opcodeIndex = editor.opcode(BuiltinOperator.MUL, 1)
    body.tensors[1].buffer = editor.tensors[scale].buffer
    dropped = editor.tensors[idle].buffer
    editor.keep(editor.graph.operators[0])
    editor.set_interface({"image": 0}, [("result", 3)])
    model = editor.finish()
    assert body.tensors[1].buffer < len(model.buffers) == dropped + 1
    np.testing.assert_array_equal(
        np.asarray(model.buffers[body.tensors[1].buffer].data).view(np.float32), [1.0]
    )
    assert model.operatorCodes[body.operators[0].opcodeIndex].builtinCode == BuiltinOperator.MUL
    assert [operator.opcodeIndex for operator in model.subgraphs[0].operators] == [0]
