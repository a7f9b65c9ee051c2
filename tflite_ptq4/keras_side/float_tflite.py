"""The float network as a .tflite file in which every tensor of the graph can be found again.

Lowering and fusion are TFLiteConverter's work, one operator of the graph at a time: all of them go
into one conversion, but each reads inputs of its own. So nothing is optimised across operators, and
the file's signature says which of its tensors is which; names in the file are unreliable.

Large kernels that are quantized, and so replaced in every target, are not converted: one number
stands in for all of a kernel's weights. TensorFlow keeps such a constant as a single number, where
the weights would be copied ten times on their way, which took most of the memory and of the time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Collection, Mapping

import keras
import numpy as np
import tensorflow as tf

from tflite_ptq4.errors import ModelError
from tflite_ptq4.float_file import FloatFile
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.keras_side.execution import run_node
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.keras_side.tensor_specs import tensor_specs

LARGE_KERNEL = 1 << 14  # weights; smaller kernels are converted as they are


def to_float_tflite(
    lowered: LoweredModel,
    input_shapes: Mapping[str, tuple[int, ...]],
    replaced: Collection[str],
) -> FloatFile:
    """Convert the operators of the folded float graph, with a batch of one.

    Args:
        lowered: the model.
        input_shapes: for each input of the graph its shape without the batch axis.
        replaced: the layers whose weights every target replaces.

    Returns:
        The file, with a signature key for each tensor.

    Raises:
        ModelError: a layer cannot compute at these sizes, or TensorFlow's converter refuses an
            operator.
    """
    graph = lowered.graph
    held = _variables_in_float(lowered)
    stand_ins = _stand_ins(graph, replaced)
    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=f"r{position:05d}")
        for position, (name, spec) in enumerate(tensor_specs(lowered, input_shapes).items())
    }
    read = [name for name in graph.tensors if name in graph.inputs or graph.consumers[name]]
    read_keys = {name: specs[name].name for name in read}
    written_keys = {
        name: f"w{position:05d}"
        for position, name in enumerate(graph.tensors)
        if name not in graph.inputs
    }

    @tf.function(input_signature=[specs[name] for name in read], autograph=False)
    def operators(*tensors):
        values, found = dict(zip(read, tensors, strict=True)), {}
        with _as_constants(held):
            for node in graph.nodes:
                arguments = [values[name] for name in node.inputs]
                if node.name in replaced:
                    node = _with_stand_ins(node, stand_ins.get(node.name))
                results = run_node(node, lowered.runs.get(node.name), arguments)
                found.update(
                    {written_keys[n]: r for n, r in zip(node.outputs, results, strict=True)}
                )
        return found

    function = operators.get_concrete_function()
    # Saving the whole model beside the function can fail at open sizes; what it needs of it are
    # the variables of layers of tf_keras.
    owner = tf.Module()
    owner.variables_of_layers = function.variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], trackable_obj=owner)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        # The converter prints to stdout, which belongs to results.
        with contextlib.redirect_stdout(sys.stderr):
            data = converter.convert()
    except Exception as error:
        raise ModelError(
            f"The model must convert to TensorFlow Lite. Received: {lowered.model.name!r}, which "
            f"TFLiteConverter refuses: {str(error).strip().splitlines()[-1]}. Replace the "
            "operation that it names."
        ) from error
    return FloatFile(
        data=bytes(data),
        read_keys=read_keys,
        written_keys=written_keys,
        input_names=graph.inputs,
        output_names=lowered.trace.output_names,
        stand_ins=stand_ins,
    )


def _with_stand_ins(node: Node, kernel: float | None) -> Node:
    """A layer whose weights will be replaced, as it is converted."""
    if not node.bias.any():
        # Without a bias, the converter fuses no activation into a transposed convolution.
        node = dataclasses.replace(node, bias=np.ones_like(node.bias))
    if kernel is None:
        return node
    return dataclasses.replace(node, kernel=tf.constant(kernel, shape=node.kernel.shape))


def _stand_ins(graph: LayerGraph, replaced: Collection[str]) -> dict[str, float]:
    """A number of its own for each large kernel, so that no two constants are the same."""
    return {
        node.name: float(position)
        for position, node in enumerate(graph.nodes, start=1)
        if node.name in replaced and node.kernel.size >= LARGE_KERNEL
    }


def _variables_in_float(lowered: LoweredModel) -> list[tuple[keras.Variable, np.ndarray]]:
    """The variables of layers whose weights the graph does not hold, with their values."""
    return [
        (variable, keras.ops.convert_to_numpy(variable))
        for call in lowered.trace.calls
        if call.name in lowered.runs and isinstance(call.operation, keras.layers.Layer)
        for variable in call.operation.variables
    ]


@contextlib.contextmanager
def _as_constants(held: list[tuple[keras.Variable, np.ndarray]]):
    """While it lasts, these variables read as constants of the graph that is traced."""
    mapping = [(variable, tf.constant(value)) for variable, value in held]
    with keras.StatelessScope(state_mapping=mapping):
        yield
