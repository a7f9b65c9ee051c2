"""Any number of images at a time: a file for one image made into a file for n.

In the result, each tensor that depends on the inputs is, for n images, what n runs of one image
give, stacked on the first axis. That holds where every operator commutes with stacking: it leaves
the first axis alone, and no constant says how long that axis is. Where a constant does so and could
leave it open, it is changed; any other operator is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.converters.schema import BuiltinOperator as Op
from tflite_ptq4.converters.schema import ModelT, OperatorT
from tflite_ptq4.errors import TargetError
from tflite_ptq4.graph import LayerGraph
from tflite_ptq4.tflite_fields import OPERATOR_NAMES


def open_batch(model: ModelT, graph: LayerGraph) -> ModelT:
    """Open the batch of a model.

    `interpreter.resize_tensor_input(index, [n, ...])` then sets how many images come at a time. The
    shapes in the file stay those of one image; their signatures say -1.

    Args:
        model: for one image at a time; changed in place.
        graph: the lowered model that it was made from.

    Returns:
        The model.

    Raises:
        TargetError: an operator fixes the batch, or computes across it.
    """
    editor = GraphEditor(model)
    stacked = {int(index) for index in editor.graph.inputs}
    for position, operator in enumerate(editor.graph.operators):
        step = _Step(editor, operator, stacked)
        if stacked.intersection(step.inputs):
            obstacle = _RULES.get(editor.builtin_code(operator), _unknown)(step)
            if obstacle:
                raise _refusal(editor, position, graph, obstacle)
            stacked.update(map(int, operator.outputs))
        editor.keep(operator)
    for output in editor.model.signatureDefs[0].outputs:
        shape = tuple(map(int, editor.tensors[output.tensorIndex].shape))
        if output.tensorIndex not in stacked or shape[0] != 1:
            raise TargetError(
                "Every output must hold one entry for each image of a dynamic batch. Received: "
                f"{output.name.decode()!r}, of shape {shape} for one image. {_ADVICE}"
            )
    for index in stacked:
        tensor = editor.tensors[index]
        tensor.shapeSignature = np.asarray([-1, *tensor.shape[1:]], dtype=np.int32)
    return editor.finish()


_ADVICE = "Leave dynamic_batch (--dynamic-batch) out, or take the layer out of the model."


def _refusal(editor: GraphEditor, position: int, graph: LayerGraph, obstacle: str) -> TargetError:
    operators = editor.graph.operators
    written = [
        editor.tensors[int(index)].name.decode()
        for operator in operators[position:]
        for index in operator.outputs
    ]
    # Operators inside a layer come before the one that writes the layer's own tensor.
    node = next((graph.producer[name] for name in written if name in graph.producer), None)
    layer = f"Layer {node.name!r} ({node.layer_type})" if node else f"Tensor {written[0]!r}"
    return TargetError(
        f"{layer} must treat every image of a dynamic batch by itself. Received: "
        f"{OPERATOR_NAMES[editor.builtin_code(operators[position])]}, {obstacle}. {_ADVICE}"
    )


@dataclass(frozen=True)
class _Step:
    """One operator, with what is stacked before it."""

    editor: GraphEditor
    operator: OperatorT
    stacked: set[int]

    @property
    def inputs(self) -> tuple[int, ...]:
        """The tensors that the operator reads."""
        return tuple(map(int, self.operator.inputs))

    def is_stacked(self, place: int) -> bool:
        """Whether an input depends on the images."""
        return self.inputs[place] in self.stacked

    def shape(self, place: int) -> tuple[int, ...]:
        """The shape of an input for one image."""
        return self._shape(self.inputs[place])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the first output for one image."""
        return self._shape(int(self.operator.outputs[0]))

    def constant(self, place: int) -> np.ndarray | None:
        """The value of an input, None where it is computed."""
        return self.editor.constant(self.inputs[place])

    def replace_constant(self, place: int, values: Iterable[int]) -> None:
        """Give the operator another constant of integers, of its own."""
        name = f"{self.editor.tensors[self.inputs[place]].name.decode()}/any_batch"
        inputs = self.operator.inputs.copy()
        inputs[place] = self.editor.add_constant(name, np.asarray(values, dtype=np.int32))
        self.operator.inputs = inputs

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self.editor.tensors[index].shape
        return () if shape is None else tuple(map(int, shape))


