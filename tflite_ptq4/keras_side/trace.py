"""A Keras model as a flat list of calls: nested models and layers of layers opened.

Keras records every symbolic call of a layer. This module reads that record back from the outputs
to the inputs. Running the calls in order on real tensors repeats the model's own forward pass as
`predict` computes it, and adds no node to the user's layers (only symbolic tensors are recorded).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import keras

from tflite_ptq4.errors import ModelError
from tflite_ptq4.input_arrays import Images, InputStructure, arrays_in_order
from tflite_ptq4.input_shapes import Shape
from tflite_ptq4.keras_side.cloning import clone_operation
from tflite_ptq4.keras_side.opened_layers import lasting_name, opened

Run = Callable[[Sequence], list]

# What TensorFlow takes as a name inside a graph. Keras checks no more than that there is no slash.
_NAME = re.compile(r"[A-Za-z0-9_.\\/>-]*")


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one layer or operation.

    Attributes:
        name: unique in the trace; parts of nested models carry the path, "backbone/conv1".
        operation: the Keras layer or operation.
        inputs: names of the tensors that are its arguments.
        input_shapes: shape of each input.
        input_types: type of each input in the user's model, such as "float32".
        outputs: names of the tensors that it gives.
        shapes: shape of each output.
        constants: the arguments that are no tensors of the graph.
        run: list of tensors in, list of tensors out.
        repeat: given a layer of any framework, the same call of it.
        run_on_clone: given a name, the same run on a copy of the layer, for symbolic tensors: a
            call of the user's own layer would be recorded in the user's model.
    """

    name: str
    operation: keras.Operation
    inputs: tuple[str, ...]
    input_shapes: tuple[tuple[int | None, ...], ...]
    input_types: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    constants: tuple[object, ...]
    run: Run
    repeat: Callable[[Callable], Run]
    run_on_clone: Callable[[str], Run]


@dataclass(frozen=True, eq=False)
class Trace:
    """The calls of a model in the order of execution.

    Attributes:
        calls: every tensor is written before it is read.
        inputs: names of the model's inputs, in the order of `model.inputs`.
        input_shapes: their shapes, the batch axis first.
        input_structure: the nested structure of the model's inputs, with the name of each.
        outputs: names of the tensors that the model returns, flattened.
        structure: the nested structure of the model's outputs, with the position of each tensor.
    """

    calls: tuple[Call, ...]
    inputs: tuple[str, ...]
    input_shapes: tuple[tuple[int | None, ...], ...]
    input_structure: InputStructure
    outputs: tuple[str, ...]
    structure: object

    @property
    def image_shapes(self) -> dict[str, Shape]:
        """For each input its shape without the batch axis."""
        return {n: shape[1:] for n, shape in zip(self.inputs, self.input_shapes, strict=True)}

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs in order: the keys of a dict, or output_0, output_1, ..."""
        if isinstance(self.structure, Mapping):
            by_position = {position: str(key) for key, position in self.structure.items()}
            return tuple(by_position[position] for position in range(len(by_position)))
        return tuple(f"output_{position}" for position in range(len(self.outputs)))

    def unpack(self, images: object) -> tuple[Images, ...]:
        """Take the images of each input, in order, out of what the model takes.

        Raises:
            DataError: as `input_arrays.arrays_in_order`.
        """
        return arrays_in_order(images, self.image_shapes, self.input_structure)

    def pack(self, outputs: Sequence) -> object:
        """Put the flat outputs into the structure that the model returns."""
        return keras.tree.map_structure(lambda position: outputs[position], self.structure)


def is_functional(operation: object) -> bool:
    """Whether a Keras object is a model whose symbolic graph can be read."""
    if not isinstance(operation, keras.Model) or not operation.built:
        return False
    # A subclass with its own `call` may compute anything, whatever its graph says.
    if type(operation).call.__module__.partition(".")[0] != "keras":
        return False
    try:
        outputs = operation.outputs
    except (AttributeError, ValueError):
        return False
    return bool(outputs) and all(hasattr(tensor, "_keras_history") for tensor in outputs)


def trace(model: keras.Model) -> Trace:
    """Read the calls of a functional or Sequential model, nested models included.

    Args:
        model: a built Keras 3 model.

    Returns:
        The calls in the order of execution.

    Raises:
        ModelError: the model is no Keras 3 model, is not built, has no symbolic graph (subclassed
            with its own `call`), or has a layer whose name TensorFlow does not take.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(
            f"`model` must be a keras.Model (Keras 3). Received: {type(model).__module__}."
            f"{type(model).__name__}. Load or build it with the `keras` package."
        )
    if not is_functional(model):
        state = "computes by its own `call`" if model.built else "is not built"
        raise ModelError(
            f"`model` must be a built functional or Sequential model. Received: {model.name!r} "
            f"({type(model).__name__}), which {state}. Call it on a keras.Input and wrap the "
            "result: keras.Model(inputs, outputs)."
        )
    tracer = _Tracer()
    inputs = [tracer.new_tensor(tensor.name) for tensor in model.inputs]
    outputs = tracer.open_model(model, inputs, prefix="")
    return Trace(
        calls=tuple(tracer.calls),
        inputs=tuple(inputs),
        input_shapes=tuple(tuple(tensor.shape) for tensor in model.inputs),
        input_structure=_structure(model, "input", inputs),
        outputs=tuple(outputs),
        structure=_structure(model, "output", range(len(outputs))),
    )


