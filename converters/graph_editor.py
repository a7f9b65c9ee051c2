"""Small edits on one TFLite graph: constants, tensors, operators, and dropping what is unused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tflite_ptq4.converters.schema import (
    FIRST_LONG_OPCODE,
    BufferT,
    ModelT,
    OperatorCodeT,
    OperatorT,
    QuantizationParametersT,
    SignatureDefT,
    TensorMapT,
    TensorT,
    TensorType,
)
from tflite_ptq4.numerics.nibbles import unpack_int4
from tflite_ptq4.tflite_fields import constant, operator_number

_DTYPES: dict[int, type] = {
    TensorType.FLOAT32: np.float32,
    TensorType.INT8: np.int8,
    TensorType.INT32: np.int32,
    TensorType.INT64: np.int64,
    TensorType.BOOL: np.bool_,
}
_TYPES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


class GraphEditor:
    """Edits the first subgraph of a model; others, which its operators may call, stay as they are.

    Operators are written anew, in the order of `append`; what nothing refers to in the end is
    dropped by `finish`.
    """

    def __init__(self, model: ModelT) -> None:
        self.model = model
        self.graph = model.subgraphs[0]
        self.operators: list[OperatorT] = []

    @property
    def tensors(self) -> list[TensorT]:
        """The tensors of the graph."""
        return self.graph.tensors

    def builtin_code(self, operator: OperatorT) -> int:
        """The builtin operator code of an operator."""
        return operator_number(self.model, operator)

    def constant(self, index: int) -> NDArray | None:
        """The value of a constant tensor, None for a tensor that is computed."""
        tensor = self.tensors[index]
        data = constant(self.model, tensor)
        if data is None:
            return None
        if tensor.type == TensorType.INT4:
            values = unpack_int4(data, int(np.prod(tensor.shape)))
        elif tensor.type in _DTYPES:
            values = np.frombuffer(data.tobytes(), _DTYPES[tensor.type])
        else:
            return None
        return values.reshape(tensor.shape if tensor.shape is not None else ())

    def add_constant(
        self, name: str, values: NDArray, quantization: QuantizationParametersT | None = None
    ) -> int:
        """Add a constant tensor and return its index.

        Args:
            name: of the tensor.
            values: float32, int8, int32, int64 or bool.
            quantization: its scales, None without.
        """
        index = self.add_tensor(name, values.shape, _TYPES[values.dtype], quantization)
        self.set_data(index, values.tobytes())
        return index

    def set_data(self, index: int, data: bytes) -> None:
        """Give a tensor a buffer of its own with these bytes."""
        self.model.buffers.append(BufferT(data=np.frombuffer(data, dtype=np.uint8)))
        self.tensors[index].buffer = len(self.model.buffers) - 1

    def add_tensor(
        self,
        name: str,
        shape: Sequence[int],
        tensor_type: int,
        quantization: QuantizationParametersT | None = None,
    ) -> int:
        """Add a tensor without data and return its index.

        Args:
            name: of the tensor.
            shape: for one image.
            tensor_type: a `TensorType`.
            quantization: its scales, None without.
        """
        self.tensors.append(
            TensorT(
                shape=np.asarray(shape, dtype=np.int32),
                type=tensor_type,
                buffer=0,
                name=name.encode(),
                quantization=quantization,
                hasRank=True,
            )
        )
        return len(self.tensors) - 1

    def twin(
        self,
        index: int,
        suffix: str,
        tensor_type: int,
        quantization: QuantizationParametersT | None = None,
    ) -> int:
        """Add a tensor of the shape of another one and return its index.

        Args:
            index: of the other one.
            suffix: what is added to its name.
            tensor_type: a `TensorType`.
            quantization: its scales, None without.
        """
        original = self.tensors[index]
        name = f"{original.name.decode()}{suffix}"
        return self.add_tensor(name, original.shape, tensor_type, quantization)

    def new_operator(
        self,
        builtin: int,
        version: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        options_type: int = 0,
        options: object = None,
    ) -> OperatorT:
        """Make an operator, which is written nowhere yet.

        Args:
            builtin: its code.
            version: of the operator.
            inputs: tensors that it reads, -1 for one that is left out.
            outputs: tensors that it writes.
            options_type: a `BuiltinOptions`.
            options: of that type.
        """
        return OperatorT(
            opcodeIndex=self.opcode(builtin, version),
            inputs=np.asarray(inputs, dtype=np.int32),
            outputs=np.asarray(outputs, dtype=np.int32),
            builtinOptionsType=options_type,
            builtinOptions=options,
        )

    def append(
        self, builtin: int, version: int, inputs: Sequence[int], outputs: Sequence[int], **options
    ) -> OperatorT:
        """Write a new operator after those written so far; options as in `new_operator`."""
        operator = self.new_operator(builtin, version, inputs, outputs, **options)
        self.operators.append(operator)
        return operator

    def keep(self, operator: OperatorT, version: int | None = None) -> None:
        """Write an operator of the original graph, with another version where one is given.

        Args:
            operator: of the original graph.
            version: None for its own.
        """
        if version is not None:
            operator.opcodeIndex = self.opcode(self.builtin_code(operator), version)
        self.operators.append(operator)

    def set_interface(self, inputs: Mapping[str, int], outputs: Sequence[tuple[str, int]]) -> None:
        """Name the tensors that the user feeds and gets.

        Args:
            inputs: names and tensors.
            outputs: names and tensors, in the order of the model's outputs.
        """
        self.graph.inputs = np.asarray(list(inputs.values()), dtype=np.int32)
        self.graph.outputs = np.asarray([index for _, index in outputs], dtype=np.int32)
        self.model.metadata, self.model.metadataBuffer = None, None
        self.model.signatureDefs = [
            SignatureDefT(
                inputs=[TensorMapT(name.encode(), index) for name, index in inputs.items()],
                outputs=[TensorMapT(name.encode(), index) for name, index in outputs],
                signatureKey=b"serving_default",
                subgraphIndex=0,
            )
        ]

    def finish(self) -> ModelT:
        """Take the operators written as the graph's, and drop what nothing refers to."""
        self._drop_operators()
        self.graph.operators = self.operators
        self._drop_tensors()
        self._drop_buffers()
        self._drop_opcodes()
        return self.model

    def opcode(self, builtin: int, version: int) -> int:
        """The index of an operator code, added where it is missing.

        Args:
            builtin: the code.
            version: of the operator.
        """
        for index, code in enumerate(self.model.operatorCodes):
            if (code.builtinCode, code.version) == (builtin, version) and not code.customCode:
                return index
        self.model.operatorCodes.append(
            OperatorCodeT(
                deprecatedBuiltinCode=min(builtin, FIRST_LONG_OPCODE),
                version=version,
                builtinCode=builtin,
            )
        )
        return len(self.model.operatorCodes) - 1

    def _drop_operators(self) -> None:
        """Leave out what computes nothing that is read."""
        read = {int(index) for index in self.graph.outputs}
        kept = []
        for operator in reversed(self.operators):
            if any(int(index) in read for index in operator.outputs):
                kept.append(operator)
                read.update(int(index) for index in operator.inputs)
        self.operators = kept[::-1]

    def _drop_tensors(self) -> None:
        used = {int(i) for i in (*self.graph.inputs, *self.graph.outputs)}
        for operator in self.operators:
            used.update(int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0)
        kept = sorted(used)
        place = {old: new for new, old in enumerate(kept)}
        place[-1] = -1  # an optional input that is not there
        self.graph.tensors = [self.tensors[old] for old in kept]

        def moved(indices):
            return np.asarray([place[int(index)] for index in indices], dtype=np.int32)

        self.graph.inputs, self.graph.outputs = moved(self.graph.inputs), moved(self.graph.outputs)
        for operator in self.operators:
            operator.inputs, operator.outputs = moved(operator.inputs), moved(operator.outputs)
        for signature in self.model.signatureDefs:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = place[entry.tensorIndex]

    def _drop_buffers(self) -> None:
        tensors = [tensor for graph in self.model.subgraphs for tensor in graph.tensors]
        # Buffer 0 is the empty one by convention.
        kept = [0, *sorted({tensor.buffer for tensor in tensors} - {0})]
        place = {old: new for new, old in enumerate(kept)}
        self.model.buffers = [self.model.buffers[old] for old in kept]
        for tensor in tensors:
            tensor.buffer = place[tensor.buffer]

    def _drop_opcodes(self) -> None:
        # The other graphs are the bodies of loops, such as a GRU that stays in float has.
        operators = [operator for graph in self.model.subgraphs for operator in graph.operators]
        kept = sorted({operator.opcodeIndex for operator in operators})
        place = {old: new for new, old in enumerate(kept)}
        self.model.operatorCodes = [self.model.operatorCodes[old] for old in kept]
        for operator in operators:
            operator.opcodeIndex = place[operator.opcodeIndex]