# A rule changes the operator where it must, and returns what stands in the way, None for nothing.
_Rule = Callable[[_Step], str | None]


def _unknown(step: _Step) -> str | None:
    return "which may compute across the batch, or fix it"


def _states_its_output_shape(step: _Step) -> str | None:
    return "whose output shape is a constant with the batch in it"


def _elementwise(step: _Step) -> str | None:
    """One value from one value of each input, which broadcast."""
    rank = len(step.output_shape)
    for place in range(len(step.inputs)):
        shape = step.shape(place)
        if step.is_stacked(place):
            if len(shape) != rank or shape[0] != step.output_shape[0]:
                return "whose inputs do not have the batch as the same axis"
        elif len(shape) == rank and shape[0] != 1:
            return "with a constant for every entry of the first axis"
    return None


def _row_by_row(step: _Step) -> str | None:
    """Only the first input depends on the images, and no value meets one of another row."""
    if len(step.shape(0)) < 2:
        return "over the batch"
    if not step.is_stacked(0) or any(step.is_stacked(p) for p in range(1, len(step.inputs))):
        return "whose other inputs depend on the images"
    return None


def _along(axes: Callable[[_Step], object], *, new_axis: bool = False) -> _Rule:
    """Values of one row meet along given axes, which must not be the first.

    Args:
        axes: the axis or axes, counted from either end; None where they are computed.
        new_axis: whether the axis is one of the output that the inputs do not have.
    """

    def rule(step: _Step) -> str | None:
        found = axes(step)
        stacked = [place for place in range(len(step.inputs)) if step.is_stacked(place)]
        rank = len(step.shape(stacked[0])) + new_axis
        if found is None or any(axis % rank == 0 for axis in np.atleast_1d(found)):
            return "along the batch"
        return None

    return rule


def _joined(step: _Step) -> str | None:
    """Several inputs, all of which depend on the images, joined along an axis."""
    if not all(step.is_stacked(place) for place in range(len(step.inputs))):
        return "with a part that does not depend on the images"
    new_axis = step.editor.builtin_code(step.operator) == Op.PACK
    return _along(lambda step: step.operator.builtinOptions.axis, new_axis=new_axis)(step)


def _matrix_products(step: _Step) -> str | None:
    """A product for each entry of the leading axes, which the inputs share."""
    first = {step.shape(place)[0] for place in (0, 1) if len(step.shape(place)) > 2}
    if not (step.is_stacked(0) and step.is_stacked(1)) or first != {step.output_shape[0]}:
        return "of tensors that do not share the batch"
    return None


def _reshape(step: _Step) -> str | None:
    """The first axis takes what the others leave."""
    shape = step.output_shape
    if not shape or step.constant(1) is None:
        return "to a shape that has no place for the batch"
    step.replace_constant(1, (-1, *shape[1:]))
    # The shape is said twice, and the constant counts.
    step.operator.builtinOptionsType, step.operator.builtinOptions = 0, None
    return None


def _transpose(step: _Step) -> str | None:
    order = step.constant(1)
    return "that moves the batch" if order is None or order[0] != 0 else None


def _pad(step: _Step) -> str | None:
    paddings = step.constant(1)
    return "of the batch" if paddings is None or paddings[0].any() else None


def _tile(step: _Step) -> str | None:
    repeats = step.constant(1)
    return "of the batch" if repeats is None or repeats[0] != 1 else None


def _slice(step: _Step) -> str | None:
    begin, size = step.constant(1), step.constant(2)
    if begin is None or size is None or begin[0] != 0 or size[0] not in (-1, step.shape(0)[0]):
        return "of the batch"
    step.replace_constant(2, (-1, *size[1:]))
    return None


