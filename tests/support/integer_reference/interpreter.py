"""Running the operators of a file one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from integer_reference.tensors import OPERATORS, Node, read_tensor

_BUILTIN_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


def run_reference(model_bytes: bytes, inputs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Every tensor of subgraph 0, constants included, by tensor index: see `Reference.run`."""
    return Reference(model_bytes).run(inputs)


class Reference:
    """A .tflite file, read once.

    Args:
        model_bytes: the file.
    """

    def __init__(self, model_bytes: bytes) -> None:
        model = schema.ModelT.InitFromPackedBuf(model_bytes, 0)
        graph = model.subgraphs[0]
        self._inputs = [int(index) for index in graph.inputs]
        self._operators = graph.operators
        self._codes = [
            # Files older than the 127th operator keep the code in the deprecated byte only.
            max(code.builtinCode, code.deprecatedBuiltinCode)
            for code in model.operatorCodes
        ]
        self._tensors = [read_tensor(model, graph, i) for i in range(len(graph.tensors))]
        self._constants = {t.index: t.constant for t in self._tensors if t.constant is not None}

    def run(self, inputs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Every tensor, computed from the inputs.

        Args:
            inputs: one array per graph input, of its dtype; the batch may differ from the file's.

        Returns:
            {tensor index: value}; INT4 constants come unpacked as int8.

        Raises:
            NotImplementedError: an operator, or a mix of dtypes, without a reference.
        """
        values = dict(self._constants)
        for index, value in zip(self._inputs, inputs, strict=True):
            if value.dtype != self._tensors[index].dtype:
                expected = self._tensors[index].dtype
                raise TypeError(f"input {index} must be {expected}, got {value.dtype}")
            values[index] = value
        for node in self._nodes(values):
            values[node.output.index] = self._output(node)
        return values

    def run_each(
        self, inputs: Sequence[np.ndarray], computed: Mapping[int, np.ndarray]
    ) -> dict[int, tuple[str, np.ndarray]]:
        """Every operator by itself, from what another runtime computed for its inputs.

        A difference then belongs to the operator that writes the tensor, and to no other.

        Args:
            inputs: as for `run`.
            computed: the other runtime's tensors by index; what is missing depends on constants
                alone and is computed here.

        Returns:
            {tensor index: (operator, value)} for each tensor of `computed`.
        """
        values = {**self._constants, **dict(zip(self._inputs, inputs, strict=True)), **computed}
        found = {}
        for node in self._nodes(values):
            output = self._output(node)
            if node.output.index in computed:
                found[node.output.index] = (node.name, output)
            else:
                values[node.output.index] = output
        return found

    def _nodes(self, values: Mapping[int, np.ndarray]) -> Iterator[Node]:
        """The operators in their order; a value may be filled in when its operator comes."""
        for entry in self._operators:
            name = _BUILTIN_NAMES[self._codes[entry.opcodeIndex]]
            if name not in OPERATORS:
                raise NotImplementedError(f"operator {name} has no numpy reference")
            if len(entry.outputs) != 1:
                raise NotImplementedError(f"operator {name} has {len(entry.outputs)} outputs")
            inputs = [int(index) for index in entry.inputs]
            yield Node(
                name=name,
                options=entry.builtinOptions,
                inputs=tuple(self._tensors[i] if i >= 0 else None for i in inputs),
                values=tuple(values[i] if i >= 0 else None for i in inputs),
                output=self._tensors[entry.outputs[0]],
            )

    @staticmethod
    def _output(node: Node) -> np.ndarray:
        return OPERATORS[node.name](node).astype(node.output.dtype)
