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
import re
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tflite_ptq4.errors import ModelError, OutputError
from tflite_ptq4.float_file import FloatFile
from tflite_ptq4.graph import LayerGraph, Node
from tflite_ptq4.keras_side.execution import run_node
from tflite_ptq4.keras_side.lowering import LoweredModel
from tflite_ptq4.keras_side.tensor_specs import tensor_specs

_MISSING_OPERATORS = re.compile(r"^(?:TF Select|Custom) ops: (.+)$", re.MULTILINE)

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
        OutputError: there is no space for the converter's temporary files.
    """
    graph = lowered.graph
    specs = tensor_specs(lowered, input_shapes)
    conversion = _Conversion(lowered, specs, replaced)
    try:
        data = conversion.of(graph.nodes)
    except OutputError:
        raise
    except Exception as error:
        raise ModelError(_refusal(conversion, graph.nodes, error)) from error
    return FloatFile(
        data=data,
        read_keys={key: name for (_, name), key in conversion.read_keys.items()},
        written_keys=conversion.written_keys,
        input_names=graph.inputs,
        output_names=lowered.trace.output_names,
        stand_ins=conversion.stand_ins,
    )


class _Conversion:
    """What is converted, and the keys of its tensors in the signature.

    Attributes:
        read_keys: of (operator, tensor) for each tensor that an operator reads; of ("", tensor) for
            an input of the graph that none reads.
        written_keys: of each tensor that an operator writes.
        stand_ins: as in `FloatFile`.
    """

    def __init__(
        self,
        lowered: LoweredModel,
        specs: Mapping[str, tf.TensorSpec],
        replaced: Collection[str],
    ) -> None:
        graph = lowered.graph
        self.written_keys = {
            name: f"w{position:05d}"
            for position, name in enumerate(graph.tensors)
            if name not in graph.inputs
        }
        self.read_keys = {read: f"r{place:05d}" for place, read in enumerate(_reads(graph))}
        self.stand_ins = _stand_ins(graph, replaced)
        self._lowered, self._specs, self._replaced = lowered, specs, replaced
        self._held = _variables_in_float(lowered)

    def of(self, nodes: Sequence[Node]) -> bytes:
        """The flatbuffer of some of the operators."""
        names = {"", *(node.name for node in nodes)}
        keys = {read: key for read, key in self.read_keys.items() if read[0] in names}
        signature = [
            tf.TensorSpec(self._specs[name].shape, self._specs[name].dtype, name=key)
            for (_, name), key in keys.items()
        ]

        @tf.function(input_signature=signature, autograph=False)
        def operators(*tensors):
            values = dict(zip(keys, tensors, strict=True))
            with _as_constants(self._held):
                return {key: value for node in nodes for key, value in self._run(node, values)}

        return _converted(operators.get_concrete_function())

    def _run(self, node: Node, values: Mapping[tuple[str, str], object]) -> list[tuple]:
        """Key and value of each tensor that an operator writes."""
        arguments = [values[node.name, name] for name in node.inputs]
        keys = [self.written_keys[name] for name in node.outputs]
        run = self._lowered.runs.get(node.name)
        if node.name in self._replaced:
            node = _with_stand_ins(node, self.stand_ins.get(node.name))
        return list(zip(keys, run_node(node, run, arguments), strict=True))


def _converted(function) -> bytes:
    """A function of TensorFlow as a flatbuffer."""
    # Saving the whole model beside the function can fail at open sizes; what it needs of it are
    # the variables of layers of tf_keras.
    owner = tf.Module()
    owner.variables_of_layers = function.variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], trackable_obj=owner)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    # The converter prints to stdout, which belongs to results.
    with contextlib.redirect_stdout(sys.stderr):
        data = bytes(converter.convert())
    # Where it cannot save the function, it silently goes another way, which loses the signature.
    if converter.saved_model_dir is None:
        raise OutputError(
            "TensorFlow's converter must be able to write temporary files. Received: no space in "
            f"{tempfile.gettempdir()!r}, or no right to. Free some, or name another folder by the "
            "environment variable TMPDIR."
        )
    return data


def _refusal(conversion: _Conversion, nodes: Sequence[Node], error: Exception) -> str:
    """Which layers TFLiteConverter refuses, and why: each is tried alone."""
    refused = {}
    for node in nodes:
        if node.kind == "float":
            try:
                conversion.of([node])
            except Exception as reason:
                refused[f"{node.name!r} ({node.layer_type})"] = _why(reason)
    found = "; ".join(f"layer {layer}, {why}" for layer, why in refused.items()) or _why(error)
    return (
        "Every layer must convert to operators of TensorFlow Lite. TFLiteConverter refuses "
        f"{found}. Replace such a layer by others that compute the same."
    )


def _why(error: Exception) -> str:
    missing = _MISSING_OPERATORS.search(str(error))
    if missing:
        return f"which needs {missing[1].strip()} of TensorFlow"
    return f"which fails with: {str(error).strip().splitlines()[0][:300]}"


def _reads(graph: LayerGraph) -> list[tuple[str, str]]:
    """(operator, tensor) for all that operators read, and ("", tensor) for inputs not read."""
    found = dict.fromkeys((node.name, name) for node in graph.nodes for name in node.inputs)
    read = {name for _, name in found}
    return [*found, *(("", name) for name in graph.inputs if name not in read)]


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
