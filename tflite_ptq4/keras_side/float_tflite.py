"""The float network as a .tflite file in which every tensor of the graph can be found again.

Lowering and fusion are TFLiteConverter's work, one operator of the graph at a time: all of them go
into one conversion, but each reads inputs of its own. So nothing is optimised across operators, and
the file's signature says which of its tensors is which; names in the file are unreliable.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tflite_ptq4.errors import ModelError
from tflite_ptq4.keras_side.execution import run_graph, run_node
from tflite_ptq4.keras_side.lowering import LoweredModel


@dataclass(frozen=True, eq=False)
class FloatFile:
    """A float .tflite of unconnected operators, and the way around in it.

    Attributes:
        data: the flatbuffer.
        read_keys: for each tensor that an operator reads, or the user feeds, its key among the
            inputs of the file's signature.
        written_keys: for each tensor that an operator writes its key among the outputs.
        input_names: for each input of the graph the name that the user knows it by.
        output_names: the same for each output, in the order of the graph's outputs.
    """

    data: bytes
    read_keys: Mapping[str, str]
    written_keys: Mapping[str, str]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def to_float_tflite(lowered: LoweredModel) -> FloatFile:
    """Convert the operators of the folded float graph, with a batch of one.

    Args:
        lowered: the model.

    Returns:
        The file, with a signature key for each tensor.

    Raises:
        ModelError: a spatial size is not fixed, or TensorFlow's converter refuses an operator.
    """
    graph = lowered.graph
    held = _variables_in_float(lowered)
    specs = _tensor_specs(lowered, held)
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
                results = run_node(node, lowered.runs.get(node.name), arguments)
                found.update(
                    {written_keys[n]: r for n, r in zip(node.outputs, results, strict=True)}
                )
        return found

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [operators.get_concrete_function()], trackable_obj=lowered.model
    )
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
        output_names=_output_names(lowered),
    )


def _tensor_specs(lowered: LoweredModel, held: list) -> dict[str, tf.TensorSpec]:
    """Shape and type of every tensor for a batch of one."""
    graph = lowered.graph
    inputs = [tf.TensorSpec(_fixed(name, graph.shapes[name]), tf.float32) for name in graph.inputs]
    found: dict[str, tf.Tensor] = {}

    @tf.function(input_signature=inputs, autograph=False)
    def forward(*tensors):
        named = dict(zip(graph.inputs, tensors, strict=True))
        found.update(named)
        with _as_constants(held):
            for node, _, results in run_graph(lowered, named):
                found.update(zip(node.outputs, results, strict=True))

    forward.get_concrete_function()
    return {
        name: tf.TensorSpec(found[name].shape, found[name].dtype, name=f"r{position:05d}")
        for position, name in enumerate(graph.tensors)
    }


def _output_names(lowered: LoweredModel) -> tuple[str, ...]:
    structure = lowered.trace.structure
    if isinstance(structure, Mapping):
        by_position = {position: str(key) for key, position in structure.items()}
        return tuple(by_position[position] for position in range(len(by_position)))
    count = len(lowered.graph.outputs)
    return tuple(f"output_{position}" for position in range(count))


def _fixed(name: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    if None in shape[1:]:
        raise ModelError(
            f"The size of every input must be fixed for the export. Received: input {name!r} of "
            f"shape {shape}. Build the model on keras.Input of a fixed size and copy the weights."
        )
    return (1, *shape[1:])


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