def _structure(model: keras.Model, side: str, leaves: Sequence) -> object:
    """The nested structure of a model's inputs or outputs, with a leaf for each tensor."""
    # A Sequential model has one tensor at either side, and no `output` before it is first called.
    if isinstance(model, keras.Sequential):
        (structure,) = leaves
        return structure
    following = iter(leaves)
    structure = keras.tree.map_structure(lambda _: next(following), getattr(model, side))
    # As the model's `call` does, hand out a list of one tensor as the tensor.
    if isinstance(structure, list | tuple) and len(structure) == 1:
        (structure,) = structure
    return structure


class _Tracer:
    """Collects calls while models are opened one inside the other."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._names: set[str] = set()

    def new_tensor(self, wish: str) -> str:
        """A name that no tensor or call has yet, `wish` itself where it is free."""
        name, count = wish, 1
        while name in self._names:
            count += 1
            name = f"{wish}_call{count}"
        self._names.add(name)
        return name

    def open_model(
        self,
        model: keras.Model,
        inputs: list[str],
        prefix: str,
        name_of: Callable[[keras.Operation], str] = attrgetter("name"),
    ) -> list[str]:
        """Add the calls inside `model`, given the names that its inputs have outside."""
        names = {id(tensor): name for tensor, name in zip(model.inputs, inputs, strict=True)}
        for node in _nodes_in_order(model):
            arguments = [names[id(tensor)] for tensor in node.input_tensors]
            path = f"{prefix}{name_of(node.operation)}"
            _check_name(node.operation)
            if is_functional(node.operation):
                results = self.open_model(node.operation, arguments, f"{path}/", name_of)
            else:
                with opened(node.operation, node) as inner:
                    if inner is None:
                        results = self._add_call(node, path, arguments)
                    else:
                        results = self.open_model(inner, arguments, f"{path}/", lasting_name)
            for tensor, result in zip(node.outputs, results, strict=True):
                names[id(tensor)] = result
        return [names[id(tensor)] for tensor in model.outputs]

    def _add_call(self, node, wish: str, arguments: list[str]) -> list[str]:
        """Add one call; return the names of what it gives."""
        name = self.new_tensor(wish)
        extra = [self.new_tensor(f"{name}:{i}") for i in range(1, len(node.outputs))]
        self.calls.append(
            Call(
                name=name,
                operation=node.operation,
                inputs=tuple(arguments),
                input_shapes=tuple(tuple(tensor.shape) for tensor in node.input_tensors),
                input_types=tuple(tensor.dtype for tensor in node.input_tensors),
                outputs=(name, *extra),
                shapes=tuple(tuple(tensor.shape) for tensor in node.outputs),
                constants=_constants(node),
                run=_repeat_call(node, node.operation),
                repeat=partial(_repeat_call, node),
                run_on_clone=lambda name: _repeat_call(node, clone_operation(node.operation, name)),
            )
        )
        return [name, *extra]


def _check_name(operation: keras.Operation) -> None:
    if not _NAME.fullmatch(operation.name):
        raise ModelError(
            "The name of a layer must be of the letters A to Z, digits, and the characters _ . - "
            "alone: a model with any other in a name can be built and saved, but not run by "
            f"`predict`. Received: {operation.name!r} ({type(operation).__name__}). Load it with "
            "Keras, set the layer's `name`, and save it again."
        )


def _nodes_in_order(model: keras.Model) -> list:
    """The recorded calls between a model's inputs and outputs, each after what it reads."""
    known = {id(tensor) for tensor in model.inputs}
    ordered: list = []
    stack = [(tensor, False) for tensor in reversed(model.outputs)]
    while stack:
        tensor, ready = stack.pop()
        if id(tensor) in known:
            continue
        operation, node_index, _ = tensor._keras_history
        node = operation._inbound_nodes[node_index]
        if ready:
            ordered.append(node)
            known.update(id(output) for output in node.outputs)
        else:
            stack.append((tensor, True))
            stack.extend((argument, False) for argument in reversed(node.input_tensors))
    return ordered


def _constants(node) -> tuple[object, ...]:
    leaves = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    return tuple(leaf for leaf in leaves if not isinstance(leaf, keras.KerasTensor))


def _repeat_call(node, operation: Callable) -> Run:
    """A function that repeats a recorded call, of `operation`, on other tensors."""
    arguments = node.arguments
    # Augmenting layers are recorded with training=True; at inference Keras overrules any such wish.
    inference = {"training": False} if "training" in arguments.kwargs else {}

    def run(values: Sequence) -> list:
        by_id = {id(t): value for t, value in zip(node.input_tensors, values, strict=True)}
        args, kwargs = arguments.fill_in(by_id)
        return keras.tree.flatten(operation(*args, **{**kwargs, **inference}))

    return run