def _strided_slice(step: _Step) -> str | None:
    options, (begin, end, stride) = step.operator.builtinOptions, map(step.constant, (1, 2, 3))
    if begin is None or end is None or stride is None:
        return "with computed bounds"
    if options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask & 1:
        return "that removes or adds axes"
    from_start = begin[0] == 0 or options.beginMask & 1
    to_end = end[0] >= step.shape(0)[0] or options.endMask & 1
    if not from_start or not to_end or stride[0] != 1:
        return "of the batch"
    options.beginMask |= 1
    options.endMask |= 1
    return None


def _squeeze(step: _Step) -> str | None:
    axes, rank = step.operator.builtinOptions.squeezeDims, len(step.shape(0))
    # Without a list of axes, every one of length 1 goes, the batch too.
    if axes is None or len(axes) == 0 or any(axis % rank == 0 for axis in axes):
        return "of the batch"
    return None


_RULES: dict[int, _Rule] = {
    **dict.fromkeys(
        (
            *(Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MAXIMUM, Op.MINIMUM, Op.SQUARED_DIFFERENCE),
            *(Op.POW, Op.SELECT_V2, Op.EQUAL, Op.NOT_EQUAL, Op.GREATER, Op.GREATER_EQUAL),
            *(Op.LESS, Op.LESS_EQUAL, Op.LOGICAL_AND, Op.LOGICAL_OR, Op.LOGICAL_NOT),
            *(Op.QUANTIZE, Op.DEQUANTIZE, Op.CAST, Op.ROUND, Op.FLOOR, Op.CEIL),
            *(Op.ABS, Op.NEG, Op.SIGN, Op.SQUARE, Op.SQRT, Op.RSQRT, Op.EXP, Op.LOG),
            *(Op.SIN, Op.COS, Op.TANH, Op.LOGISTIC, Op.RELU, Op.RELU6, Op.RELU_N1_TO_1),
            *(Op.LEAKY_RELU, Op.PRELU, Op.ELU, Op.GELU, Op.HARD_SWISH),
        ),
        _elementwise,
    ),
    **dict.fromkeys(
        (
            *(Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED),
            *(Op.MAX_POOL_2D, Op.AVERAGE_POOL_2D, Op.L2_POOL_2D, Op.LOCAL_RESPONSE_NORMALIZATION),
            *(Op.RESIZE_BILINEAR, Op.RESIZE_NEAREST_NEIGHBOR),
            *(Op.DEPTH_TO_SPACE, Op.SPACE_TO_DEPTH),
            *(Op.SOFTMAX, Op.LOG_SOFTMAX, Op.L2_NORMALIZATION),
        ),
        _row_by_row,
    ),
    **dict.fromkeys(
        (
            *(Op.MEAN, Op.SUM, Op.REDUCE_MAX, Op.REDUCE_MIN, Op.ARG_MAX, Op.ARG_MIN),
            *(Op.CUMSUM, Op.REVERSE_V2),
        ),
        _along(lambda step: step.constant(1)),
    ),
    Op.SPLIT: _along(lambda step: step.constant(0)),
    Op.EXPAND_DIMS: _along(lambda step: step.constant(1), new_axis=True),
    **dict.fromkeys((Op.CONCATENATION, Op.PACK), _joined),
    Op.BATCH_MATMUL: _matrix_products,
    **dict.fromkeys((Op.TRANSPOSE_CONV, Op.BROADCAST_TO), _states_its_output_shape),
    Op.RESHAPE: _reshape,
    Op.SQUEEZE: _squeeze,
    Op.TRANSPOSE: _transpose,
    **dict.fromkeys((Op.PAD, Op.PADV2, Op.MIRROR_PAD), _pad),
    Op.TILE: _tile,
    Op.SLICE: _slice,
    Op.STRIDED_SLICE: _strided_slice,
}
