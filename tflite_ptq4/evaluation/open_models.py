"""Models that show what they compute inside: what each layer gives, in real numbers.

Of a Keras model these are the tensors that would be in its file: BatchNormalization and ReLU belong
to the layer before. A TFLite model runs in LiteRT with its default kernels, XNNPACK included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_ptq4.converters.flatbuffer_model import parse
from tflite_ptq4.errors import FileFormatError
from tflite_ptq4.input_arrays import filled_batch
from tflite_ptq4.input_shapes import Shape
from tflite_ptq4.keras_side.load_model import input_shapes
from tflite_ptq4.layer_names import last_steps, layers_of_tensors
from tflite_ptq4.litert import (
    interpreter_input_shapes,
    invoke,
    open_interpreter,
    real_values,
)
from tflite_ptq4.tflite_fields import (
    indices,
    operator_name,
    scale_and_zero_point,
    text,
    type_name,
)

if TYPE_CHECKING:
    import keras
    from ai_edge_litert import schema_py_generated as schema

_FLOATS = {"FLOAT32", "FLOAT16"}
_INTEGERS = {"INT8", "UINT8", "INT16"}
_NO_NUMBERS = {"STRING", "RESOURCE", "VARIANT", "COMPLEX64", "COMPLEX128"}


@dataclass(frozen=True)
class OpenTensor:
    """What one layer of a model gives.

    Attributes:
        name: of the tensor in its model.
        layers: names of layers that it can be known by, the most likely one first.
        scale: of an integer tensor, None of another.
        zero_point: of an integer tensor, None of another.
    """

    name: str
    layers: tuple[str, ...]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class OpenModel:
    """A model that can be run and looked into.

    Attributes:
        name: what tables call it.
        input_shapes: for each input its shape without the batch axis, None for a side that may have
            any length.
        tensors: in the order of computation, inputs first.
        outputs: name of each output -> position of its tensor.
        run: for each input images float32 [n, ...], to the values of each tensor, float32
            [n, elements]; None for a tensor that cannot be read.
    """

    name: str
    input_shapes: Mapping[str, Shape]
    tensors: tuple[OpenTensor, ...]
    outputs: Mapping[str, int]
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray | None]]


def open_keras(model: keras.Model, *, name: str) -> OpenModel:
    """Return a Keras model as one that can be looked into.

    Args:
        model: a built functional or Sequential model of Keras 3 or tf_keras.
        name: what tables call it.

    Raises:
        ModelError: the model has no symbolic graph.
    """
    from tflite_ptq4.keras_side.execution import run_primitives
    from tflite_ptq4.keras_side.lowering import lower

    lowered = lower(model)
    graph, taps = lowered.graph, lowered.taps
    ends = {*last_steps(graph.tensors).values(), *graph.outputs}
    tensors = [tensor for tensor in graph.tensors if tensor in ends]
    layers = dict(zip(graph.tensors, layers_of_tensors(graph.tensors), strict=True))
    fixed = model.inputs[0].shape[0]

    def run(images: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        count = len(images[0])
        size = fixed or count
        batches = []
        for start in range(0, count, size):
            batch = [filled_batch(array[start : start + size], size) for array in images]
            values = run_primitives(lowered.primitives, dict(zip(graph.inputs, batch, strict=True)))
            batches.append([_rows(values[taps[tensor]]) for tensor in tensors])
        return [np.concatenate(parts)[:count] for parts in zip(*batches, strict=True)]

    return OpenModel(
        name=name,
        input_shapes=input_shapes(model),
        tensors=tuple(
            OpenTensor(tensor, tuple(dict.fromkeys((taps[tensor], *layers[tensor]))))
            for tensor in tensors
        ),
        outputs={
            key: tensors.index(tensor)
            for key, tensor in zip(lowered.trace.output_names, graph.outputs, strict=True)
        },
        run=run,
    )


def open_tflite(content: bytes, *, name: str, num_threads: int = 2) -> OpenModel:
    """Return the content of a `.tflite` file as a model that can be looked into.

    Only the main graph is opened: not the branches and bodies of control flow.

    Args:
        content: of the file.
        name: what tables and messages call it.
        num_threads: threads of LiteRT.

    Raises:
        FileFormatError: it is not a TFLite file, LiteRT cannot load it, or it gives no numbers.
    """
    interpreter = open_interpreter(content, name, num_threads, keep_all=True)
    file = _File(parse(content))
    outputs = {key: file.quantized(index) for key, index in file.outputs().items()}
    tensors = file.layer_ends(keep=outputs.values())
    outputs = {key: tensors.index(index) for key, index in outputs.items() if index in tensors}
    if not outputs:
        raise FileFormatError(f"{name!r} must answer with numbers, but none of its outputs does.")
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}

    def run(images: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        found: list[list[np.ndarray | None]] = []
        for image in range(len(images[0])):
            invoke(interpreter, name, [array[image : image + 1] for array in images])
            found.append([_read(interpreter, details[index]) for index in tensors])
        return [
            None if any(part is None for part in parts) else np.stack(parts)
            for parts in zip(*found, strict=True)
        ]

    return OpenModel(
        name=name,
        input_shapes=interpreter_input_shapes(interpreter),
        tensors=tuple(file.open_tensor(index) for index in tensors),
        outputs=outputs,
        run=run,
    )


class _File:
    """The main graph of a `.tflite` file."""

    def __init__(self, model: schema.ModelT) -> None:
        self.model, self.graph = model, model.subgraphs[0]
        operators = [
            (operator_name(model, operator), indices(operator.inputs), indices(operator.outputs))
            for operator in self.graph.operators or ()
        ]
        inputs = indices(self.graph.inputs)
        computed = dict.fromkeys(inputs)
        self._dequantizes: dict[int, int] = {}
        quantizes: dict[int, int] = {}
        for operator, reads, writes in operators:
            if computed.keys().isdisjoint(reads):  # a constant, such as weights that are unpacked
                continue
            computed.update(dict.fromkeys(writes))
            if operator == "DEQUANTIZE" and self._is_integer(reads[0]):
                self._dequantizes[writes[0]] = reads[0]
            elif operator == "QUANTIZE" and not self._is_integer(reads[0]):
                quantizes[writes[0]] = reads[0]
        # What is kept in a variable between runs is an answer too.
        computed.update(dict.fromkeys(indices(self.graph.outputs)))
        self._computed = [index for index in computed if index not in self._dequantizes]
        found = layers_of_tensors([self._name(index) for index in self._computed])
        self._layers = dict(zip(self._computed, found, strict=True))
        for index, source in quantizes.items():
            self._layers[index] = self._layers.get(source, self._layers[index])
        self._superseded = set(quantizes.values())

    def quantized(self, index: int) -> int:
        """The integer tensor that a tensor is dequantized from, or the tensor itself."""
        return self._dequantizes.get(index, index)

    def outputs(self) -> dict[str, int]:
        """Name of each output -> its tensor, in the order of `output_0`, `output_1`, ..."""
        signatures = self.model.signatureDefs or ()
        if len(signatures) != 1:
            return {self._name(index): index for index in indices(self.graph.outputs)}
        named = {text(entry.name): int(entry.tensorIndex) for entry in signatures[0].outputs}
        return dict(sorted(named.items(), key=lambda item: (len(item[0]), item[0])))

    def layer_ends(self, keep: Sequence[int]) -> list[int]:
        """The tensors that layers give, and those to keep, in the order of computation."""
        by_name = {self._name(index): index for index in self._computed}
        # Names that two tensors share tell nothing about steps.
        shared = set(self._computed) - set(by_name.values())
        ends = {by_name[name] for name in last_steps(list(by_name)).values()} | shared
        ends = {i for i in ends - self._superseded if self._holds_layer(i)}
        kept = {i for i in keep if type_name(self.graph.tensors[i]) not in _NO_NUMBERS}
        return [index for index in self._computed if index in ends | kept]

    def open_tensor(self, index: int) -> OpenTensor:
        """Name, layers and grid of a tensor."""
        scale = zero_point = None
        if self._is_integer(index):
            scales, zero_points = scale_and_zero_point(self.graph.tensors[index])
            scale, zero_point = float(scales[0]), int(zero_points[0])
        return OpenTensor(self._name(index), self._layers[index], scale, zero_point)

    def _name(self, index: int) -> str:
        return text(self.graph.tensors[index].name)

    def _holds_layer(self, index: int) -> bool:
        return type_name(self.graph.tensors[index]) in _FLOATS or self._is_integer(index)

    def _is_integer(self, index: int) -> bool:
        tensor = self.graph.tensors[index]
        return type_name(tensor) in _INTEGERS and scale_and_zero_point(tensor) is not None


def _read(interpreter: Any, tensor: dict[str, Any]) -> np.ndarray | None:
    try:
        values = interpreter.get_tensor(tensor["index"])
    except ValueError:  # it has no memory, because nothing wrote it
        return None
    return real_values(values, tensor).reshape(-1)


def _rows(value: Any) -> np.ndarray:
    array = np.asarray(value, np.float32)
    return array.reshape(len(array), -1)
