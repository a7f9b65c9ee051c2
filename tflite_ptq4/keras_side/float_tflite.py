"""The float network as a .tflite file in which every tensor of the graph can be found again.

Lowering and fusion are TFLiteConverter's work. It is given the folded graph with every tensor as an
output, so that the file itself says which of its tensors is which; names in the file are unreliable.
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
from tflite_ptq4.keras_side.execution import run_graph
from tflite_ptq4.keras_side.lowering import LoweredModel


@dataclass(frozen=True, eq=False)
class FloatFile:
    """A float .tflite and the way around in it.

    Attributes:
        data: the flatbuffer; its outputs are all tensors of the graph, not the model's own.
        keys: for each tensor of the graph its key in the file's signature.
        input_names: for each input of the graph the name that the user knows it by.
        output_names: the same for each output, in the order of the graph's outputs.
    """

    data: bytes
    keys: Mapping[str, str]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def to_float_tflite(lowered: LoweredModel) -> FloatFile:
    """Convert the folded float graph, with a batch of one.

    Args:
        lowered: the model.

    Returns:
        The file, with a signature key for each tensor.

    Raises:
        ModelError: a spatial size is not fixed, or TensorFlow's converter refuses the model.
    """
    graph = lowered.graph
    specs = [
        tf.TensorSpec(_fixed(name, graph.shapes[name]), tf.float32, name=f"i{position:05d}")
        for position, name in enumerate(graph.inputs)
    ]
    keys = {name: f"i{position:05d}" for position, name in enumerate(graph.inputs)}
    tensors = graph.tensors[len(graph.inputs) :]
    keys.update({name: f"t{position:05d}" for position, name in enumerate(tensors)})

    held = _variables_in_float(lowered)

    @tf.function(input_signature=specs, autograph=False)
    def forward(*inputs):
        found = {}
        with _as_constants(held):
            for node, _, results in run_graph(lowered, dict(zip(graph.inputs, inputs, strict=True))):
                found.update({keys[n]: r for n, r in zip(node.outputs, results, strict=True)})
        return found

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [forward.get_concrete_function()], trackable_obj=lowered.model
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
        keys=keys,
        input_names=graph.inputs,
        output_names=_output_names(lowered),
    )


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
