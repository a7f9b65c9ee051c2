"""Shape and type of every tensor of a lowered graph, for inputs of given sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import keras
import tensorflow as tf

from tflite_ptq4.errors import ModelError
from tflite_ptq4.input_shapes import size_text
from tflite_ptq4.keras_side.execution import run_graph
from tflite_ptq4.keras_side.lowering import LoweredModel

_COLOUR = re.compile(r"\x1b\[\d+m")


def tensor_specs(
    lowered: LoweredModel, input_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tf.TensorSpec]:
    """Run the graph on symbolic inputs, a batch of one.

    Args:
        lowered: the model.
        input_shapes: for each input of the graph its shape without the batch axis.

    Returns:
        Shape and type of every tensor, in the order of `lowered.graph.tensors`.

    Raises:
        ModelError: a layer cannot compute at these sizes, or nothing is left of a tensor.
    """
    graph = lowered.graph
    inputs = [tf.TensorSpec((1, *input_shapes[name]), tf.float32) for name in graph.inputs]
    found: dict[str, tf.Tensor] = {}

    @tf.function(input_signature=inputs, autograph=False)
    def forward(*tensors):
        named = dict(zip(graph.inputs, tensors, strict=True))
        found.update(named)
        # In this scope no layer changes its state.
        with keras.StatelessScope():
            for node, _, results in run_graph(lowered, named):
                found.update(zip(node.outputs, results, strict=True))

    try:
        forward.get_concrete_function()
    except (ValueError, TypeError, tf.errors.OpError) as error:
        failed = next(node for node in graph.nodes if node.output not in found)
        what = f"layer {failed.name!r}: {_sentence(error)}"
        raise _refusal(lowered, input_shapes, what) from error
    for name, tensor in found.items():
        if 0 in tensor.shape:
            raise _refusal(
                lowered, input_shapes, f"nothing is left of {name!r}, {size_text(tensor.shape[1:])}"
            )
    return {name: tf.TensorSpec(found[name].shape, found[name].dtype) for name in graph.tensors}


def at_sizes(lowered: LoweredModel, input_shapes: Mapping[str, tuple[int, ...]]) -> LoweredModel:
    """A model that takes any size, with the shapes of its tensors at one of them.

    What the model itself takes stays in `trace.input_shapes`.

    Args:
        lowered: the model.
        input_shapes: for each input of the graph its shape without the batch axis.

    Raises:
        ModelError: a layer cannot compute at these sizes.
    """
    graph = lowered.graph
    # Some layers give an open shape to inputs of one size: an EinsumDense may.
    if not any(None in graph.shapes[name][1:] for name in graph.tensors):
        return lowered
    specs = tensor_specs(lowered, input_shapes)
    shapes = {name: (None, *specs[name].shape[1:]) for name in graph.tensors}
    return replace(lowered, graph=replace(graph, shapes=shapes))


def _sentence(error: Exception) -> str:
    """What an exception says, without the frame and the colours that Keras puts around it."""
    lines = (_COLOUR.sub("", line).strip() for line in str(error).splitlines())
    told = (line for line in lines if line and not line.startswith("Exception encountered"))
    return next(told, type(error).__name__).rstrip(".")


def _refusal(
    lowered: LoweredModel, input_shapes: Mapping[str, tuple[int, ...]], what: str
) -> ModelError:
    sizes = ", ".join(f"{name!r} of {size_text(shape)}" for name, shape in input_shapes.items())
    return ModelError(
        f"Every layer of {lowered.model.name!r} must be able to compute at the sizes of the "
        f"inputs. Received: {sizes}; {what}. Choose other sizes."
    )
